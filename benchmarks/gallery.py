"""Audits of well-known families: the page docs/gallery.md and its drawings.

    python -m benchmarks.gallery    audit what the sweep has no profile of; write results/gallery.json, docs/gallery/
    python docs/generate.py         write docs/gallery.md from it

Weights are random and configurations of transformers small, as in the sweep: what is shown is how a network is built
and where it starts, not how it was trained.
"""

import json
import os
import re
import warnings
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.drawings import standalone
from benchmarks.finding_rates import PROFILES, audited, profile_file
from benchmarks.recorded import FOLDER

if TYPE_CHECKING:
    from cleanpath import Profile
    from cleanpath.auditing.values import UnitRow

RESULTS = FOLDER / "gallery.json"
DRAWINGS = Path("docs/gallery")
FAMILIES = (
    ("Convolutional networks", "torchvision:resnet50", "ResNet, He et al. 2016: the original unit"),
    ("Convolutional networks", "timm:resnetv2_18", "ResNet v2, He et al. 2016: the paper's unit"),
    ("Convolutional networks", "timm:regnetx_002", "RegNet, Radosavovic et al. 2020"),
    ("Convolutional networks", "torchvision:mobilenet_v2", "MobileNet v2, Sandler et al. 2018: linear bottlenecks"),
    ("Convolutional networks", "torchvision:efficientnet_b0", "EfficientNet, Tan and Le 2019"),
    ("Convolutional networks", "timm:nf_regnet_b0", "NF-Net's way without norms, Brock et al. 2021"),
    ("Convolutional networks", "torchvision:convnext_tiny", "ConvNeXt, Liu et al. 2022"),
    ("Convolutional networks", "timm:hrnet_w18_small", "HRNet, Wang et al. 2019: several resolutions side by side"),
    ("Convolutional networks", "torchvision:densenet121", "DenseNet, Huang et al. 2017: concatenation, no addition"),
    ("Vision transformers and mixers", "timm:vit_tiny_patch16_224", "ViT, Dosovitskiy et al. 2021"),
    ("Vision transformers and mixers", "timm:cait_xxs24_224", "CaiT, Touvron et al. 2021: a small scale per branch"),
    ("Vision transformers and mixers", "timm:swin_tiny_patch4_window7_224", "Swin, Liu et al. 2021"),
    ("Vision transformers and mixers", "timm:swinv2_tiny_window16_256", "Swin v2: the norm ends the branch"),
    ("Vision transformers and mixers", "timm:mixer_s32_224", "MLP-Mixer, Tolstikhin et al. 2021"),
    ("Vision transformers and mixers", "timm:poolformerv2_s12", "PoolFormer v2, Yu et al. 2022: a learned λ on h"),
    ("Language and speech", "hf:bert", "BERT, Devlin et al. 2019: post-LN"),
    ("Language and speech", "hf:gpt2", "GPT-2, Radford et al. 2019: pre-LN"),
    ("Language and speech", "hf:gptj", "GPT-J, 2021: attention and MLP side by side"),
    ("Language and speech", "hf:llama", "Llama, Touvron et al. 2023: RMSNorm first"),
    ("Language and speech", "hf:gemma2", "Gemma 2, 2024: a norm on both ends of the branch"),
    ("Language and speech", "hf:olmo2", "OLMo 2, 2024: the norm ends the branch"),
    ("Language and speech", "hf:t5", "T5, Raffel et al. 2020: encoder and decoder"),
    ("Language and speech", "hf:mamba", "Mamba, Gu and Dao 2023: state spaces"),
    ("Language and speech", "hf:rwkv", "RWKV, Peng et al. 2023"),
    ("Language and speech", "hf:wav2vec2-bert", "wav2vec 2.0 BERT, 2023: Conformer's half steps"),
    ("Language and speech", "hf:whisper", "Whisper, Radford et al. 2022"),
)


def main() -> None:
    """Write the gallery's data and drawings."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    import_module("torch").set_num_threads(1)
    PROFILES.mkdir(parents=True, exist_ok=True)
    DRAWINGS.mkdir(exist_ok=True)
    from cleanpath import Profile

    entries = []
    for part, target, words in FAMILIES:
        if not profile_file(target).exists():
            print(target, audited(target), flush=True)
        profile = Profile.load(profile_file(target))
        profile = replace(profile, network=replace(profile.network, fresh=True))
        entries.append({"part": part, "target": target, "words": words, **_entry(target, profile)})
    RESULTS.write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(entries)} audits: {RESULTS}, {DRAWINGS}/")


def _entry(target: str, profile: "Profile") -> dict[str, Any]:
    """What the page says of one network; its most common unit is drawn."""
    from cleanpath.report.audit_series import Depth
    from cleanpath.report.drawing import unit_drawing

    said: dict[str, Any] = {
        "verdict": profile.verdict,
        "parameters": profile.network.parameters,
        "findings": [[one.code, one.name, one.severity, one.sentence] for one in profile.findings],
    }
    if not profile.units:
        return said
    unit, count = _most_common(profile)
    name = f"{re.sub(r'[^a-z0-9]+', '-', target.lower())}.svg"
    drawing = unit_drawing(unit, key="unit", title=f"{target}, {unit.name}")
    (DRAWINGS / name).write_text(standalone(drawing), encoding="utf-8")
    depth = Depth(profile)
    return said | {
        "units": len(profile.units),
        "drawing": name,
        "drawn": unit.name,
        "times": count,
        "direct": depth.direct[0] if depth.direct else None,
    }


def _most_common(profile: "Profile") -> tuple["UnitRow", int]:
    """A unit as most are built, and how many are built so; the first of those there are most of."""

    def built(unit: "UnitRow") -> tuple[object, ...]:
        return unit.h.kind, unit.h.operations, unit.branch.operations, unit.f.kind, unit.before

    (kind, count), *_ = Counter(map(built, profile.units)).most_common(1)
    return next(unit for unit in profile.units if built(unit) == kind), count


if __name__ == "__main__":
    main()
