"""Targets become stamps from survey coadds: from bricks at hand, or from what a cutout service answered.

Both ways end in the same function, so that the same target gives the same stamp whichever way it came. What
the catalogue knows of a target (fluxes, shape, depth) stands in its row; what it does not know is measured.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import field_validator

from darkhaloscope.contracts.config import Frozen, tagged
from darkhaloscope.contracts.errors import StampError, naming
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.tables import STAMPS, TARGETS, Table
from darkhaloscope.stamps.harvest import light_columns, pixel_columns
from darkhaloscope.stamps.measure import core_mask
from darkhaloscope.stamps.stamp import STAMP_SIZE, crop
from darkhaloscope.survey.bricks import Answer, Mirror, read_brick
from darkhaloscope.survey.cutouts import Cutout, ExtraBand
from darkhaloscope.survey.psf import measure_fwhm, n_eff
from darkhaloscope.survey.release import BANDS, MASK_BITS, PIXEL_SCALE_ARCSEC, find_release
from darkhaloscope.survey.service import CutoutService, read_answers

_KEPT = tuple(name for name in TARGETS.schema.names if name in STAMPS.schema.names)
_ROUND_TYPES = ("PSF", "REX", "DUP", "SIMP")
"""Tractor types that are round by construction: they say nothing of a galaxy's shape."""


class Acceptance(Frozen):
    """What pixels a stamp may have."""

    core_bits: tuple[str, ...] = tagged(
        (
            "BRIGHT",
            "SATUR_G",
            "SATUR_R",
            "SATUR_Z",
            "ALLMASK_G",
            "ALLMASK_R",
            "ALLMASK_Z",
            "BAILOUT",
            "CLUSTER",
        ),
        "A",
        "mask bits that no pixel of the core (r < 5 pixels) may bear",
    )
    min_exposures: int = tagged(
        2, "A", "fewest exposures per band at the centre: a single one keeps its cosmic rays", ge=0
    )
    empty_share: float = tagged(
        0.005, "A", "a band without weight on a larger share of the stamp is missing", ge=0.0, le=1.0
    )

    @field_validator("core_bits")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in MASK_BITS]
        if unknown:
            message = f"mask bit '{unknown[0]}' is unknown; known: {', '.join(MASK_BITS)}"
            raise ValueError(message)
        return names

    @property
    def core_mask_bits(self) -> int:
        """The bits of the core, or-ed."""
        return int(np.bitwise_or.reduce([MASK_BITS[name] for name in self.core_bits], initial=0))


class HarvestBricks(Job):
    """TARGETS to STAMPS from a mirror of coadds; each brick of a shard is opened once."""

    reads: ClassVar[Table] = TARGETS
    writes: ClassVar[Table] = STAMPS
    whole_shards: ClassVar[bool] = True
    psf_source: ClassVar[str] = "psfsize"
    unfingerprinted: ClassVar[frozenset[str]] = frozenset({"mirror"})

    job: Literal["harvest_bricks"] = "harvest_bricks"
    mirror: str
    release: str
    bands: Literal["grz", "griz"] = "grz"
    size: int = tagged(STAMP_SIZE, "K", "the brief's stamps", "pix", ge=32)
    accept: Acceptance = Acceptance()

    def run(self, batch: pa.Table) -> pa.Table:
        """One row for each target, in order."""
        rows = batch.to_pylist()
        answers = self._answers(rows)
        return STAMPS.conform(
            [_row(target, answer, self) for target, answer in zip(rows, answers, strict=True)]
        )

    def _answers(self, rows: list[dict[str, Any]]) -> list[Answer]:
        mirror = Mirror(self.mirror, find_release(self.release))
        answers: list[Answer] = [_refusal(row, self.release) or "" for row in rows]
        wanted = [k for k, answer in enumerate(answers) if not answer]
        wanted.sort(key=lambda k: rows[k]["brickname"])
        for brick, numbers in groupby(wanted, key=lambda k: rows[k]["brickname"]):
            group = list(numbers)
            ra, dec = ([rows[k][axis] for k in group] for axis in ("ra_deg", "dec_deg"))
            with naming(brick=brick):
                found = read_brick(mirror, brick, ra, dec, size=self.size, bands=self.bands)
            for k, answer in zip(group, found, strict=True):
                answers[k] = answer
        return answers


class HarvestAnswers(Job):
    """TARGETS to STAMPS from the answers of a cutout service that lie in a cache."""

    reads: ClassVar[Table] = TARGETS
    writes: ClassVar[Table] = STAMPS
    psf_source: ClassVar[str] = "measured"
    unfingerprinted: ClassVar[frozenset[str]] = frozenset({"cache"})

    job: Literal["harvest_answers"] = "harvest_answers"
    cache: str
    service: CutoutService
    accept: Acceptance = Acceptance()

    @property
    def size(self) -> int:
        """Side of the stamps [pixel]."""
        return self.service.size

    def run(self, batch: pa.Table) -> pa.Table:
        """One row for each target, in order."""
        rows = []
        for target in batch.to_pylist():
            with naming(target_id=target["target_id"]):
                refused = _refusal(target, self.service.release)
                answer = refused or read_answers(self.service, target, Path(self.cache))
                rows.append(_row(target, answer, self))
        return STAMPS.conform(rows)


def _refusal(target: Mapping[str, Any], release: str) -> str | None:
    """A target that was refused before, or belongs to another release."""
    if target["reject"] is not None:
        return str(target["reject"])
    return "wrong_release" if target["release"] != release else None


def _row(target: Mapping[str, Any], answer: Answer, job: "HarvestBricks | HarvestAnswers") -> dict[str, Any]:
    """A row of STAMPS. Blobs are there only where the stamp can be used."""
    row = {name: target[name] for name in _KEPT}
    if isinstance(answer, str):
        return _without_pixels(row, answer, job.size)
    row |= {key: value for key, value in answer.row.items() if value is not None}
    row |= {"psf_source": job.psf_source, "noise_source": "invvar"}
    try:
        stamp = _cropped(answer, job.size)
    except StampError:
        return _without_pixels(row, "brick_edge", job.size)
    row |= _psf_columns(row, stamp)
    code = _fault(stamp, row, job.accept)
    if code is not None:
        return _without_pixels(row, code, job.size)
    return _measured(row, stamp) | pixel_columns(stamp) | {"reject": None}


def _without_pixels(row: dict[str, Any], code: str, size: int) -> dict[str, Any]:
    """The row of a target that has no stamp: what is known of it, and why."""
    unknown: dict[str, Any] = {f"{stem}_{band}": 0.0 for stem in ("psfsize", "psfdepth") for band in BANDS}
    unknown |= {"psf_source": "none", "noise_source": "none", "pixel_scale_arcsec": PIXEL_SCALE_ARCSEC}
    unknown |= {"x_center_pix": float(size // 2), "y_center_pix": float(size // 2)}
    return unknown | {key: value for key, value in row.items() if value is not None} | {"reject": code}


def _cropped(cutout: Cutout, size: int) -> Cutout:
    """The stamp's own pixels of a cutout."""
    x, y = cutout.x_center_pix, cutout.y_center_pix

    def cut(plane: NDArray[Any]) -> NDArray[Any]:
        return crop(plane, size, x, y)[0]

    _, x_stamp, y_stamp = crop(cutout.mask, size, x, y)
    extra = {band: ExtraBand(cut(e.image), cut(e.invvar), e.psf) for band, e in cutout.extra.items()}
    return replace(
        cutout,
        image=cut(cutout.image),
        invvar=cut(cutout.invvar),
        mask=cut(cutout.mask),
        x_center_pix=x_stamp,
        y_center_pix=y_stamp,
        extra=extra,
    )


def _fault(stamp: Cutout, row: Mapping[str, Any], accept: Acceptance) -> str | None:
    """Why a stamp that was read cannot be used, or None."""
    planes = [*stamp.image, *(extra.image for extra in stamp.extra.values())]
    weights = [*stamp.invvar, *(extra.invvar for extra in stamp.extra.values())]
    if not all(np.isfinite(plane).all() for plane in (*planes, *weights)):
        return "not_finite"
    if any(
        np.mean((plane == 0.0) & (weight <= 0.0)) > accept.empty_share
        for plane, weight in zip(planes, weights, strict=True)
    ):
        return "missing_band"
    exposures = [row.get(f"nexp_{band}") for band in BANDS]
    if any(count is not None and count < accept.min_exposures for count in exposures):
        return "too_few_exposures"
    core = core_mask(stamp.mask.shape, stamp.x_center_pix, stamp.y_center_pix)
    masked = stamp.mask & accept.core_mask_bits
    if np.any(masked[core] != 0) or np.any(stamp.invvar[:, core] <= 0.0):
        return "host_masked"
    return None


def _psf_columns(row: Mapping[str, Any], stamp: Cutout) -> dict[str, Any]:
    """Seeing and depth: the catalogue's where it has them."""
    found: dict[str, Any] = {}
    for band, kernel, invvar in zip(BANDS, stamp.psf, stamp.invvar, strict=True):
        if row.get(f"psfsize_{band}") is None:
            found[f"psfsize_{band}"] = float(measure_fwhm(kernel, stamp.pixel_scale_arcsec))
        if row.get(f"psfdepth_{band}") is None:
            weighted = invvar[invvar > 0.0]
            found[f"psfdepth_{band}"] = float(np.median(weighted) / n_eff(kernel)) if weighted.size else 0.0
    return found


def _measured(row: dict[str, Any], stamp: Cutout) -> dict[str, Any]:
    """Light of the target: the catalogue's fluxes and shape, measured ones where it has none."""
    shaped = row["shape_e1"] is not None and row["type"] not in _ROUND_TYPES
    if shaped and all(row[f"flux_{band}"] is not None for band in BANDS):
        return row | _light_axis(row["shape_e1"], row["shape_e2"])
    measured = light_columns(stamp.image, stamp.x_center_pix, stamp.y_center_pix, stamp.pixel_scale_arcsec)
    if shaped:
        measured |= _light_axis(row["shape_e1"], row["shape_e2"])
    return measured | {key: value for key, value in row.items() if value is not None}


def _light_axis(shape_e1: float, shape_e2: float) -> dict[str, Any]:
    """Axis ratio and major axis, +x (west) to +y (north); the Tractor's runs from north through east."""
    modulus = min(float(np.hypot(shape_e1, shape_e2)), 1.0)
    return {
        "light_q": (1.0 - modulus) / (1.0 + modulus),
        "light_phi_rad": float(0.5 * np.arctan2(0.0 - shape_e2, 0.0 - shape_e1)),
    }
