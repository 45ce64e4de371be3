"""How many photographs a second one process makes ready: read, cut, coloured, normalised.

    python -m benchmarks.photo_preparation    rewrites results/photo-preparation.json

JPEGs of 500×375 pixels, as ImageNet's are at the median, and of 4000×3000, as a telephone's, made of noise over slow
waves; each way of training and the test's middle, to 224×224. "Whole" decodes every pixel of the file first, as a
loader without JPEG's scaled decoding does; the ratio is what that saves. Alternating rounds, medians.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.figures import keep
from cleanpath.data import photographs
from cleanpath.data.decode import decoded
from cleanpath.data.photographs import BORDER, MEAN, STD, USUAL, WAYS, OnDisk
from cleanpath.data.preparation import Preparation

ROUNDS = 5
SIZES = ((500, 375, 64), (4000, 3000, 6))
"""Width, height, and how many files."""


def main() -> None:
    """Measure, print."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    rows = list[dict[str, Any]]()
    for width, height, count in SIZES:
        with tempfile.TemporaryDirectory() as name:
            paths = tuple(photograph(Path(name) / f"{at}.jpg", at, width, height) for at in range(count))
            rows += _measured(f"{width}×{height}", paths)
    keep("photo-preparation", 1, {"rows": rows, "rounds": ROUNDS})


def _measured(size: str, paths: tuple[str, ...]) -> list[dict[str, Any]]:
    """Images a second, whole and not, and the ratio."""
    speeds: dict[tuple[str | None, bool], list[float]] = {}
    for _ in range(ROUNDS):
        for way in (*WAYS, None):
            for whole in (False, True):
                photographs.decoded = _whole if whole else decoded  # type: ignore[attr-defined]
                speeds.setdefault((way, whole), []).append(_speed(paths, way))
    rows = list[dict[str, Any]]()
    for way in (*WAYS, None):
        ratios = [one / other for one, other in zip(speeds[way, False], speeds[way, True], strict=True)]
        ours, others = (statistics.median(speeds[way, whole]) for whole in (False, True))
        one = {"size": size, "way": way or "the middle, as tested", "speed": ours, "whole": others}
        rows.append({**one, "ratio": statistics.median(ratios)})
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    return rows


def _whole(path: Path, side: int | None = None) -> Image.Image:  # noqa: ARG001
    return decoded(path)


def photograph(path: Path, seed: int, width: int, height: int) -> str:
    """A JPEG of noise over slow waves at that path."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / width
    waves = [127 + 80 * np.sin(generator.uniform(0, 6) + 9 * generator.random() * x + 9 * y) for _ in range(3)]
    noisy = np.stack(waves, axis=-1) + generator.normal(0, 12, (height, width, 3))
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path, quality=90)
    return str(path)


def _speed(paths: tuple[str, ...], way: str | None) -> float:
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    preparation = Preparation(side=USUAL, channels=3, mean=mean, std=std, border=BORDER)
    labels = torch.zeros(len(paths), dtype=torch.int64)
    split = OnDisk(paths=paths, labels=labels, preparation=preparation, way=way)
    make: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor] = split.drawn
    indices = torch.arange(len(paths))
    began = time.perf_counter()
    make(indices, torch.zeros_like(indices), 0)
    return len(paths) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
