"""Arcs of many systems, ours against the converged reference: shared by the tests that judge them."""

from dataclasses import dataclass

import numpy as np
from benchmarks.reference import System, converged_image

from darkhaloscope.injection.render import ArcTask, Frame, Renderer
from darkhaloscope.survey.psf import Kernels

PIXEL, SHAPE, BAND = 0.262, (64, 64), 1


@dataclass
class Compared:
    """Worst pixel over peak, relative flux, and how far the reference itself had converged; by system."""

    error: np.ndarray
    flux: np.ndarray
    change: np.ndarray


def kernels(system: System, oversampling: int = 2) -> Kernels:
    psf = system.psf
    return Kernels.moffat(
        psf.fwhm_arcsec, psf.beta, e=psf.ellipticity, pa=psf.angle, pixel_scale=PIXEL,
        oversampling=oversampling, size=psf.kernel_size,
    )  # fmt: skip


def ours(systems, *, renderer=None, psf=kernels):
    renderer = renderer or Renderer()
    tasks = [
        ArcTask(
            s.truth.lens,
            s.truth.source,
            Frame(SHAPE, s.x_center_pix, s.y_center_pix, PIXEL),
            renderer.respond(psf(s), SHAPE),
        )
        for s in systems
    ]
    return np.array([arc.image[BAND] for arc in renderer.render(tasks)])


def references(systems, native: bool = False):
    """(image, change) of the r band; `native` hands over the kernels' own pixels instead of the Moffat."""
    found = [
        converged_image(
            s.truth,
            shape=SHAPE,
            x_center_pix=s.x_center_pix,
            y_center_pix=s.y_center_pix,
            pixel_scale=PIXEL,
            psf=s.psf.kernels(PIXEL) if native else s.psf,
            band=BAND,
        )
        for s in systems
    ]
    return np.array([image for image, *_ in found]), np.array([change for *_, change in found])


def compare(images, truth, change) -> Compared:
    peak = truth.max(axis=(1, 2))
    flux = images.sum(axis=(1, 2)) / truth.sum(axis=(1, 2)) - 1.0
    return Compared(np.abs(images - truth).max(axis=(1, 2)) / peak, np.abs(flux), change)
