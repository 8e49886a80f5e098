"""From nanomaggies to what a network sees. A `Preprocess` is saved with every checkpoint.

Conventions as in `stamps.measure`: arrays (..., band, y, x), 0-based pixel centres, radii in pixels.
"""

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.stamps.measure import (
    OUTER_RADIUS_PIX,
    Center,
    Real,
    annulus_mask,
    centers_by_row,
    median_and_spread,
    outer_mask,
    rings,
)

ROBUST_CLIP = 5.0
RESIDUAL_CLIP = 50.0
ASINH_LEAST_CLIP = 200.0
ANNULUS = (0.65, 0.90)
_SPREAD_FLOOR = 1e-10  # the brief's guard against a background without noise

Positive = Annotated[float, Field(gt=0)]


def robust_normalize(
    x: Real, x_center_pix: Center = None, y_center_pix: Center = None, *, clip: float = ROBUST_CLIP
) -> NDArray[np.float32]:
    """The brief's normalisation, to the letter: (x - median) / (1.4826 MAD + 1e-10), clipped to ±clip.

    Median and MAD are those of r > 20 pixels, band by band. It saturates the middle of every bright galaxy,
    and any arc above 5 sigma per pixel. Returns float32, shaped like x.
    """
    mask = outer_mask(x.shape, x_center_pix, y_center_pix, radius_pix=OUTER_RADIUS_PIX)
    return np.clip(_standardize(x, mask), -clip, clip).astype(np.float32, copy=False)


def asinh_normalize(
    x: Real,
    x_center_pix: Center = None,
    y_center_pix: Center = None,
    *,
    softening: float = 1.0,
    annulus: tuple[float, float] = ANNULUS,
    clip: float | None = None,
) -> NDArray[np.float32]:
    """asinh((x - b) / (softening sigma)): linear in the noise, logarithmic above, saturated nowhere.

    b and sigma are median and 1.4826 MAD of the annulus `annulus` (in half widths of the stamp; 0.65 to 0.90
    is 21 to 29 pixels of 64), band by band, so the result does not change with the flux unit. The stretch is
    that of Lupton, Gunn & Szalay (1999) in units of the stamp's own noise: their softening b is our
    softening x sigma.

    clip   bound in sigma applied before the stretch; None for none. Returns float32, shaped like x.
    """
    half = min(x.shape[-2:]) / 2
    mask = annulus_mask(x.shape, annulus[0] * half, annulus[1] * half, x_center_pix, y_center_pix)
    sigmas = _standardize(x, mask)
    if clip is not None:
        np.clip(sigmas, -clip, clip, out=sigmas)
    sigmas /= softening
    return np.arcsinh(sigmas, out=sigmas).astype(np.float32, copy=False)


def residual_radial(
    x: Real, x_center_pix: Center = None, y_center_pix: Center = None, *, clip: float = RESIDUAL_CLIP
) -> NDArray[np.float32]:
    """The galaxy's own profile taken out: normalised, then each 1-pixel ring less its median.

    Background from 20 pixels to half the width, rings out to half the width, band by band, clipped to ±clip.
    A probe of the profile then finds nothing by construction: an arm of the ablation, not a cure. Returns
    float32, shaped like x.
    """
    half = min(x.shape[-2:]) / 2
    mask = annulus_mask(x.shape, OUTER_RADIUS_PIX, half, x_center_pix, y_center_pix)
    out = np.ascontiguousarray(_standardize(x, mask))
    flat = out.reshape(*out.shape[:-2], out.shape[-2] * out.shape[-1])
    edges = np.arange(np.floor(half) + 1)
    for rows, xc, yc in centers_by_row(x.shape, x_center_pix, y_center_pix):
        for _, pixels in rings(x.shape, edges, xc, yc):
            values = flat[rows][..., pixels]
            flat[rows][..., pixels] = values - np.median(values, axis=-1, keepdims=True)
    return np.clip(out, -clip, clip).astype(np.float32, copy=False)


def _standardize(x: Real, mask: NDArray[np.bool_]) -> Real:
    median, spread = median_and_spread(x, mask)
    out = x - median
    out /= spread + _SPREAD_FLOOR  # in place: fresh memory costs as much as the arithmetic
    return np.asarray(out)


class Preprocess(Frozen):
    """How pixels become a network's input.

    ``robust`` is the brief's (clip 5), ``asinh`` keeps what the clip destroys, ``residual_radial`` takes the
    radial profile out. A field that the kind does not read must be left at its default.

    clip        bound in sigma; None is the kind's own: 5, none, and 50. asinh takes no bound below 200
    softening   sigma at which asinh turns from linear to logarithmic
    annulus     background of asinh, in half widths
    """

    kind: Literal["robust", "asinh", "residual_radial"] = "robust"
    clip: Positive | None = None
    softening: Positive = 1.0
    annulus: tuple[Positive, Positive] = ANNULUS

    @model_validator(mode="after")
    def _fields_belong_to_the_kind(self) -> Self:
        if self.kind != "asinh" and (self.softening, self.annulus) != (1.0, ANNULUS):
            message = f"softening and annulus belong to kind asinh, not {self.kind}"
            raise ValueError(message)
        if self.annulus[0] >= self.annulus[1]:
            message = "the annulus must have its smaller radius first"
            raise ValueError(message)
        if self.kind == "asinh" and self.clip is not None and self.clip < ASINH_LEAST_CLIP:
            message = f"asinh must not be clipped below {ASINH_LEAST_CLIP:g} sigma: arcs would saturate"
            raise ValueError(message)
        return self

    def apply(
        self, batch: Real, x_center_pix: Center = None, y_center_pix: Center = None, *, where: str = "batch"
    ) -> NDArray[np.float32]:
        """A batch of stamps [nmgy] as the network's input; a row's result does not depend on its neighbours.

        batch   (n, band, y, x), or (band, y, x); centres are numbers, or one per row

        Returns float32, shaped like batch. Raises DataError naming `where` and the row if a pixel is NaN or
        infinite.
        """
        bad = ~np.isfinite(batch).reshape(-1, *batch.shape[-3:]).all(axis=(1, 2, 3))
        if bad.any():
            raise DataError(f"{where} row {int(bad.argmax())}", "has pixels that are NaN or infinite")
        return self._apply(batch, x_center_pix, y_center_pix)

    def _apply(self, batch: Real, xc: Center, yc: Center) -> NDArray[np.float32]:
        if self.kind == "asinh":
            return asinh_normalize(
                batch, xc, yc, softening=self.softening, annulus=self.annulus, clip=self.clip
            )
        if self.kind == "robust":
            return robust_normalize(batch, xc, yc, clip=self.clip or ROBUST_CLIP)
        return residual_radial(batch, xc, yc, clip=self.clip or RESIDUAL_CLIP)
