"""A transformers configuration made small by rules over its fields; no model is known by name.

    widths ÷ divisor    heads, kernels and ratios stay, so that every product and every concatenation still fits;
                        or the heads are fewer and keep their width, for positions that share it out
    layers → 4          lists per layer are cut to one of each kind, layer indices keep their relative depth
    vocabulary → 512    token ids beyond it move to its end, each to its own place

A configuration that does not build or run at one step is tried at the next, gentler one.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib import import_module
from typing import Any, TypeGuard

_WIDTH = re.compile(
    r"(hidden|embed|embedding|pooler_output|out_hidden|model|inner|intermediate|inter|ffn?|mlp|proj(ection)?|codevector|"
    r"output|bottleneck|adapter|backbone|neck|fpn|head|latent)s?_(size|sizes|dim|dims)$|"
    r"^(d_model|d_ff|d_kv|d_inner|dff|dim|dims|n_embd|n_inner|conv_dims?|rotary_dim|embed_dim|width|widths|head_dim)$|"
    r"_(dim|dims|rank|d_head|head_size|channels|filters|width)$|^(out_channels|channels|in_channels|key_dim|embed_dims)$|"
    r"(hidden|inner|feature|channel|embedding)_?(size|dim|sizes|dims)(_per_layer_input)?$"
)
_HEAD_WIDTH = re.compile(r"head_(dim|size)$|_d_head$|^d_kv$|^rotary_dim$|^key_dim$")
_HEADS = re.compile(r"(^|_)(attention_|key_value_|kv_|num_|n_)heads?$|^num_heads$")
_NO_WIDTH = re.compile(
    r"vocab|patch_size|patch_dim|image_|window|kernel|chunk|block_size|codebook|pool_size|bins|num_|max_|crop|tile|grid|stride|"
    r"audio_channels|input_dim|state_dim|act_dim|feature_size|query_dim|mel|_ratio|visual_feat|visual_pos|frequency_emb|"
    r"box_dim|point|time_|subsampling"
)
_LAYERS = re.compile(
    r"^(n|num|encoder|decoder)_layers?$|hidden_layers$|(encoder|decoder|block|transformer|conformer|mtp|resampler|depth|"
    r"attention_num|fuser_num|adapter|perceiver|self|cross|c|r|l|x|mamba|text|speech|qformer|t2u_encoder|t2u_decoder)_layers$|"
    r"^depths?$|^(num_|n_)?layers$|^num_blocks$|_depth$|^iou_head_depth$|layer_blocks$|stage_num_blocks|layer_repeats"
)
_NO_LAYERS = re.compile(r"feat_extract|max_depth|expan|bit_depth|encoder_blocks")
_INDEX = re.compile(
    r"ind(ex|ices|exes)$|_indexes$|index_?list|layer_ids?$|feature_layers?$|shared_layers$|window_layers$|^first_k"
)
_EXPERTS = re.compile(r"^(n|num|moe_num|num_local|n_routed|num_routed|moe_n)_(local_|routed_)?experts$")
_CHOSEN = re.compile(
    r"experts_per_tok(en)?$|^moe_(k|topk|top_k)$|^top_k_experts$|_top_k$|^topk$|^num_selected_experts$"
)
_POSITIONS = re.compile(
    r"position_embeddings$|^(n_positions|n_ctx|max_seq_len|max_sequence_length|max_(source|target|text)_positions)$"
)
_TOKEN = re.compile(r"token_(id|index|idx)s?$|_idx$|^(pad|bos|eos|unk|mask)_(index|token)$|token_ids$")


@dataclass(frozen=True)
class Step:
    """How far a configuration is shrunk; 1 or None leave a kind of field as it is."""

    divisor: int
    layers: int | None
    patches: int | None = None
    vocabulary: int | None = None
    fewer_heads: bool = False


STEPS = (
    Step(16, 4, patches=8, vocabulary=512),
    Step(16, 4, vocabulary=512),
    Step(4, 4, patches=8, vocabulary=512, fewer_heads=True),
    Step(8, 4, patches=8, vocabulary=512),
    Step(8, 4, vocabulary=512),
    Step(4, 4, vocabulary=512),
    Step(1, 4, patches=8, vocabulary=512),
    Step(8, 4),
    Step(16, None, vocabulary=512),
    Step(1, 4),
    Step(1, None),
)
# Fields that a model needs and that default to None, or that change what an audit sees.
_SET = {"use_cache": False}
_FILLED = {"prediction_length": 8, "context_length": 32}


@dataclass
class _Cut:
    """One walk over a configuration and its parts: token ids keep their identity across them."""

    step: Step
    places: dict[int, int] = field(default_factory=dict)

    def token(self, value: int) -> int:
        size = self.step.vocabulary
        if size is None or value < size:
            return value
        return self.places.setdefault(value, size - 1 - len(self.places))


def arguments(config_class: type, step: Step) -> dict[str, Any]:
    """Keyword arguments that build the small configuration of a class; none at the gentlest step."""
    if step == STEPS[-1]:
        return {}
    return _arguments(config_class, _Cut(step), {})


def described(config_class: type, step: Step) -> str:
    """What a step changes in a configuration, in words."""
    text = str(arguments(config_class, step))
    said = [f"{'widths and heads' if step.fewer_heads else 'widths'} ÷{step.divisor}"] if step.divisor > 1 else []
    said += [f"at most {step.layers} layers"] if step.layers else []
    said += [f"vocabulary {step.vocabulary}"] if step.vocabulary and "vocab_size" in text else []
    said += [f"{step.patches}×{step.patches} patches"] if step.patches and "image_size" in text else []
    return ", ".join(said) or "nothing"


def _arguments(config_class: type, cut: _Cut, given: Mapping[str, Any]) -> dict[str, Any]:
    declared = {**_defaults(config_class), **given}
    parts = _parts(config_class)
    standard = {own: general for general, own in getattr(config_class, "attribute_map", {}).items()}
    depth = _depth(declared, standard)
    found: dict[str, Any] = dict(given)
    for name, value in declared.items():
        if name in parts or name.startswith("_"):
            continue
        smaller = _smaller(name, standard.get(name, name), value, depth, cut)
        if smaller is not value and smaller != value:
            found[name] = smaller
    _shrink_images(declared, found, cut.step)
    _shrink_routing(declared, found, cut.step)
    _fit_heads({**declared, **found}, found, standard)
    found.update({name: value for name, value in _SET.items() if name in declared})
    found.update({name: value for name, value in _FILLED.items() if name in declared and declared[name] is None})
    for name, (part, preset) in parts.items():
        found[name] = {"model_type": part.model_type, **_arguments(part, cut, preset)}
    return found


def _defaults(config_class: type) -> dict[str, Any]:
    found = {}
    for one in fields(config_class):
        if one.default is not MISSING:
            found[one.name] = one.default
        elif one.default_factory is not MISSING:
            found[one.name] = one.default_factory()
    return found


def _parts(config_class: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Sub-configurations that are always there: field, class, and what it is preset with."""
    transformers: Any = import_module("transformers")

    found = {}
    for name, part in getattr(config_class, "sub_configs_defaults", {}).items():
        own = part.config_class
        if not (isinstance(own, type) and issubclass(own, transformers.PreTrainedConfig)):
            if part.model_type not in transformers.CONFIG_MAPPING:
                continue
            own = transformers.CONFIG_MAPPING[part.model_type]
        if not part.optional:
            found[name] = (own, dict(part.init_kwargs))
    return found


def _depth(declared: Mapping[str, Any], standard: Mapping[str, str]) -> int:
    """How many layers there are before shrinking; 0 if the configuration does not say."""
    counts = [
        value
        for name, value in declared.items()
        if _is_count(value) and (_LAYERS.search(name) or standard.get(name) == "num_hidden_layers")
    ]
    return max(counts, default=0)


def _smaller(name: str, general: str, value: Any, depth: int, cut: _Cut) -> Any:  # noqa: PLR0911 (one rule per line)
    step = cut.step
    if _TOKEN.search(name):
        return _each(value, cut.token)
    if re.search(r"vocab(_size|$)", name) and _is_count(value):
        return min(value, step.vocabulary or value)
    if step.fewer_heads and _HEADS.search(name):
        return _each(value, lambda count: max(1, count // step.divisor))
    if step.fewer_heads and _HEAD_WIDTH.search(name):
        return value
    if general == "hidden_size" or (_WIDTH.search(name) and not _NO_WIDTH.search(name)):
        return _each(value, lambda width: width // step.divisor if width >= 16 and width % step.divisor == 0 else width)
    if _POSITIONS.search(name) and step.divisor > 1:
        return _each(value, lambda count: min(count, 1024))
    if step.layers is None:
        return value
    if _INDEX.search(name) and depth > step.layers:
        cap = step.layers
        return _each(value, lambda index: index * cap // depth if index > cap // 2 else index)
    if (_LAYERS.search(name) or general == "num_hidden_layers") and not _NO_LAYERS.search(name):
        most = step.layers if _is_count(value) else 2
        return _each(value, lambda count: min(count, most))
    if isinstance(value, list | tuple) and len(value) == depth > step.layers:
        return type(value)(value[index] for index in _one_of_each(value, step.layers))
    if isinstance(value, dict):
        return {key: _section(key, part, step) for key, part in value.items()}
    return value


def _section(key: str, value: Any, step: Step) -> Any:
    """Rotary sections share out half of a head's width."""
    if (
        not step.fewer_heads
        and "section" in key
        and isinstance(value, list | tuple)
        and all(part % step.divisor == 0 for part in value)
    ):
        return [part // step.divisor for part in value]
    return value


def _one_of_each(kinds: Any, count: int) -> list[int]:
    """Positions of the first of each kind, filled up from the start."""
    firsts = [index for index, kind in enumerate(kinds) if kind not in kinds[:index]][:count]
    others = [index for index in range(len(kinds)) if index not in firsts]
    return sorted(firsts + others[: count - len(firsts)])


def _shrink_images(declared: Mapping[str, Any], found: dict[str, Any], step: Step) -> None:
    side, patch = declared.get("image_size"), declared.get("patch_size")
    if step.patches is None or not _is_count(side):
        return
    if _is_count(patch):
        found["image_size"] = min(side, patch * step.patches)
    elif patch is None:
        found["image_size"] = min(side, 64)


def _shrink_routing(declared: Mapping[str, Any], found: dict[str, Any], step: Step) -> None:
    """Few experts, of which fewer are chosen; groups of experts stay at least two strong."""
    if step.layers is None or step.divisor == 1:
        return
    for name, value in declared.items():
        if _is_count(value) and _EXPERTS.search(name):
            found[name] = min(value, 8)
        elif _is_count(value) and _CHOSEN.search(name):
            found[name] = min(value, 2)
        elif _is_count(value) and name in ("n_group", "num_expert_group", "topk_group"):
            found[name] = min(value, 1 if name == "topk_group" else 2)


def _fit_heads(declared: Mapping[str, Any], found: dict[str, Any], standard: Mapping[str, str]) -> None:
    """Fewer heads where they do not divide the width that they share out."""
    named = {standard.get(name, name): name for name in declared}
    width, heads, keys = (named.get(name, "") for name in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    size, count = declared.get(width), declared.get(heads)
    if declared.get("head_dim") is not None or not (_is_count(size) and _is_count(count) and size and count):
        return
    if size % count:
        found[heads] = math.gcd(size, count)
        if _is_count(declared.get(keys)) and found[heads] % declared[keys]:
            found[keys] = math.gcd(found[heads], declared[keys])


def _each(value: Any, rule: Any) -> Any:
    """A rule on a number, or on each number of a list; booleans, None and text stay."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return rule(value) if value > 0 else value
    if isinstance(value, list | tuple):
        return type(value)(_each(part, rule) for part in value)
    return value


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def walk(config: Any) -> Iterator[Any]:
    """A configuration and, breadth first, the configurations inside it."""
    kind: Any = import_module("transformers").PreTrainedConfig
    waiting = [config]
    while waiting:
        one = waiting.pop(0)
        yield one
        waiting += [part for part in vars(one).values() if isinstance(part, kind)]


def special_tokens(config: Any) -> set[int]:
    """The ids that a configuration gives a meaning to: padding, images, the end of a text."""
    found: set[int] = set()
    for one in walk(config):
        for name, value in vars(one).items():
            if _TOKEN.search(name):
                found |= {part for part in (value if isinstance(value, list | tuple) else [value]) if _is_count(part)}
    return found


def vocabulary(config: Any) -> int:
    """The least vocabulary that a configuration and its parts declare; 2 where none does."""
    sizes = [
        value
        for one in walk(config)
        for name, value in vars(one).items()
        if name.endswith("vocab_size") and not name.startswith("type_") and _is_count(value) and value > 1
    ]
    return min(sizes, default=2)


def side(value: Any, default: int) -> tuple[int, int]:
    """Height and width of whatever form a size takes: 224, [224, 224], {"height": 224, "width": 224}."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple) and value:
        return int(value[0]), int(value[-1])
    if isinstance(value, int | float) and math.isfinite(value) and value > 0:
        return int(value), int(value)
    return default, default
