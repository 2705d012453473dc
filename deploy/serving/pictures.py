"""Encoded images: decoded within bounds, fitted as evaluation fits them, answered as mask PNGs."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from afdcd.geometry import Fitted, fit, unfit
from deploy.bundle import Contract, Pixels
from deploy.serving.refusal import Refusal, TooLarge

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


def decode(content: bytes, contract: Contract, *, pixels: int) -> Fitted:
    """An encoded image at the model's input size.

    Raises:
        Refusal: it is no whole image of a known format.
        TooLarge: its header tells of more than `pixels`; nothing was decoded.
    """
    try:
        with warnings.catch_warnings():
            # The bound below is ours, and an exception rather than a warning.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > pixels:
                raise TooLarge(f"the image has {image.width} x {image.height} pixels, at most {pixels} go")
            array = np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise TooLarge(str(error)) from None
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, MemoryError) as error:
        raise Refusal(f"the body is no whole image of {', '.join(FORMATS)}: {error}") from None
    return fit(array, contract.geometry.size, contract.geometry.fit)


def mask(class_map: Pixels, fitted: Fitted) -> Pixels:
    """The (H, W) class map at the image's own size."""
    return unfit(class_map, fitted)


def encode(labels: Pixels, contract: Contract) -> bytes:
    """A PNG of class numbers that shows itself in the classes' colours."""
    image = Image.fromarray(labels)
    image.putpalette([value for colour in contract.palette for value in colour])
    target = io.BytesIO()
    image.save(target, "PNG", compress_level=1)
    return target.getvalue()
