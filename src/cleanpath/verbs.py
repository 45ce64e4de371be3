"""The verbs of finished runs: evaluate, predict, export, compare. No arithmetic; never imports torch by itself."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cleanpath import options
from cleanpath.errors import UserError
from cleanpath.options import AsJson, Device, KernelChoice, Kernels

RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder.", autocompletion=options.runs)]


class View(StrEnum):
    """How a photograph is tested."""

    middle = "middle"
    large = "large"
    ten = "ten"


class ExportForm(StrEnum):
    """What a network can be exported as."""

    safetensors = "safetensors"
    onnx = "onnx"
    torch_export = "torch-export"


_SUFFIX = {ExportForm.safetensors: ".safetensors", ExportForm.onnx: ".onnx", ExportForm.torch_export: ".pt2"}


def evaluate(
    run: RunFolder,
    data: Annotated[str | None, typer.Option(help="Other data with the same classes; default: the run's own.")] = None,
    view: Annotated[
        View, typer.Option(help="Of photographs: the middle, a large crop (320 for 224), or ten.")
    ] = View.middle,
    device: Device = "auto",
    kernels: KernelChoice = Kernels.auto,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="The confusion matrix as .svg or .png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Test a finished run: error with its interval, per class, confusion, calibration.

    Examples: cleanpath evaluate runs/mine; cleanpath evaluate runs/mine --data folder:photos --picture confusion.png
    """
    from cleanpath import devices, trained
    from cleanpath.report import evaluated

    if picture is not None:
        evaluated.check_picture(picture)
    found = trained.evaluation(trained.trained(run).on(devices.chosen(device), kernels.value), data, view.value)
    options.show(found, as_json, lambda: evaluated.show(found))
    if picture is not None:
        evaluated.draw(found, picture)
        typer.echo(f"picture: {picture}", err=True)


def predict(
    run: RunFolder,
    files: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of them.")],
    most: Annotated[int, typer.Option("--top", min=1, help="How many classes are named.")] = 3,
    device: Device = "auto",
    kernels: KernelChoice = Kernels.auto,
    as_json: AsJson = False,
) -> None:
    """Say which classes a finished run sees in images; exits with 1 if one of them cannot be read.

    Examples: cleanpath predict runs/mine cat.jpg; cleanpath predict runs/mine photos/ --top 5 --json
    """
    from cleanpath import devices, trained
    from cleanpath.report import evaluated

    images = trained.image_files(files)
    if not images:
        raise UserError(f"no files in {', '.join(map(str, files))}")
    here = trained.trained(run).on(devices.chosen(device), kernels.value)
    found = list(trained.predictions(here, images, most))
    data: dict[str, Any] = {"schema": "cleanpath.predictions", "version": 1, "run": run, "predictions": found}
    options.show(data, as_json, lambda: evaluated.show_predictions(found))
    if any("broken" in one for one in found):
        raise typer.Exit(1)


def export(
    run: RunFolder,
    form: Annotated[ExportForm, typer.Option("--format", help="safetensors, onnx or torch-export.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: the run's name below here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a finished run's network for use elsewhere, and compare the file with it on held-out images.

    Examples: cleanpath export runs/mine --format onnx; cleanpath export runs/mine --format safetensors
    """
    from cleanpath import trained

    target = out or Path(f"{Path(run).name}{_SUFFIX[form]}")
    found = trained.export(trained.trained(run), form.value, target)

    def words() -> None:
        norms = f", {found['norms_folded']} BN folded, {found['norms_left']} left" if found["norms_folded"] else ""
        typer.echo(f"{found['file']}: {form.value}, {found['bytes'] / 1e6:.1f} MB{norms}")
        images, largest = found["compared_images"], found["largest_difference"]
        typer.echo(f"opened again: largest difference of the logits on {images} held-out images {largest:.2g}")

    options.show(found, as_json, words)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders.", autocompletion=options.runs)],
    as_json: AsJson = False,
) -> None:
    """Put runs side by side: the settings and the surroundings in which they differ, and what they came to.

    Examples: cleanpath compare runs/a runs/b; cleanpath compare runs/* --json
    """
    from cleanpath.report import compare, terminal

    if len(runs) < 2:
        raise UserError("compare needs at least two run folders; `cleanpath list runs` names them")
    found = compare.compare(runs)
    options.show(found, as_json, lambda: terminal.print_comparison(found))
