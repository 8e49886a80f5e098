"""Stamps as astronomers know them: the sky viewer's colours, and PNG.

Cubes are (band, y, x) in g r z, nanomaggies per pixel, y up as in FITS; a picture's first row is its top.
"""

import io
import math

import numpy as np
from jaxtyping import Float
from PIL import Image


def viewer_rgb(cube: Float[np.ndarray, "3 y x"]) -> Float[np.ndarray, "y x 3"]:
    """The colours astronomers know from the Legacy Surveys sky viewer (its stretch for DR2 and later).

    g, r, z times 6.0, 3.4, 2.2, plus 0.03, become blue, green, red; all three are then dimmed by one common
    factor so that their mean I becomes arcsinh(20 I)/sqrt(20), which keeps colours (Lupton et al. 2004).

    cube   (g r z, y, x) [nanomaggies per 0.262" pixel]; a pixel without a value is drawn black

    Returns (y, x, red green blue) in [0, 1], y as given.
    """
    softening = 20.0
    scales = np.array([6.0, 3.4, 2.2])[:, None, None]
    planes = np.nan_to_num(np.asarray(cube, dtype=np.float64) * scales + 0.03, posinf=0.0, neginf=0.0)
    mean = np.maximum(planes, 0.0).mean(axis=0)
    dimmed = np.arcsinh(softening * mean) / math.sqrt(softening)
    factor = np.divide(dimmed, mean, out=np.zeros_like(mean), where=mean > 0)
    rgb: Float[np.ndarray, "y x 3"] = np.clip(np.moveaxis((planes * factor)[::-1], 0, -1), 0.0, 1.0)
    return rgb


def stamp_png(cube: Float[np.ndarray, "3 y x"]) -> bytes:
    """One stamp as a PNG of its own size, y up."""
    return png(viewer_rgb(cube)[::-1])


def png(rgb: Float[np.ndarray, "y x 3"]) -> bytes:
    """A picture in [0, 1], top row first, as PNG; the same picture gives the same bytes."""
    out = io.BytesIO()
    Image.fromarray(np.round(rgb * 255).astype(np.uint8), mode=None).save(out, format="PNG")
    return out.getvalue()
