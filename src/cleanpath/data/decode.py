"""One image file to an upright RGB image, whatever its mode; what is no image is said in a word."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

MOST_PIXELS = 178_956_970
"""A file that unpacks to more is taken for a bomb; Pillow's own limit for a warning, twice over."""


class BrokenImageError(Exception):
    """A file that is no image that can be read; the message says why."""


def decoded(path: Path, side: int | None = None) -> Image.Image:
    """The image in RGB, turned as its EXIF says; with `side`, a JPEG may come smaller, but at least that large.

    Transparent pixels are white; 16-bit grey is scaled to 8 bits. Raises `BrokenImageError`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise BrokenImageError(f"{image.width}×{image.height} pixels, a bomb")
                if side is not None:
                    image.draft("RGB", (side, side))
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return _rgb(image)
    except UnidentifiedImageError:
        raise BrokenImageError("empty" if path.stat().st_size == 0 else "not an image") from None
    except Image.DecompressionBombError:
        raise BrokenImageError("too many pixels, a bomb") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        said = str(error).split(" (")[0] or type(error).__name__
        raise BrokenImageError("truncated" if "truncated" in said else said[:60]) from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image).astype(np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(float(grey.max()), 1.0)
        scale = 1.0 if 1.0 < top <= 255.0 else 255.0 / top  # floats are taken for shares of white, or for bytes
        return Image.fromarray(np.clip(np.rint(grey * scale), 0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in {"LA", "RGBA", "PA", "La", "RGBa"}:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return in_mode(image, "RGB")


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in a mode: itself if it is, where Pillow would copy it."""
    return image if image.mode == mode else image.convert(mode)


assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated image is to be told, not to be filled with grey"
