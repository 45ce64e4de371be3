"""Who else is told what happens in a run: TensorBoard, or a callback that a user's file makes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from cleanpath.errors import UserError
from cleanpath.targeting import factories
from cleanpath.training.progress import Callback

TENSORBOARD = "tensorboard"


def callbacks(asked: Sequence[str], folder: Path) -> list[Callback]:
    """What `--log` names, for a run in `folder`. Raises `UserError` for what there is not."""
    return [TensorBoard(folder / TENSORBOARD) if one == TENSORBOARD else _own(one, folder) for one in asked]


class TensorBoard(Callback):
    """Writes every measurement as a scalar; of a run that goes on, what came after its checkpoint is replaced."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("tensorboard is not installed; pip install 'cleanpath[logging]'") from None
        self._make, self._folder = SummaryWriter, folder
        self._writer: Any = None

    def began(self, network: nn.Module, iteration: int) -> None:  # noqa: ARG002
        """Open the log."""
        self._writer = self._make(str(self._folder), purge_step=iteration + 1)

    def measured(self, line: Mapping[str, float | int]) -> None:
        """Add a line's numbers."""
        for name, value in line.items():
            if name not in {"iteration", "epoch", "seconds"}:
                self._writer.add_scalar(name, value, int(line["iteration"]))

    def ended(self) -> None:
        """Close the log."""
        if self._writer is not None:
            self._writer.close()


def _own(asked: str, folder: Path) -> Callback:
    where, colon, name = asked.rpartition(":")
    if not colon:
        raise UserError(f"--log {asked}: give tensorboard, or path/to/file.py:factory")
    made = factories.made(where, name, folder=folder)
    if not isinstance(made, Callback):
        raise UserError(f"{asked}() returned a {type(made).__name__}; a cleanpath.Callback is needed")
    return made
