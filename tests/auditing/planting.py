"""Healthy networks of nine families, small and without downloads, and ways to plant a defect into one unit."""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath import build


class Do(nn.Module):
    """A function as a module."""

    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        """The function of x."""
        return self.what(x)


class Head(nn.Module):
    """A backbone and the mean of its outputs under a classifier, as language models have none."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out = self.body(x)
        return self.head(getattr(out, "last_hidden_state", out).mean(1))  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A network, where its units and their parts are, and what an audit of it says as it is.

    `block` and `others` are modules whose output is the sum of a unit; `ends` the last layer of the same unit's branch,
    `norm` the layer at its head; `sum` the unit's name; `shortcut` puts a module on its h.
    """

    model: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    block: str
    ends: str
    norm: str
    unit: str
    shortcut: Callable[[nn.Module, nn.Module], None]
    final_norm: str = ""
    head: str
    width: int
    notes: frozenset[str] = frozenset()
    """Codes of the notes that the healthy network gets."""


def images(side: int) -> Callable[[], Tensor]:
    """Four of them."""
    return lambda: torch.randn(4, 3, side, side)


def tokens() -> Tensor:
    """Four sentences."""
    return torch.randint(0, 50, (4, 12))


def replace_at(model: nn.Module, path: str, new: Callable[[nn.Module], nn.Module]) -> None:
    """Put what `new` makes of a module in its place."""
    parent, _, name = path.rpartition(".")
    home = model.get_submodule(parent)
    setattr(home, name, new(home.get_submodule(name)))


def behind(model: nn.Module, path: str, what: Callable[[Tensor], Tensor]) -> None:
    """Do something to a module's output, which may be the first of several."""

    def hook(_: nn.Module, __: Any, out: Any) -> Any:
        return (what(out[0]), *out[1:]) if isinstance(out, tuple) else what(out)

    model.get_submodule(path).register_forward_hook(hook)


def attribute(name: str) -> Callable[[nn.Module, nn.Module], None]:
    """A block that has a place for its shortcut."""

    def put(block: nn.Module, h: nn.Module) -> None:
        setattr(block, name, h)

    return put


def written(forward: Callable[..., Any]) -> Callable[[nn.Module, nn.Module], None]:
    """A block whose forward is written anew, with h on its first shortcut."""

    def put(block: nn.Module, h: nn.Module) -> None:
        block.h = h
        block.forward = types.MethodType(forward, block)

    return put


def _vit(self: Any, x: Tensor, **_: Any) -> Tensor:
    x = self.h(x) + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


def _mixer(self: Any, x: Tensor) -> Tensor:
    x = self.h(x) + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
    return x + self.mlp_channels(self.norm2(x))  # type: ignore[no-any-return]


def _encoder(self: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    x = self.h(x) + self._sa_block(self.norm1(x), None, None)
    return x + self._ff_block(self.norm2(x))  # type: ignore[no-any-return]


def _gpt2(self: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    x = self.h(x) + self.attn(self.ln_1(x))[0]
    return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


def _llama(self: Any, x: Tensor, **given: Any) -> Tensor:
    known = {name: given[name] for name in ("position_embeddings", "attention_mask") if name in given}
    x = self.h(x) + self.self_attn(hidden_states=self.input_layernorm(x), **known)[0]
    return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


def _timm(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=10, **settings)

    return made


def _mlp_mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    model = MlpMixer(num_classes=10, img_size=64, patch_size=16, num_blocks=4, embed_dim=32)
    nn.init.normal_(
        model.get_parameter("head.weight"), std=0.1
    )  # timm starts it at zero, and no gradient reaches a unit
    return model


def _resnet18() -> nn.Module:
    from cleanpath.targets import resolve

    return resolve("torchvision:resnet18").module


def _hf_gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(
        n_embd=32,
        n_layer=4,
        n_head=2,
        vocab_size=50,
        n_positions=32,
        initializer_range=0.3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return Head(GPT2Model(config), 32)


def _hf_llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        vocab_size=50,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return Head(LlamaModel(config), 32)


def _pre_ln() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, norm_first=True)
    body = nn.TransformerEncoder(layer, 4, norm=nn.LayerNorm(32), enable_nested_tensor=False)
    return Head(nn.Sequential(nn.Embedding(50, 32), body), 32)


FAMILIES: Mapping[str, Family] = {
    "preresnet20": Family(
        model=lambda: build("preresnet20", width=8),
        inputs=images(16),
        block="stages.stage2.unit2",
        ends="stages.stage2.unit2.branch.conv2",
        norm="stages.stage2.unit2.branch.norm1",
        unit="stages.stage2.unit2",
        shortcut=attribute("shortcut"),
        final_norm="head.activation.norm",
        head="head.linear",
        width=16,
    ),
    "torchvision-resnet18": Family(
        model=_resnet18,
        inputs=images(32),
        block="layer2.1",
        ends="layer2.1.bn2",
        norm="",
        unit="layer2.1",
        shortcut=attribute("downsample"),
        head="fc",
        width=128,
        notes=frozenset({"CP201"}),
    ),
    "timm-resnetv2": Family(
        model=_timm("resnetv2_18"),
        inputs=images(64),
        block="stages.1.blocks.1",
        ends="stages.1.blocks.1.conv2",
        norm="stages.1.blocks.1.norm1",
        unit="stages.1.blocks.1",
        shortcut=attribute("downsample"),
        final_norm="norm",
        head="head.fc",
        width=128,
    ),
    "timm-convnext": Family(
        model=_timm("convnext_atto", depths=(2, 2, 3, 2), dims=(16, 24, 32, 40), ls_init_value=None),
        inputs=images(64),
        block="stages.2.blocks.1",
        ends="stages.2.blocks.1.mlp.fc2",
        norm="",
        unit="stages.2.blocks.1",
        shortcut=attribute("shortcut"),
        head="head.fc",
        width=32,
    ),
    "timm-vit": Family(
        model=_timm("vit_tiny_patch16_224", img_size=64, depth=4, embed_dim=48, num_heads=3),
        inputs=images(64),
        block="blocks.2",
        ends="blocks.2.mlp.fc2",
        norm="blocks.2.norm2",
        unit="blocks.2.mlp",
        shortcut=written(_vit),
        final_norm="norm",
        head="head",
        width=48,
    ),
    "timm-mixer": Family(
        model=_mlp_mixer,
        inputs=images(64),
        block="blocks.2",
        ends="blocks.2.mlp_channels.fc2",
        norm="blocks.2.norm2",
        unit="blocks.2.mlp_channels",
        shortcut=written(_mixer),
        final_norm="norm",
        head="head",
        width=32,
    ),
    "transformers-gpt2": Family(
        model=_hf_gpt2,
        inputs=tokens,
        block="body.h.2",
        ends="body.h.2.mlp.c_proj",
        norm="body.h.2.ln_2",
        unit="body.h.2.mlp",
        shortcut=written(_gpt2),
        final_norm="body.ln_f",
        head="head",
        width=32,
    ),
    "transformers-llama": Family(
        model=_hf_llama,
        inputs=tokens,
        block="body.layers.2",
        ends="body.layers.2.mlp.down_proj",
        norm="body.layers.2.post_attention_layernorm",
        unit="body.layers.2.mlp",
        shortcut=written(_llama),
        final_norm="body.norm",
        head="head",
        width=32,
    ),
    "torch-pre-ln": Family(
        model=_pre_ln,
        inputs=tokens,
        block="body.1.layers.2",
        ends="body.1.layers.2.linear2",
        norm="body.1.layers.2.norm2",
        unit="body.1.layers.2",
        shortcut=written(_encoder),
        final_norm="body.1.norm",
        head="head",
        width=32,
    ),
}
