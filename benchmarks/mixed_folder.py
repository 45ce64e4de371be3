"""A folder of real images in mixed formats: trained on, fine-tuned, evaluated, predicted, exported.

    CLEANPATH_DATA=DIR python -m benchmarks.mixed_folder --epochs 5    appends a line to results/mixed-folder.jsonl

DIR holds CIFAR-10 (`cifar-10-batches-bin`). Its images become files of eleven kinds (JPEG, PNG, BMP, GIF, TIFF, WebP,
palette, transparent, CMYK, grey, turned with an EXIF tag), with a few that are no images among them. Everything is done
by the command line, as a user would.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.recorded import FOLDER
from cleanpath.assemble import environment
from cleanpath.data.sources import load
from cleanpath.experiment import Data
from cleanpath.records import Run

RESULTS = FOLDER / "mixed-folder.jsonl"
TUNED_CLASSES = 3


def main() -> None:
    """Write the folder, run the verbs, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", default="CIFAR-10", help="what the images are, for the record")
    parser.add_argument("--most", type=int, default=50_000, help="images of each split")
    asked = parser.parse_args()
    line: dict[str, Any] = {"images": asked.images, "epochs": asked.epochs, "date": time.strftime("%Y-%m-%d")}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        line["files"] = _write(place / "photos", asked.most)
        _write(place / "few", asked.most // 20, classes=TUNED_CLASSES)
        short = ("--set", f"training.epochs={asked.epochs}", "--set", "data.broken=skip", "--threads", "1")
        train = ("train", "preresnet20", "--data", "folder:photos", *short, "--out", "run")
        refused = _command(place, *train[:4], "--threads", "1", "--dry-run", expected=2)
        line["refused without data.broken=skip"] = refused.stderr.strip()
        began = time.monotonic()
        _command(place, *train)
        line["train seconds"] = round(time.monotonic() - began, 1)
        result = Run(place / "run").result or {}
        line["error"], line["training seconds without start"] = result["error"], result["seconds"]
        tune = ("train", "preresnet20", "--data", "folder:few", "--init", "run", "--recipe", "modern", *short)
        _command(place, *tune, "--set", "training.body_factor=0.1", "--set", "training.warmup=10", "--out", "tuned")
        _command(place, *tune[:4], *tune[6:], "--set", "training.warmup=10", "--out", "fresh")
        line["3 classes, a twentieth of the images: error, fine-tuned"] = (Run(place / "tuned").result or {})["error"]
        line["3 classes, a twentieth of the images: error, from random weights"] = (Run(place / "fresh").result or {})[
            "error"
        ]
        evaluated = json.loads(_command(place, "evaluate", "run", "--json").stdout)
        line["evaluate"] = {key: evaluated[key] for key in ("error", "interval", "calibration_error", "images")}
        line["predict"] = _predicted(place, evaluated)
        line["export"] = {form: _exported(place, form) for form in ("safetensors", "onnx", "torch-export")}
    line["environment"] = environment(1)
    with RESULTS.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(json.dumps(line, ensure_ascii=False, indent=1))


def _command(place: Path, *words: str, expected: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cleanpath", *words]
    done = subprocess.run(command, cwd=place, capture_output=True, encoding="utf-8", check=False)
    if done.returncode != expected:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done


def _predicted(place: Path, evaluated: dict[str, Any]) -> dict[str, Any]:
    """All files of the test folder by `predict`: as many errors as `evaluate` counts."""
    began = time.monotonic()
    found = json.loads(_command(place, "predict", "run", "photos/test", "--top", "1", "--json", expected=1).stdout)
    seconds = time.monotonic() - began
    good = [one for one in found["predictions"] if "classes" in one]
    wrong = sum(one["classes"][0]["name"] != Path(one["file"]).parent.name for one in good)
    error = 100 * wrong / len(good)
    return {
        "files": len(found["predictions"]),
        "no images": len(found["predictions"]) - len(good),
        "error": error,
        "as evaluate": abs(error - evaluated["error"]) < 1e-9,
        "files per second": round(len(found["predictions"]) / seconds),
    }


def _exported(place: Path, form: str) -> dict[str, Any]:
    found = json.loads(_command(place, "export", "run", "--format", form, "--json").stdout)
    return {key: found[key] for key in ("bytes", "norms_folded", "norms_left", "largest_difference")}


def _write(folder: Path, most: int, classes: int = 10) -> dict[str, int]:
    """`train` and `test` with a folder per class; how many files of each kind."""
    images, counts = load(Data(name="cifar10")), dict.fromkeys(KINDS, 0)
    for name, split in (("train", images.train), ("test", images.held_out)):
        pixels, labels = split.pixels.numpy(), split.labels.numpy()  # type: ignore[attr-defined]
        for at in np.flatnonzero(labels < classes)[:most]:
            kind = list(KINDS)[int(at) % len(KINDS)]
            place = folder / name / images.classes[labels[at]]
            place.mkdir(parents=True, exist_ok=True)
            KINDS[kind](Image.fromarray(pixels[at].transpose(1, 2, 0)), place / f"{at:05d}")
            counts[kind] += 1
        for at, data in enumerate((b"", b"no image", b"\xff\xd8\xff\xe0 cut short")):
            (folder / name / images.classes[at] / f"broken{at}.jpg").write_bytes(data)
    return counts


def _saved(suffix: str, change: Callable[[Image.Image], Image.Image] = lambda image: image, **how: Any) -> Any:
    def write(image: Image.Image, path: Path) -> None:
        change(image).save(path.with_suffix(suffix), **how)

    return write


def _turned(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° to the right
    image.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".jpg"), exif=exif, quality=95)


def _transparent(image: Image.Image) -> Image.Image:
    image.putalpha(255)
    return image


KINDS: dict[str, Callable[[Image.Image, Path], None]] = {
    "JPEG": _saved(".jpg", quality=95),
    "PNG": _saved(".png"),
    "BMP": _saved(".bmp"),
    "GIF": _saved(".gif"),
    "TIFF": _saved(".tif"),
    "WebP": _saved(".webp", quality=95),
    "palette": _saved(".png", lambda image: image.quantize(256)),
    "transparent": _saved(".png", _transparent),
    "CMYK": _saved(".jpeg", lambda image: image.convert("CMYK"), quality=95),
    "grey": _saved(".jpg", lambda image: image.convert("L"), quality=95),
    "turned": _turned,
}


if __name__ == "__main__":
    main()
