"""Survey objects become rows of STAMPS: painted ones from the synthetic sky, real ones from cutout files.

What a real file does not say is measured or assumed, and the row says which: `noise_source` is ``invvar``
where the file gives it, else ``blank_pixels``; `psf_source` is ``measured`` where the file gives a PSF, else
``assumed``. Redshifts and dispersions are never invented: what is unknown stays null.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from darkhaloscope.contracts.config import tagged
from darkhaloscope.contracts.errors import DataError, StampError, naming
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.tables import BRICKS, CATEGORIES, KINDS, STAMPS, Table
from darkhaloscope.stamps.stamp import STAMP_SIZE, Stamp, crop, with_planes
from darkhaloscope.survey.cutouts import Cutout, RealPixels, read_psf, read_real_pixels
from darkhaloscope.survey.painting import paint_target
from darkhaloscope.survey.photometry import (
    adaptive_moments,
    aperture_fluxes,
    blank_pixels,
    blank_sigma_w,
    detection_image,
    find_centre,
    invvar_from_blank,
)
from darkhaloscope.survey.priors import Psf, SkyPriors
from darkhaloscope.survey.psf import measure_fwhm, moffat_kernel, n_eff
from darkhaloscope.survey.release import BANDS, MASK_BITS, healpix_cell, sky_group
from darkhaloscope.survey.sky import harvest_brick

EMPTY_SHARE = 0.005
"""A band whose pixels are exactly zero over more than this share of the stamp is missing there."""


class HarvestSky(Job):
    """Paint the targets of each brick: BRICKS to STAMPS. A row's pixels depend on seed and target alone."""

    reads: ClassVar[Table] = BRICKS
    writes: ClassVar[Table] = STAMPS

    job: Literal["harvest_sky"] = "harvest_sky"
    seed: int
    size: int = tagged(STAMP_SIZE, "K", "the brief's stamps", "pix", ge=32)
    priors: SkyPriors = SkyPriors()

    def run(self, batch: pa.Table) -> pa.Table:
        """One row for each target of each brick, in the bricks' order."""
        rows = []
        for brick in batch.to_pylist():
            for target in harvest_brick(self.seed, brick, self.priors, self.size):
                with naming(target_id=target.target_id):
                    rows.append(_sky_row(paint_target(self.seed, target)))
        return STAMPS.conform(rows)


def _sky_row(cutout: Cutout) -> dict[str, Any]:
    return cutout.row | pixel_columns(cutout) | {"psf_source": "model", "noise_source": "model"}


def pixel_columns(cutout: Cutout) -> dict[str, Any]:
    """The columns of STAMPS that hold pixels and their geometry; further bands stand beside g r z."""
    columns = Stamp(
        image=np.asarray(cutout.image, dtype=np.float32),
        invvar=np.asarray(cutout.invvar, dtype=np.float32),
        mask=cutout.mask,
        psf=np.asarray(cutout.psf, dtype=np.float32),
        x_center_pix=cutout.x_center_pix,
        y_center_pix=cutout.y_center_pix,
        pixel_scale_arcsec=cutout.pixel_scale_arcsec,
        where=str(cutout.row.get("target_id", "stamp")),
    ).to_row()
    for kind, column in (("image", "stamp_npz"), ("invvar", "invvar_npz"), ("psf", "psf_npz")):
        further = {f"{kind}_{band}": getattr(extra, kind) for band, extra in cutout.extra.items()}
        if further:
            columns[column] = with_planes(columns[column], further)
    return columns


@dataclass(frozen=True)
class AssumedPsf:
    """The PSF of cutouts that come without one.

    psfsize_arcsec   FWHM g r z as the survey would give it; a Moffat of the same seeing is narrower
    beta             of the Moffat
    """

    psfsize_arcsec: tuple[float, float, float] = Psf().size_arcsec
    beta: float = Psf().beta.mean

    def kernels(self, pixel_scale: float) -> NDArray[np.float64]:
        """(band, k, k)."""
        ratio = Psf().size_over_moffat
        return np.stack(
            [moffat_kernel(size / ratio, self.beta, pixel_scale=pixel_scale) for size in self.psfsize_arcsec]
        )


def harvest_cutouts(
    paths: Sequence[Path],
    *,
    size: int = STAMP_SIZE,
    kind: str = "lrg",
    category: str | None = None,
    psf: AssumedPsf | Path | None = None,
    pixel_scale: float | None = None,
) -> pa.Table:
    """Rows of STAMPS from cutout files, in the order of files and rows.

    paths         .npz and .fits files (see `survey.cutouts`)
    size          side of the stamps [pixel], at least 64 pixels must be there; cropped, never resampled
    kind          lrg, lens (its arc is real) or contaminant (then `category` too)
    psf           what to assume where a file has no PSF, or a file with the PSF of all of them
    pixel_scale   [arcsec/pix] for files that do not say

    A row is called ``<file stem>-<index>``. Rows whose pixels cannot be used have a reject code and no blobs.
    Raises DataError naming the file where a file cannot be read, is too small, shares its name with another,
    or has no usable row at all.
    """
    if kind not in KINDS:
        raise DataError("cutouts", f"kind '{kind}' is unknown", f"one of {', '.join(KINDS)}")
    if category is not None and category not in CATEGORIES:
        raise DataError("cutouts", f"category '{category}' is unknown", f"one of {', '.join(CATEGORIES)}")
    if not paths:
        raise DataError("cutouts", "no file was given")
    stems = [Path(path).stem for path in paths]
    repeated = sorted({stem for stem in stems if stems.count(stem) > 1})
    if repeated:
        raise DataError(repeated[0], "two files have this name, and rows are named by it", "rename one")
    given = read_psf(psf) if isinstance(psf, (str, Path)) else None
    assumed = psf if isinstance(psf, AssumedPsf) else AssumedPsf()
    rows: list[dict[str, Any]] = []
    for path in paths:
        found = []
        for real in read_real_pixels(Path(path), pixel_scale=pixel_scale):
            labels = _labels(real, Path(path).stem, kind, category)
            found.append(_real_row(real, labels, size, given, assumed))
        if not found or all(row["reject"] for row in found):
            reasons = ", ".join(sorted({row["reject"] for row in found})) or "no rows"
            raise DataError(str(path), f"none of its {len(found)} images can be used: {reasons}")
        rows += found
    return STAMPS.conform(rows)


def _labels(real: RealPixels, stem: str, kind: str, category: str | None) -> dict[str, Any]:
    target_id = f"{stem}-{real.index:04d}"
    labels: dict[str, Any] = {
        "target_id": target_id,
        "host_id": target_id,
        "kind": kind,
        "category": category,
        "name": stem if kind == "lens" else None,
        "host_domain": "real",
        "arc_domain": "real" if kind == "lens" else None,
        "release": "unknown",
    }
    known = labels | real.facts
    return known | {"host_id": known["target_id"]}


def _real_row(
    real: RealPixels,
    labels: dict[str, Any],
    size: int,
    given: NDArray[Any] | None,
    assumed: AssumedPsf,
) -> dict[str, Any]:
    supplied = real.psf if real.psf is not None else given
    scale = real.pixel_scale_arcsec
    kernels = supplied if supplied is not None else assumed.kernels(scale)
    clean = np.where(np.all(np.isfinite(real.image), axis=0), real.image, 0.0)
    x, y = real.centre or find_centre(clean)
    try:
        image, x_stamp, y_stamp = crop(real.image, size, x, y, where=real.where)
    except StampError as error:
        raise DataError(real.where, f"does not hold a stamp of {size} pixels: {error.problem}") from error
    row = labels | _sky_columns(real, labels, x, y) | {"pixel_scale_arcsec": scale}
    row |= {"x_center_pix": x_stamp, "y_center_pix": y_stamp}
    row |= {"psf_source": "assumed" if supplied is None else "measured"}
    row |= {"noise_source": "blank_pixels" if real.invvar is None else "invvar"}
    sizes = assumed.psfsize_arcsec if supplied is None else [measure_fwhm(k, scale) for k in kernels]
    row |= {f"psfsize_{band}": float(s) for band, s in zip(BANDS, sizes, strict=True)}
    reject = _reject(image)
    if reject is not None:
        return row | dict.fromkeys([f"psfdepth_{band}" for band in BANDS], 0.0) | {"reject": reject}
    blank = blank_pixels(clean, x, y, scale)
    sigma_w = blank_sigma_w(clean, blank) if real.invvar is None else _supplied_sigma(real.invvar, blank)
    depth = [1.0 / (s**2 * n_eff(k)) for s, k in zip(sigma_w, kernels, strict=True)]
    row |= {f"psfdepth_{band}": float(d) for band, d in zip(BANDS, depth, strict=True)}
    if not np.all(np.isfinite(sigma_w)):
        return row | {"reject": "missing_band"}
    full = invvar_from_blank(clean, sigma_w, scale) if real.invvar is None else real.invvar
    invvar, _, _ = crop(np.where(np.isfinite(full) & (full > 0.0), full, 0.0), size, x, y, where=real.where)
    mask = _mask(invvar)
    if real.mask is not None:
        mask |= crop(real.mask, size, x, y, where=real.where)[0]
    cutout = Cutout(image, invvar, mask, kernels, x_stamp, y_stamp, scale, row)
    return row | light_columns(clean, x, y, scale) | pixel_columns(cutout) | {"reject": None}


def _reject(image: NDArray[Any]) -> str | None:
    """Why a stamp (band, y, x) cannot be used, or None."""
    if not np.all(np.abs(image) < np.finfo(np.float32).max):  # NaN is not below it either
        return "not_finite"
    if np.any((image == 0.0).mean(axis=(1, 2)) > EMPTY_SHARE):
        return "missing_band"
    return None


def _supplied_sigma(invvar: NDArray[Any], blank: NDArray[np.bool_]) -> NDArray[np.float64]:
    """White-equivalent noise of blank pixels from a supplied inverse variance, per band [nmgy]."""
    sky = [plane[blank & (plane > 0.0)] for plane in invvar]
    return np.array([1.0 / np.sqrt(np.median(values)) if values.size else np.inf for values in sky])


def _mask(invvar: NDArray[Any]) -> NDArray[np.int32]:
    """Pixels without weight are masked in their band, as the coadds do."""
    mask = np.zeros(invvar.shape[1:], dtype=np.int32)
    for b, band in enumerate(BANDS):
        mask[invvar[b] <= 0.0] |= MASK_BITS[f"ALLMASK_{band.upper()}"]
    return mask


def _sky_columns(real: RealPixels, labels: dict[str, Any], x: float, y: float) -> dict[str, Any]:
    """Position, cell and group; the position of the target by the WCS where the file does not give it."""
    ra, dec = labels.get("ra_deg"), labels.get("dec_deg")
    if (ra is None or dec is None) and real.wcs is not None:
        ra, dec = (float(value) for value in real.wcs.pixel_to_world_values(x, y))
    if ra is None or dec is None:
        return {"ra_deg": None, "dec_deg": None, "cell": None, "group": sky_group(None, labels["host_id"])}
    cell = int(healpix_cell(ra, dec))
    return {"ra_deg": ra, "dec_deg": dec, "cell": cell, "group": sky_group(cell, labels["host_id"])}


def light_columns(image: NDArray[Any], x: float, y: float, scale: float) -> dict[str, Any]:
    """Aperture fluxes, and the shape of the light as measured: not corrected for the PSF."""
    fluxes = aperture_fluxes(image, x, y, scale)
    found = adaptive_moments(detection_image(image), x, y, fixed_centre=True)
    shape = {"light_q": found.q, "light_phi_rad": found.phi} if found is not None else {}
    return {f"flux_{band}": float(flux) for band, flux in zip(BANDS, fluxes, strict=True)} | shape
