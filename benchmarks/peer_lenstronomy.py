"""lenstronomy as its users run it, at its best: SimAPI, one image per band, objects made once.

The lens is SIE + SHEAR, in lenstronomy four times faster than EPL + SHEAR and different by 2e-9 arcsec. Each
system's magnitudes are turned into amplitudes by SimAPI, as its documentation does. The target's sub-pixel
place is given by moving lens and source, so that grids stay as they are. Systems of one and of two parts have
an ImageModel each, made once.

**The PSF.** lenstronomy takes the mean of its samples over a pixel and convolves that with the kernel: handed
the survey's effective PSF, it counts the pixel twice. Settings hand it `reference.peer_kernel` instead,
unless their name says "twice".

**The best case.** A PSF of its own for each system means new objects for each system. `render` can be given
one PSF for all instead, and then builds nothing; that is what a benchmark should time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.SimulationAPI.sim_api import SimAPI
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.reference import SIDE, System, exact_radius, peer_kernel
from darkhaloscope.injection.lens import ISOTHERMAL, ellipticity_from_axis
from darkhaloscope.injection.source import Part
from darkhaloscope.survey.populations import FieldPsf
from darkhaloscope.survey.release import PIXEL_SCALE_ARCSEC, ZERO_POINT

Pixels = NDArray[np.float64]
Arguments = list[dict[str, float]]

BANDS = (0, 1, 2)


@dataclass(frozen=True)
class Setting:
    """How lenstronomy renders.

    supersampling      samples per pixel and axis
    fine_convolution   convolve the samples with a kernel as fine as they are, then take the mean
    fine_kernel_pix    side of the part of the kernel that is so treated [native pixel]; None: all of it
    bright             adaptive mode: only pixels brighter than this share of the brightest, in a first pass
                       of one sample per pixel, and their neighbours are supersampled; None: all pixels
    is_pixel_once      whether the kernel is freed of the mean that lenstronomy takes
    lens               its name of the deflector
    """

    supersampling: int
    fine_convolution: bool = False
    fine_kernel_pix: int | None = None
    bright: float | None = None
    is_pixel_once: bool = True
    lens: str = "SIE"


def _settings() -> dict[str, Setting]:
    found = {f"regular-{s}": Setting(s) for s in (1, 3, 5, 7, 11, 15, 21, 31)}
    found |= {f"regular-{s}-twice": Setting(s, is_pixel_once=False) for s in (3, 5, 11, 31)}
    found |= {f"fine-{s}": Setting(s, fine_convolution=True) for s in (3, 5, 7, 11, 15, 21)}
    found |= {f"fine-{s}-inner": Setting(s, fine_convolution=True, fine_kernel_pix=5) for s in (3, 5)}
    for bright in (0.1, 0.03, 0.01):
        found |= {f"adaptive-{s}-{bright}": Setting(s, bright=bright) for s in (5, 11, 21, 31, 51)}
    found |= {
        f"adaptive-fine-{s}-0.03": Setting(s, fine_convolution=True, fine_kernel_pix=9, bright=0.03)
        for s in (5, 11)
    }
    found |= {f"regular-5-{lens}": Setting(5, lens=lens) for lens in ("EPL", "EPL_NUMBA")}
    return found


SETTINGS = _settings()
"""What is compared, by name: mode, supersampling, and what is special."""


@dataclass(frozen=True, eq=False)
class _Band:
    """What SimAPI makes for one band and a number of parts, kept."""

    api: SimAPI
    image: ImageModel


@dataclass(eq=False)
class Lenstronomy:
    """lenstronomy set up for one PSF; objects are made at the first system that needs them."""

    psf: FieldPsf
    setting: Setting
    bands: Sequence[int] = BANDS
    _models: dict[int, list[_Band]] = field(default_factory=dict)

    def render(self, systems: Sequence[System]) -> Pixels:
        """(n, band, y, x) [nmgy / pixel]."""
        images = np.empty((len(systems), len(self.bands), SIDE, SIDE))
        for k, system in enumerate(systems):
            images[k] = self._one(system)
        return images

    def _one(self, system: System) -> list[Pixels]:
        parts = system.truth.source.parts
        models = self._models.get(len(parts))
        if models is None:
            models = self._models[len(parts)] = [self._make(band, len(parts)) for band in self.bands]
        at = _place(system)
        lens = _lens_arguments(system, self.setting.lens, *at)
        light = [
            model.api.magnitude2amplitude(None, _light_arguments(parts, band, *at), None)[1]
            for model, band in zip(models, self.bands, strict=True)
        ]
        images = [model.image for model in models]
        if self.setting.bright is not None:
            pixels = _bright_pixels(images[0], lens, light[len(light) // 2], self.setting.bright)
            images = [self._adapted(image, pixels) for image in images]
        return [image.image(lens, source) for image, source in zip(images, light, strict=True)]

    def _make(self, band: int, n_parts: int) -> _Band:
        setting = self.setting
        fine = setting.supersampling if setting.fine_convolution else 1
        averaged = setting.supersampling if setting.is_pixel_once else 1
        api = SimAPI(
            num_pix=SIDE,
            kwargs_single_band={
                "pixel_scale": PIXEL_SCALE_ARCSEC,
                "magnitude_zero_point": ZERO_POINT,
                "exposure_time": 100.0,
                "background_noise": 0.0,
                "psf_type": "PIXEL",
                "kernel_point_source": peer_kernel(self.psf, band, averaged=averaged, samples=fine),
                "point_source_supersampling_factor": fine,
                "kernel_point_source_normalisation": False,
            },
            kwargs_model={
                "lens_model_list": [setting.lens, "SHEAR"],
                "source_light_model_list": ["SERSIC_ELLIPSE"] * n_parts,
            },
        )
        numerics = {
            "supersampling_factor": setting.supersampling if setting.bright is None else 1,
            "supersampling_convolution": setting.fine_convolution,
            "supersampling_kernel_size": setting.fine_kernel_pix,
        }
        return _Band(api, api.image_model_class(numerics))

    def _adapted(self, image: ImageModel, pixels: NDArray[np.bool_]) -> ImageModel:
        """The same with another set of supersampled pixels: lenstronomy fixes them when an object is made."""
        numerics = {
            "compute_mode": "adaptive",
            "supersampling_factor": self.setting.supersampling,
            "supersampled_indexes": pixels,
            "supersampling_convolution": self.setting.fine_convolution,
            "supersampling_kernel_size": self.setting.fine_kernel_pix,
        }
        return ImageModel(image.Data, image.PSF, image.LensModel, image.SourceModel, kwargs_numerics=numerics)


def render(
    systems: Sequence[System], setting: Setting, *, psf: FieldPsf | None = None, bands: Sequence[int] = BANDS
) -> Pixels:
    """Arcs by lenstronomy, (n, band, y, x) [nmgy / pixel].

    psf  one for all systems, objects made once; None: each system's own, objects made for each
    """
    if psf is not None:
        return Lenstronomy(psf, setting, bands).render(systems)
    return np.concatenate([Lenstronomy(system.psf, setting, bands).render([system]) for system in systems])


def accuracy(
    setting: Setting, systems: Sequence[System], references: Pixels, *, bands: Sequence[int] = BANDS
) -> dict[str, float]:
    """Largest error of each image over its peak, against converged images (n, band, y, x)."""
    return summary(render(systems, setting, bands=bands), references)


def summary(images: Pixels, references: Pixels) -> dict[str, float]:
    """Median, 99 % and worst of the images' largest error over peak."""
    error = np.abs(images - references).max(axis=(2, 3)) / references.max(axis=(2, 3))
    return {
        "median": float(np.median(error)),
        "p99": float(np.quantile(error, 0.99)),
        "max": float(error.max()),
    }


def _place(system: System) -> tuple[float, float]:
    """The target in lenstronomy's frame, whose origin is the middle of the stamp [arcsec]."""
    middle = 0.5 * (SIDE - 1)
    x, y = system.x_center_pix - middle, system.y_center_pix - middle
    return x * PIXEL_SCALE_ARCSEC, y * PIXEL_SCALE_ARCSEC


def _lens_arguments(system: System, profile: str, x: float, y: float) -> Arguments:
    lens = system.truth.lens
    e1, e2 = ellipticity_from_axis(lens.q, lens.phi)
    x, y = x + lens.x, y + lens.y
    mass = {"theta_E": lens.theta_e, "e1": e1, "e2": e2, "center_x": x, "center_y": y}
    if profile != "SIE":
        mass["gamma"] = lens.gamma
    elif lens.gamma != ISOTHERMAL:
        message = f"SIE has no slope {lens.gamma}: use a setting with EPL"
        raise ValueError(message)
    return [mass, {"gamma1": lens.gamma1, "gamma2": lens.gamma2, "ra_0": x, "dec_0": y}]


def _light_arguments(parts: Sequence[Part], band: int, x: float, y: float) -> Arguments:
    found = []
    for part in parts:
        shape, flux = part.shape, part.flux_nmgy[band]
        e1, e2 = ellipticity_from_axis(shape.q, shape.phi)
        light = {"magnitude": ZERO_POINT - 2.5 * np.log10(flux) if flux > 0.0 else np.inf}
        light |= {"R_sersic": exact_radius(shape), "n_sersic": shape.n_sersic, "e1": e1, "e2": e2}
        found.append(light | {"center_x": x + shape.x, "center_y": y + shape.y})
    return found


@lru_cache(maxsize=1)
def _pixel_centres() -> tuple[Pixels, Pixels]:
    axis = (np.arange(SIDE) - 0.5 * (SIDE - 1)) * PIXEL_SCALE_ARCSEC
    x, y = np.meshgrid(axis, axis)
    return x.ravel(), y.ravel()


def _bright_pixels(image: ImageModel, lens: Arguments, light: Arguments, share: float) -> NDArray[np.bool_]:
    """Pixels whose centre is brighter than `share` of the brightest, and their neighbours."""
    source = image.LensModel.ray_shooting(*_pixel_centres(), lens)
    seen = image.SourceModel.surface_brightness(*source, light).reshape(SIDE, SIDE)
    return ndimage.binary_dilation(seen > share * seen.max(), np.ones((3, 3), dtype=bool))
