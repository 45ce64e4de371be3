"""Forwards as users write them: each is mended, and computes what its mended form, written out by hand, computes."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import cleanpath
from cleanpath.repair.comparing import outputs_of
from cleanpath.repair.rewritten import Rewritten
from cleanpath.repair.saving import save_folder
from tests.test_repair import VECTORS, fixed, same, units_of
from tests.test_repair_capture import read

SEQUENCES = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(2))


class Ways(nn.Module):
    """Units with a ReLU after the sum; what comes before, between and behind them is what is tried."""

    def __init__(self, *, mended: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(8) for _ in range(4))
        self.head, self.aside, self.mended = nn.Linear(8, 3), nn.Linear(8, 3), mended

    def unit(self, place: int, x: Tensor) -> Tensor:
        """One of them."""
        if self.mended:
            branch: Tensor = self.norms[place](self.layers[place](functional.relu(x) if place else x))
            return x + branch
        return functional.relu(x + self.norms[place](self.layers[place](x)))

    def units(self, x: Tensor) -> Tensor:
        """All."""
        for place in range(4):
            x = self.unit(place, x)
        return functional.relu(x) if self.mended else x


class Aside(Ways):
    """In training it gives a second output, and noise goes in."""

    def forward(self, x: Tensor) -> Any:
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
        x = x * torch.tensor(0.5 if self.training else 0.25)
        y = self.units(x)
        return (self.head(y), self.aside(x)) if self.training else self.head(y)


class Sizes(Ways):
    """It makes tensors by sizes alone, counts and slices by them, and writes to a part of what it made."""

    def forward(self, x: Tensor) -> Tensor:
        rows, width = x.shape
        assert len(x.shape) == 2, f"{x.shape} of {tuple(x.shape)}"
        places = torch.arange(width) + torch.zeros(rows, width).sum(0)
        made = torch.ones(rows, width)
        made[:, : width // 2] = 0.5
        for _ in range(width // 4):
            x = x + 0.01 * places * made
        return self.head(self.units(x * int(width**0.5)))  # type: ignore[no-any-return]


class Keywords(Ways):
    """It looks up its input among those without a name of their own."""

    def forward(self, *args: Tensor, **kwargs: Any) -> Any:
        x = kwargs.pop("inputs") if "inputs" in kwargs else args[0]
        y = self.units(x)
        return (self.head(y), y) if kwargs.get("features") else self.head(y)


class Tables(Ways):
    """It takes a table of inputs, some of which are no tensors."""

    def forward(self, given: dict[str, Any]) -> Tensor:
        x, mask = given["pair"]
        if mask is not None:
            x = x * mask
        return self.head(self.units(x)) * given["scale"]  # type: ignore[no-any-return]


class Passing(Ways):
    """It makes layers while it runs, draws noise by size, and looks for what is not finite."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not torch.isfinite(x).all():
            x = torch.nan_to_num(x)
        x = nn.Softmax(dim=-1)(x) + torch.randn(8)
        return self.head(self.units(x))  # type: ignore[no-any-return]


class Attending(nn.Module):
    """The rate of its attention's dropout is 0 in evaluation."""

    def __init__(self, *, mended: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.norms = (
            nn.ModuleList(make() for _ in range(3)) for make in (lambda: nn.Linear(8, 8), lambda: nn.LayerNorm(8))
        )
        self.mended = mended

    def forward(self, x: Tensor) -> Tensor:
        for place, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            y = layer(self.norms[place - 1](x) if self.mended and place else x)
            y = functional.scaled_dot_product_attention(y, y, y, dropout_p=0.2 if self.training else 0.0)
            x = x + y if self.mended else norm(x + y)
        return self.norms[-1](x) if self.mended else x


@pytest.mark.parametrize(
    ("kind", "batch", "code", "units"),
    [
        pytest.param(Aside, VECTORS, "CP201", 3, id="another way in training"),
        pytest.param(Sizes, VECTORS, "CP201", 3, id="sizes"),
        pytest.param(Keywords, {"inputs": VECTORS, "features": True}, "CP201", 3, id="keywords"),
        pytest.param(Keywords, VECTORS, "CP201", 3, id="positions"),
        pytest.param(Tables, {"given": {"pair": (VECTORS, None), "scale": 2.0}}, "CP201", 3, id="no mask"),
        pytest.param(Tables, {"given": {"pair": (VECTORS, torch.ones(8)), "scale": 2.0}}, "CP201", 3, id="mask"),
        pytest.param(Passing, VECTORS, "CP201", 3, id="layers made in passing"),
        pytest.param(Attending, SEQUENCES, "CP202", 2, id="a rate by the mode"),
    ],
)
def test_forward_is_mended_as_by_hand(
    kind: Callable[..., nn.Module], batch: object, code: str, units: int, tmp_path: Path
) -> None:
    found, wanted = fixed(kind(), batch, code), kind(mended=True)
    assert len(units_of(found, code)) == units
    assert found.read == "the whole"
    for training in (True, False):
        mine, other = (copy.deepcopy(one).train(training) for one in (found.model, wanted))
        pairs = zip(outputs_of(mine, batch, 3), outputs_of(other, batch, 3), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    needed = save_folder(found, tmp_path / "folder", batch, title="", version="")
    assert needed == ()


def test_table_of_inputs_is_refused_with_other_values_and_other_keys() -> None:
    again = read(Tables(), {"given": {"pair": (VECTORS, None), "scale": 2.0}})
    again({"pair": (VECTORS[:3], None), "scale": 2.0})
    others: list[dict[str, Any]] = [
        {"pair": (VECTORS, torch.ones(8)), "scale": 2.0},
        {"pair": (VECTORS, None), "scale": 3.0},
        {"pair": (VECTORS, None), "scale": 2.0, "more": 1},
        {"pair": (VECTORS, None, None), "scale": 2.0},
    ]
    for other in others:
        with pytest.raises(ValueError, match="given must be a table of the same kind, as when this network was"):
            again(other)
    other_keyword = read(Keywords(), {"inputs": VECTORS, "features": True})
    with pytest.raises(ValueError, match="kwargs must be a table of the same kind"):
        other_keyword(inputs=VECTORS, features=False)


def test_number_from_a_shape_is_checked_at_every_call() -> None:
    again = read(Sizes().eval(), VECTORS)
    assert again(VECTORS[:2]).shape == (2, 3)
    with pytest.raises(AssertionError, match="a number from a shape in forward was 2 when this network was rewritten"):
        again(torch.randn(2, 16))


def encoder() -> nn.TransformerEncoder:
    torch.manual_seed(0)
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 3)


@pytest.mark.parametrize("padded", [False, True])
def test_post_norm_encoder_of_torch_is_mended(*, padded: bool) -> None:
    padding = torch.arange(5).expand(3, 5) > 3
    batch: Any = {"src": SEQUENCES, "src_key_padding_mask": padding} if padded else SEQUENCES
    model = encoder()
    found = fixed(model, batch, "CP202")
    assert len(units_of(found, "CP202")) == 5
    x, norm = SEQUENCES, None
    for layer in model.layers:
        y = x if norm is None else norm(x)
        more = {"key_padding_mask": padding} if padded else {}
        x = x + layer.self_attn(y, y, y, need_weights=False, **more)[0]
        x = x + layer.linear2(torch.relu(layer.linear1(layer.norm1(x))))
        norm = layer.norm2
    assert norm is not None
    for training in (True, False):
        got = outputs_of(copy.deepcopy(found.model).train(training), batch, 0)[0]
        assert torch.allclose(got, norm(x), atol=1e-5)


def test_post_norm_transformer_of_torch_is_mended_on_both_trunks() -> None:
    torch.manual_seed(0)
    model = nn.Transformer(8, 2, 2, 2, 16, 0.0, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    found = fixed(model, {"src": SEQUENCES, "tgt": SEQUENCES, "tgt_mask": mask}, "CP202")
    assert len(units_of(found, "CP202")) == 8
    assert "CP202" not in {finding.code for finding in found.after.findings}


def test_dropout_that_is_taken_off_is_not_called_any_more() -> None:
    class Dropped(Ways):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.3)

        def forward(self, x: Tensor) -> Tensor:
            for layer, norm in zip(self.layers, self.norms, strict=True):
                x = self.drop(x) + layer(functional.relu(norm(x)))
            return self.head(functional.relu(x))  # type: ignore[no-any-return]

    found = fixed(Dropped(), VECTORS, "CP103")
    assert len(units_of(found, "CP103")) == 4
    assert isinstance(found.model, Rewritten)
    assert "drop" not in found.model.source.text


class Blended(Ways):
    """A factor on the shortcut that is part of a blend."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            y = layer(functional.relu(norm(x)))
            x = torch.lerp(x, y, 0.4) if self.how == "lerp" else x + y * 0.4
        return self.head(functional.relu(x))  # type: ignore[no-any-return]


def test_blend_of_shortcut_and_branch_becomes_a_sum() -> None:
    found = fixed(Blended("lerp"), VECTORS, "CP102")
    assert len(units_of(found, "CP102")) == 4
    assert torch.equal(found.model.eval()(VECTORS), Blended("").eval()(VECTORS))


def test_rows_of_a_tensor_are_followed_and_counted_at_every_call() -> None:
    class Rows(Ways):
        def forward(self, x: Tensor) -> Tensor:
            first, second = torch.stack([x, 2 * x])
            for row in self.head.weight:
                first = first + row
            return self.head(self.units(first + second)[: len(x)])  # type: ignore[no-any-return]

    again = read(Rows(), VECTORS)
    assert torch.equal(again.eval()(VECTORS), Rows().eval()(VECTORS))
    with pytest.raises(AssertionError, match="a number from a shape in forward was 6"):
        again(VECTORS[:3])


def test_hooks_that_collect_hidden_states_are_read_with_the_forward() -> None:
    transformers = pytest.importorskip("transformers")
    names = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    model = transformers.BertModel(transformers.BertConfig(num_hidden_layers=2, vocab_size=50, **names))
    ids = torch.randint(0, 50, (2, 6), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, output_hidden_states=True)  # installs them
    found = cleanpath.fix(model, {"input_ids": ids}, ["CP202"], unsafe=True)
    assert len(found.changes) == 3


def test_each_module_keeps_its_mode() -> None:
    model = Aside()
    model.norms[1].eval()
    found = fixed(model, VECTORS, "CP201")
    kept = dict(found.model.named_modules())
    assert all(kept[name].training is one.training for name, one in model.named_modules())


class Counting(Ways):
    """It counts in a buffer, in place, or by a new tensor."""

    count: Tensor

    def __init__(self, *, in_place: bool = True, mended: bool = False) -> None:
        super().__init__(mended=mended)
        self.register_buffer("count", torch.zeros(()))
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.in_place:
            self.count += 1
        elif self.training:
            self.count = self.count + 1
        return self.head(self.units(x)) + self.count  # type: ignore[no-any-return]


def test_count_in_a_buffer_goes_on() -> None:
    model = Counting()
    found = fixed(model, VECTORS, "CP201")
    assert len(units_of(found, "CP201")) == 3
    same(found.model, Counting(mended=True), VECTORS)
    found.model.train()(VECTORS)
    assert found.model.state_dict()["count"] == 1
    refused = cleanpath.fix(Counting(in_place=False), VECTORS, ["CP201"], unsafe=True)
    assert "it writes to buffers of its own" in refused.refused[0].reason


def test_operation_in_place_is_seen_by_who_holds_the_same_tensor() -> None:
    class Held(Ways):
        def forward(self, x: Tensor) -> Tensor:
            y = held = self.aside(x)
            size = x.size(0)
            size *= 2
            y += 1
            y /= 2
            y[:, :1] -= size
            y *= 3
            return y + held + self.units(x)[:, :3]  # type: ignore[no-any-return]

    assert torch.equal(read(Held(), VECTORS).eval()(VECTORS), Held().eval()(VECTORS))


def test_ordered_table_of_outputs_is_given_as_such() -> None:
    class Ordered(Ways):
        def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
            return OrderedDict([("out", self.head(self.units(x))), ("aux", self.aside(x))])

    again = read(Ordered(), VECTORS)
    assert type(again(VECTORS)) is OrderedDict
    assert list(again(VECTORS)) == ["out", "aux"]


class Longer(Ways):
    """In training it has a unit more."""

    def forward(self, x: Tensor) -> Any:
        y = self.units(x)
        return (self.head(y), functional.relu(y + self.aside(y))) if self.training else self.head(y)


def test_unit_that_stands_in_training_alone_is_mended_there() -> None:
    model = Longer()
    model.aside = nn.Linear(8, 8)
    found = fixed(model, VECTORS, "CP201")
    assert units_of(found, "CP201") == ["layers.1", "layers.2", "layers.3", "aside"]
    assert "CP201" not in {finding.code for finding in found.after.findings}
