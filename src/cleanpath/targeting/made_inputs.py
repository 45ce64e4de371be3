"""Inputs for a transformers model, made up from its forward's parameter names and its configuration.

Each parameter name has a few forms that it may take (an image, a clip, a row of patches); the first combination that
passes the model is taken. The generator alone decides the numbers.
"""

import inspect
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.targeting import small_configs

TOKENS = 64
_FRAMES = 64
_SAMPLES = 8000
_MODALITIES = ("input_ids", "pixel_values", "pixel_values_videos", "input_features", "input_values", "past_values")
_IDS = re.compile(r"ids$|tokens$|codes$|_index$|^labels$|timesteps$|inputs$")
_IMAGES = re.compile(r"^(pixel_values|images?|pixel_values_images|high_res_pixel_values|vision_pixel_values|x)$")
_GRIDS = re.compile(r"grid_(thw|hws?|ths)$|^image_sizes$|spatial_shapes$")
_STATES = re.compile(r"embeds$|states?$|latents$|embeddings?$|features$|tensor$")
Named = dict[str, Tensor]


class Maker:
    """What a model could be called with, most telling first."""

    def __init__(self, model: nn.Module, config: Any, generator: torch.Generator) -> None:
        self.model, self.config, self.generator = model, config, generator
        self.parameters = {
            name: parameter
            for name, parameter in inspect.signature(model.forward).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }
        special = small_configs.special_tokens(config)
        size = small_configs.vocabulary(config)
        self.plain = [token for token in range(min(size, 100_000)) if token not in special] or [0]

    def combinations(self) -> Iterator[tuple[int, Named]]:
        """Keyword inputs to try, in order, each with its rank: 0 has every modality that the forward names."""
        seen: list[frozenset[str]] = []
        for names in self._name_sets():
            if frozenset(names) in seen:
                continue
            rank = len(seen)
            seen.append(frozenset(names))
            forms = [self._forms(name) for name in names]
            for chosen in itertools.islice(itertools.product(*forms), 12):
                made: Named = {}
                for form in chosen:
                    made = {**form, **made}  # what a form brings along goes before a form of its own
                yield rank, self._with_places(made)

    def _name_sets(self) -> Iterator[list[str]]:
        required = [name for name, parameter in self.parameters.items() if parameter.default is parameter.empty]
        main = getattr(self.model, "main_input_name", "input_ids")
        mains = [name for name in ([main] if isinstance(main, str) else list(main)) if name in self.parameters]
        decoder = [name for name in ("decoder_input_ids",) if name in self.parameters]
        there = [name for name in _MODALITIES if name in self.parameters]
        if "pixel_values" in there and "pixel_values_videos" in there:
            there.remove("pixel_values_videos")
        for base in (
            there,
            mains,
            ["input_ids"],
            ["pixel_values"],
            [*mains, "encoder_hidden_states"],
            ["inputs_embeds"],
            [],
        ):
            names = [*required, *mains, *base] if base is there else [*required, *base]
            names = [name for name in dict.fromkeys([*names, *decoder]) if name in self.parameters]
            if names:
                yield names

    def _forms(self, name: str) -> list[Named]:  # noqa: C901, PLR0911, PLR0912 (one kind of input per branch)
        if _IMAGES.search(name):
            return self._images(name)
        if name == "pixel_values_videos":
            return self._videos(name)
        if name == "input_features" or "mel" in name or "spectrogram" in name:
            return self._features(name)
        if name in ("input_values", "audio_values", "audio", "waveform"):
            return self._sound(name)
        if name == "past_values":
            return self._series()
        if name == "bbox":
            return [{name: torch.tensor([[[1, 2, 3, 4]]]).repeat(1, TOKENS, 1)}, {name: self._floats(1, TOKENS, 8)}]
        if name == "flattened_patches":
            return [{name: self._flattened_patches()}]
        if name == "visual_feats":
            return [{name: self._floats(1, 4, self._find("visual_feat_dim", default=32))}]
        if name == "visual_pos":
            return [{name: self._floats(1, 4, 4).sigmoid()}]
        if name.endswith("mask"):
            return [{name: torch.ones(1, TOKENS, dtype=torch.int64)}]
        if name == "task_inputs":
            return [{name: self._ids(1, self._find("task_seq_len", default=TOKENS))}]
        if _GRIDS.search(name):
            return [{name: torch.tensor([[1, 4, 4]])}, {name: torch.tensor([[4, 4]])}]
        if name.endswith("position_ids"):
            return [{name: torch.arange(TOKENS).unsqueeze(0)}]
        if _STATES.search(name) or name in ("hidden_states", "queries"):
            return self._states(name)
        if _IDS.search(name) or "Long" in str(self.parameters[name].annotation):
            books = self._find("num_codebooks", "n_codes_total", "num_quantizers", default=4)
            return [{name: self._ids(1, TOKENS)}, {name: self._ids(1, books, TOKENS)}, {name: self._ids(books, TOKENS)}]
        return [{name: self._floats(1, TOKENS, width)} for width in self._widths()]

    def _states(self, name: str) -> list[Named]:
        patches = self._patches(name) if any(_GRIDS.search(other) for other in self.parameters) else []
        rows = [{name: self._floats(1, TOKENS, width)} for width in self._widths()]
        side = math.isqrt(TOKENS)
        return [*patches, *rows, {name: self._floats(1, self._widths()[0], side, side)}]

    def _entry(self) -> int:
        """What the first layer of the module takes; 1 if there is none."""
        layers = (one for one in self.model.modules() if isinstance(one, nn.Linear | nn.Conv1d))
        first = next(layers, None)
        return first.in_features if isinstance(first, nn.Linear) else first.in_channels if first is not None else 1

    def _widths(self) -> list[int]:
        keys = ("hidden_size", "d_model", "embed_dim", "input_dim", "feature_size", "encoder_hidden_size")
        found = [value for key in keys for value in [getattr(self.config, key, None)] if isinstance(value, int)]
        return (
            [*dict.fromkeys([*found, self._entry()])] if found else [self._find("hidden_size", "d_model", default=32)]
        )

    def _images(self, name: str) -> list[Named]:
        channels = self._find("num_channels", "in_channels", "in_chans", "num_image_channels", default=3)
        channels = channels if isinstance(channels, int) else 3
        sizes = [small_configs.side(self._find("image_size", "img_size", "input_size"), 64)]
        sizes += [(64, 64), (224, 224)] if self._find("image_size", "img_size") is None else []
        images = [{name: self._floats(1, channels, *size)} for size in sizes]
        stacked = [{name: image[name].unsqueeze(1)} for image in images[:1]]
        frames = self._find("num_frames", "frames_per_clip", default=0)
        clips = (
            [{name: images[0][name].unsqueeze(1).repeat(1, frames, 1, 1, 1)}]
            if isinstance(frames, int) and frames
            else []
        )
        if any(_GRIDS.search(other) for other in self.parameters):
            return [*self._patches(name), *images, *stacked]
        return [*clips, *images, *stacked]

    def _videos(self, name: str) -> list[Named]:
        frames = self._find("num_frames", "frames_per_clip", "temporal_patch_size", default=4)
        frames = frames if isinstance(frames, int) and frames > 1 else 4
        size = small_configs.side(self._find("image_size", "img_size", "crop_size"), 64)
        return [{name: self._floats(1, frames, 3, *size)}, {name: self._floats(1, 3, frames, *size)}]

    def _patches(self, name: str) -> list[Named]:
        """Patches of one image as rows, with the grid that they come from under the model's own name for it."""
        patch = small_configs.side(self._find("patch_size"), 14)
        time = self._find("temporal_patch_size", default=1)
        channels = self._find("in_channels", "in_chans", "num_channels", default=3)
        grid = next((other for other in self.parameters if _GRIDS.search(other) and "video" not in other), None)
        if grid is None or not isinstance(time, int) or not isinstance(channels, int):
            return []
        rows = math.prod((channels, time, *patch))
        side = 2 * max(2, self._find("spatial_merge_size", default=2))
        thw, hw = torch.tensor([[1, side, side]]), torch.tensor([[side, side]])
        forms = [
            {name: self._floats(side * side, rows), grid: thw},
            {name: self._floats(side * side, channels, *patch), grid: hw},
            {name: self._floats(1, side * side, rows), grid: hw},
            {name: self._floats(side * side, rows // time), grid: thw},
            {name: self._floats(side * side, 2 * rows // time), grid: thw},
        ]
        return forms if "thw" in grid else [*forms[1:3], forms[0]]

    def _features(self, name: str) -> list[Named]:
        bins = self._find(
            "num_mel_bins", "input_feat_per_channel", "feature_size", "n_mels", "feat_dim", "mel_bins", default=80
        )
        bins = self._find("feature_projection_input_dim", "input_dim", default=bins)
        most = self._find("max_source_positions", default=0)
        forms: list[Named] = [{name: self._floats(1, bins, 2 * most)}] if most else []
        spectrum = self._find("spec_size", default=0)
        forms += [{name: self._floats(1, 1, 4 * spectrum, bins)}] if spectrum else []
        forms += [{name: self._floats(1, frames, bins)} for frames in (_FRAMES, 200)]
        forms += [{name: self._floats(1, _FRAMES, self._entry())}]
        forms += [{name: self._floats(1, bins, frames)} for frames in (_FRAMES, 200)]
        for mask in ("attention_mask", "input_features_mask", "feature_attention_mask", "padding_mask"):
            if mask in self.parameters and "input_ids" not in self.parameters:
                masked = [{**form, mask: torch.ones(1, form[name].shape[-2], dtype=torch.int64)} for form in forms]
                return [*forms, *masked]
        return forms

    def _sound(self, name: str) -> list[Named]:
        length, bins = self._find("max_length", default=0), self._find("num_mel_bins", default=0)
        spectrum: list[Named] = [{name: self._floats(1, length, bins)}] if length > 1 and bins else []
        return [*spectrum, {name: self._floats(1, _SAMPLES)}, {name: self._floats(1, 1, _SAMPLES)}]

    def _series(self) -> list[Named]:
        """Past values of a series, with the companions that its model asks for."""
        length, ahead = self._find("context_length", default=32), self._find("prediction_length", default=8)
        lags = self._find("lags_sequence", default=[0])
        past = length + (max(lags) if lags and "past_time_features" in self.parameters else 0)
        times = self._find("num_time_features", default=1)
        channels = self._find("num_input_channels", "input_size", default=1)
        one: Named = {"past_values": self._floats(1, past)}
        many: Named = {"past_values": self._floats(1, past, channels)}
        companions: Named = {
            "past_time_features": self._floats(1, past, times),
            "past_observed_mask": torch.ones(1, past),
            "future_values": self._floats(1, ahead),
            "future_time_features": self._floats(1, ahead, times),
        }
        with_time = {name: value for name, value in companions.items() if name in self.parameters}
        return (
            [many, one, {**one, **with_time}] if "past_time_features" not in self.parameters else [{**one, **with_time}]
        )

    def _flattened_patches(self) -> Tensor:
        patch = small_configs.side(self._find("patch_size"), 16)
        values = self._floats(1, TOKENS, 3 * patch[0] * patch[1])
        side = math.isqrt(TOKENS)
        places = torch.cartesian_prod(torch.arange(1, side + 1), torch.arange(1, side + 1)).float()
        return torch.cat([places.unsqueeze(0), values], dim=-1)

    def _with_places(self, made: Named) -> Named:
        """Put a placeholder token into the text for every feature that an image or a sound becomes."""
        if "input_ids" not in made or len(made) == 1:
            return made
        ids = made["input_ids"]
        kinds_of_token = torch.zeros_like(ids)
        rows = (("image", 1, ("pixel_values",)), ("audio", 3, ("input_features", "input_values")))
        for kind, number, names in rows:
            token = self._find(f"{kind}_token_id", f"{kind}_token_index", default=None)
            given = next((name for name in names if name in made), None)
            getter = getattr(self.model, f"get_{kind}_features", None)
            if token is None or given is None or getter is None or ids.dim() != 2:
                continue
            count = _features_of(getter, made)
            if count:
                ids = torch.cat([ids[:, :2], torch.full((1, count), token), ids[:, 2:]], dim=1)
                marks = torch.full((1, count), number)
                kinds_of_token = torch.cat([kinds_of_token[:, :2], marks, kinds_of_token[:, 2:]], dim=1)
        if ids.shape != made["input_ids"].shape:
            masks = {name: torch.ones_like(ids) for name in made if name.endswith("attention_mask")}
            kinds = {"mm_token_type_ids": kinds_of_token} if "mm_token_type_ids" in self.parameters else {}
            return {**made, **masks, **kinds, "input_ids": ids}
        return made

    def _find(self, *names: str, default: Any = None) -> Any:
        """The first of these attributes that the configuration or a part of it has."""
        for one in small_configs.walk(self.config):
            for name in names:
                value = getattr(one, name, None)
                if value is not None:
                    return value
        return default

    def _floats(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def _ids(self, *shape: int) -> Tensor:
        places = torch.randint(len(self.plain), shape, generator=self.generator)
        return torch.tensor(self.plain)[places]


def _features_of(getter: Any, made: Mapping[str, Tensor]) -> int:
    """How many features the model itself makes of an image or a sound; 0 if it does not say."""
    wanted = inspect.signature(getter).parameters
    given = {name: value for name, value in made.items() if name in wanted and name != "input_ids"}
    try:
        with torch.no_grad():
            found = getter(**given)
    except Exception:  # noqa: BLE001 (foreign code: the attempt without placeholders follows)
        return 0
    found = getattr(found, "pooler_output", None) if hasattr(found, "last_hidden_state") else found
    if isinstance(found, Tensor):
        return math.prod(found.shape[:-1])
    if isinstance(found, list | tuple) and all(isinstance(part, Tensor) for part in found):
        return sum(math.prod(part.shape[:-1]) for part in found)
    return 0
