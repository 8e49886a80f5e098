"""caustics as its users run it, at its best: a LensSource per band, vmap over batches, one thread.

The lens is SIE + ExternalShear, without a core. caustics makes an image at `upsample` samples per pixel and
axis, on a margin of half a kernel, convolves it with a kernel as fine and takes the mean of each pixel: its
kernel is `reference.peer_kernel`, freed of that mean, so that its converged image is the right one. caustics
divides a kernel by its sum; amplitudes take that back. Its half-light radius lies on the major axis, and its
b_n is a series (4e-4 off at n = 0.5): it is handed the radius with which its profile is the exact one.

Systems of one and of two parts are batches of their own, as their models differ. As with lenstronomy, a PSF
for each system means a kernel for each; the best case, which a benchmark should time, has one for all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import caustics
import numpy as np
import torch
from caustics.light.func import k_sersic
from numpy.typing import NDArray
from scipy import special

from benchmarks.peer_lenstronomy import summary
from benchmarks.reference import SIDE, System, peer_kernel
from darkhaloscope.injection.lens import ISOTHERMAL
from darkhaloscope.injection.source import Sersic
from darkhaloscope.survey.populations import FieldPsf
from darkhaloscope.survey.profiles import sersic_bn
from darkhaloscope.survey.release import PIXEL_SCALE_ARCSEC

Pixels = NDArray[np.float64]

BANDS = (0, 1, 2)

_EVEN = 10**6
"""Samples per pixel of a continuous mean."""


@dataclass(frozen=True)
class Setting:
    """How caustics renders.

    upsample         samples per pixel and axis
    quad_level       Gauss nodes per axis in each of them; None: its middle
    batch            systems in one call
    is_single        float32, else float64
    is_pixel_once    whether the kernel is freed of the mean that caustics takes
    """

    upsample: int
    quad_level: int | None = None
    batch: int = 4
    is_single: bool = True
    is_pixel_once: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """The precision it computes in."""
        return torch.float32 if self.is_single else torch.float64


SETTINGS = {
    **{f"upsample-{u}": Setting(u) for u in (1, 3, 5, 7, 11, 15)},
    **{f"upsample-{u}-twice": Setting(u, is_pixel_once=False) for u in (5, 11)},
    **{
        f"upsample-{u}-quad-{q}": Setting(u, quad_level=q, batch=1)
        for u, q in ((3, 3), (5, 2), (5, 3), (5, 5))
    },
    "upsample-5-double": Setting(5, is_single=False),
}
"""What is compared, by name: upsampling, Gauss nodes, and what is special."""


@dataclass(frozen=True, eq=False)
class _Band:
    """A simulator over batches and the sum of its kernel before caustics normalises it."""

    render: Any
    kernel_sum: float


@dataclass(eq=False)
class Caustics:
    """caustics set up for one PSF; simulators are made at the first system that needs them."""

    psf: FieldPsf
    setting: Setting
    bands: Sequence[int] = BANDS
    _models: dict[int, list[_Band]] = field(default_factory=dict)

    def render(self, systems: Sequence[System]) -> Pixels:
        """(n, band, y, x) [nmgy / pixel]."""
        images = np.empty((len(systems), len(self.bands), SIDE, SIDE))
        for n_parts in sorted({len(system.truth.source.parts) for system in systems}):
            alike = [k for k, system in enumerate(systems) if len(system.truth.source.parts) == n_parts]
            for start in range(0, len(alike), self.setting.batch):
                batch = alike[start : start + self.setting.batch]
                images[batch] = self._batch([systems[k] for k in batch], n_parts)
        return images

    def _batch(self, systems: list[System], n_parts: int) -> Pixels:
        models = self._models.get(n_parts)
        if models is None:
            models = self._models[n_parts] = [self._make(band, n_parts) for band in self.bands]
        images = []
        for model, band in zip(models, self.bands, strict=True):
            rows = [_parameters(system, band, model.kernel_sum) for system in systems]
            images.append(model.render(torch.tensor(rows, dtype=self.setting.dtype)).numpy())
        return np.stack(images, axis=1).astype(np.float64) * PIXEL_SCALE_ARCSEC**2

    def _make(self, band: int, n_parts: int) -> _Band:
        up, dtype = self.setting.upsample, self.setting.dtype
        averaged = up if self.setting.quad_level is None else _EVEN
        kernel = peer_kernel(
            self.psf, band, averaged=averaged if self.setting.is_pixel_once else 1, samples=up
        )
        cosmology = caustics.FlatLambdaCDM(name="cosmology")
        redshifts = {"cosmology": cosmology, "z_l": 0.5, "z_s": 1.5}
        deflectors = [
            caustics.SIE(name="sie", **redshifts),
            caustics.ExternalShear(name="shear", **redshifts),
        ]
        parts = [caustics.Sersic(name=f"part{k}") for k in range(n_parts)]
        simulator = caustics.LensSource(
            lens=caustics.SinglePlane(lenses=deflectors, name="lens", **redshifts),
            source=parts[0] if n_parts == 1 else caustics.LightStack(parts, name="source"),
            pixelscale=PIXEL_SCALE_ARCSEC,
            pixels_x=SIDE,
            upsample_factor=up,
            quad_level=self.setting.quad_level,
            psf=torch.tensor(kernel, dtype=dtype),
            name="simulator",
        )
        simulator.to(dtype=dtype)
        return _Band(torch.vmap(simulator), float(kernel.sum()))


def render(
    systems: Sequence[System], setting: Setting, *, psf: FieldPsf | None = None, bands: Sequence[int] = BANDS
) -> Pixels:
    """Arcs by caustics, (n, band, y, x) [nmgy / pixel].

    psf  one for all systems, simulators made once; None: each system's own, simulators made for each
    """
    with torch.no_grad():
        if psf is not None:
            return Caustics(psf, setting, bands).render(systems)
        return np.concatenate([Caustics(system.psf, setting, bands).render([system]) for system in systems])


def accuracy(
    setting: Setting, systems: Sequence[System], references: Pixels, *, bands: Sequence[int] = BANDS
) -> dict[str, float]:
    """Largest error of each image over its peak, against converged images (n, band, y, x)."""
    return summary(render(systems, setting, bands=bands), references)


def _parameters(system: System, band: int, kernel_sum: float) -> list[float]:
    """One row of a batch: lens, shear and parts in caustics' order, positions from the stamp's middle."""
    middle, lens = 0.5 * (SIDE - 1), system.truth.lens
    if lens.gamma != ISOTHERMAL:
        message = f"the SIE rendered by caustics has no slope {lens.gamma}"
        raise ValueError(message)
    x = (system.x_center_pix - middle) * PIXEL_SCALE_ARCSEC
    y = (system.y_center_pix - middle) * PIXEL_SCALE_ARCSEC
    row = [x + lens.x, y + lens.y, lens.q, lens.phi, lens.theta_e]
    row += [x + lens.x, y + lens.y, lens.gamma1, lens.gamma2]
    for part in system.truth.source.parts:
        shape = part.shape
        radius, flux = _profile(shape)
        row += [x + shape.x, y + shape.y, shape.q, shape.phi]
        row += [shape.n_sersic, radius / math.sqrt(shape.q), part.flux_nmgy[band] * kernel_sum / flux]
    return row


def _profile(shape: Sersic) -> tuple[float, float]:
    """Radius sqrt(ab) [arcsec] that gives caustics the exact profile, and its flux at Ie = 1 [arcsec^2]."""
    n, k = shape.n_sersic, float(k_sersic(shape.n_sersic))
    radius = shape.R_sersic * (k / sersic_bn(n)) ** n
    share = n * math.exp(k) * k ** (-2.0 * n) * float(special.gamma(2.0 * n))
    return radius, 2.0 * math.pi * radius**2 * share
