"""Every pair, pixel by pixel, in one pass: the job that looks, and the findings over all rows.

A worker decodes a batch of pairs into four arrays and notes, row by row, the names of the checks that a row
breaks, beside a few numbers that only mean something over many rows: where the light's centre lies, how much
light there is, and a signature by which an image is known again. `pair_findings` makes findings of them.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats as distributions

from darkhaloscope.contracts.checks import Check, Finding, Findings, below, exactly
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.store import Dataset
from darkhaloscope.contracts.tables import PAIR_AUDIT, PAIRED_STAMPS, Table
from darkhaloscope.dataset.signatures import signatures
from darkhaloscope.stamps.blocks import Blobs, Block
from darkhaloscope.stamps.measure import CORE_BOX_PIX, FOOTPRINT_SIGMAS, core_mask
from darkhaloscope.stamps.stamp import STAMP_SIZE
from darkhaloscope.survey.release import BANDS, to_magnitude

Cube = NDArray[np.float32]

LARGEST_FLUX_NMGY = 1e6
SMALLEST_VARIANCE = 1e-10
SNR_TOLERANCE = 0.01
RESIDUAL_SIGMAS = 8.0
SAME_PIXELS = 4
ARC_FLUX_SHARE = (0.4, 1.1)
CENTERING_PIX = 0.2
REGISTRATION_PIX = 0.12
BAND_FLUX_DEX = 0.15
FLUX_SCALE_DEX = 0.6
TYPICAL_SIGMA_NMGY = 0.01
SIGMA_DEX = 1.0
LEAST_ROWS = 20
EXAMPLES = 3
_CHUNK = 16

_R = BANDS.index("r")
_BLOBS = {"stamp_npz": "image", "ctrl_stamp_npz": "image", "arc_npz": "arc", "invvar_npz": "invvar"}
_STRATA = ("theta_e_arcsec", "arc_snr", "arc_snr_mf", "psf_fwhm_arcsec", "kappa_r5")
_DECLARED = (
    *_STRATA, *(f"{stem}_{band}" for stem in ("gain", "lensed_mag") for band in BANDS),
    "x_center_pix", "y_center_pix", "flux_mode",
)  # fmt: skip


def _zero(name: str, why: str) -> Check:
    return Check(name=name, bound=exactly(0), why=why)


PAIR_CHECKS = {
    name: _zero(name, why)
    for name, why in {
        "pair_decodes": "a blob that cannot be read is not data",
        "pair_shape": "stamp, control and arc are the same size and have g, r and z",
        "pair_finite": "one NaN stamp makes the loss NaN hundreds of batches later",
        "pair_range": "fluxes beyond ±1e6 nmgy are a unit mistake",
        "pair_variance": "a constant band is missing data, not sky",
        "pair_blank": "pixels of exactly 0 that claim to be observed are missing data, not sky",
        "pair_clipped": "pixels that share the largest value were clipped, which hides arcs and shortcuts",
        "pair_identical": "a control equal to its stamp is a mislabelled negative",
        "sham_identical": "an injection of zero flux must leave every pixel as it was",
        "pair_control_identity": "outside the arc's footprint stamp and control are the same bits: whatever "
        "differs there tells the label",
        "pair_footprint": "an arc ends where it falls below 1e-3 of the pixel noise",
        "pair_residual": "stamp minus control must be the declared arc, within its shot noise",
        "pair_arc_flux": "the arc's flux in each band must be the declared lensed magnitude's",
        "pair_arc_snr": "the recorded arc_snr must be what the pixels say",
        "pair_arc_snr_mf": "the recorded arc_snr_mf must be what the pixels say: floor and strata use it",
        "pair_strata": "without theta_E, S/N and seeing no result has strata",
    }.items()
}
OF_ARCS = (
    "pair_identical", "pair_footprint", "pair_residual", "pair_arc_flux", "pair_arc_snr", "pair_arc_snr_mf",
    "pair_strata",
)  # fmt: skip
"""Checks that mean nothing where no light was added."""

OVER_ALL = {
    "pair_centering": Check(
        name="pair_centering",
        bound=below(CENTERING_PIX),
        why="half a pixel between declared and true centres moves every mask and every arc [pix, median]",
        needs_n=LEAST_ROWS,
    ),
    "pair_registration": Check(
        name="pair_registration",
        bound=below(REGISTRATION_PIX),
        why="bands shifted against each other teach the network a colour gradient [pix, median]",
        needs_n=LEAST_ROWS,
    ),
    "pair_band_order": Check(
        name="pair_band_order",
        bound=below(BAND_FLUX_DEX),
        why="light over catalogue flux is the same in every band unless bands are swapped; without one, "
        "galaxies are at least red [dex, median]",
        needs_n=LEAST_ROWS,
    ),
    "pair_units": Check(
        name="pair_units",
        bound=below(FLUX_SCALE_DEX),
        why="in nanomaggies light over catalogue flux is of order one; without a catalogue the noise must be "
        "that of the survey within a factor of ten [dex, median]",
        needs_n=LEAST_ROWS,
    ),
}


@dataclass(frozen=True)
class _Pixels:
    """The four cubes of some rows of one batch, and what the rows declare."""

    stamp: Cube
    control: Cube
    arc: Cube
    invvar: Cube
    declared: dict[str, NDArray[Any]]

    def at(self, rows: "slice | NDArray[np.intp]") -> "_Pixels":
        """Some of the rows."""
        return _Pixels(
            stamp=self.stamp[rows],
            control=self.control[rows],
            arc=self.arc[rows],
            invvar=self.invvar[rows],
            declared={name: values[rows] for name, values in self.declared.items()},
        )


class VerifyPairs(Job):
    """Look at every pixel of every pair: PAIRED_STAMPS to PAIR_AUDIT.

    sham   the pairs are injections of zero flux: stamp and control must be equal instead of different
    size   side of the stamps [pix]
    """

    reads: ClassVar[Table] = PAIRED_STAMPS
    writes: ClassVar[Table] = PAIR_AUDIT

    whole_shards: ClassVar[bool] = True  # what the table promises is checked column by column, once a shard

    job: Literal["verify_pairs"] = "verify_pairs"
    sham: bool = False
    size: int = Field(default=STAMP_SIZE, ge=16)

    def run(self, batch: pa.Table) -> pa.Table:
        """One row for each pair, in order."""
        out = _Audit(batch)
        used = np.flatnonzero(pc.is_null(batch.column("reject")).to_numpy(zero_copy_only=False))
        declared = {name: _values(batch.column(name)) for name in _DECLARED}
        names, shape = batch.column("task_id").to_pylist(), (self.size, self.size)
        blobs = [Blobs(batch.column(c), prefix, shape, where=names) for c, prefix in _BLOBS.items()]
        desk = _Desk(min(_CHUNK, len(used)), shape)
        for start in range(0, len(used), _CHUNK):
            self._chunk(blobs, used[start : start + _CHUNK], declared, out, desk)
        return out.table()

    def _chunk(
        self,
        blobs: list[Blobs],
        at: NDArray[np.intp],
        declared: dict[str, NDArray[Any]],
        out: "_Audit",
        desk: "_Desk",
    ) -> None:
        """A few rows: their pixels stay in the processor's cache from the checksum to the last check."""
        blocks = [
            column.block(at, desk.cube(name, len(at))) for name, column in zip(_BLOBS, blobs, strict=True)
        ]
        sound = [k for k, row in enumerate(at) if out.takes_blobs(row, k, blocks)]
        stamp, control, arc, invvar = (block.planes for block in blocks)
        pixels = _Pixels(stamp, control, arc, invvar, {name: values[at] for name, values in declared.items()})
        if len(sound) < len(at):
            pixels, at = pixels.at(np.asarray(sound, dtype=np.intp)), at[sound]
        if len(at):
            _look(pixels, at, out, desk, sham=self.sham)

    def finish(self, rows: pa.Table) -> Findings:
        """Findings over the audited rows; see `pair_findings`."""
        return pair_findings([rows], sham=self.sham)


class _Desk:
    """Arrays that are used again for every few rows: fresh memory costs more than the arithmetic on it."""

    def __init__(self, rows: int, shape: tuple[int, int]) -> None:
        self._size = (rows, len(BANDS), *shape)
        self._arrays: dict[str, NDArray[Any]] = {}

    def cube(self, name: str, rows: int, kind: Any = np.float32) -> NDArray[Any]:
        """(rows, band, y, x) under a name; what stood there before is gone."""
        if name not in self._arrays:
            self._arrays[name] = np.empty(self._size, dtype=kind)
        found: NDArray[Any] = self._arrays[name][:rows]
        return found


class _Audit:
    """Rows of PAIR_AUDIT in the making."""

    def __init__(self, batch: pa.Table) -> None:
        self.batch, self.n = batch, batch.num_rows
        self.faults: list[list[str]] = [[] for _ in range(self.n)]
        self.numbers: dict[str, NDArray[Any]] = {}
        self.signed = np.zeros(self.n, dtype=bool)

    def takes_blobs(self, row: int, at: int, blocks: Sequence[Block]) -> bool:
        """Whether a pair can be looked at; if not, its fault is noted. `at` is its place in the blocks."""
        if any(at in block.unreadable for block in blocks):
            self.faults[row].append("pair_decodes")
        elif any(at in block.thin for block in blocks):
            self.faults[row].append("pair_variance")
        elif any(at in block.resized for block in blocks):
            self.faults[row].append("pair_shape")
        return not self.faults[row]

    def note(self, name: str, broken: Any, at: NDArray[np.intp]) -> None:
        """Put a fault down to the rows that show it."""
        for row in at[broken]:
            self.faults[row].append(name)

    def fill(self, name: str, values: NDArray[Any], at: NDArray[np.intp]) -> None:
        """Put a number down to its rows."""
        blank: Any = 0 if values.dtype.kind == "i" else np.nan
        self.numbers.setdefault(name, np.full(self.n, blank, dtype=values.dtype))[at] = values

    def table(self) -> pa.Table:
        """The rows."""
        carried = (
            "target_id",
            "host_id",
            "host_domain",
            "source_id",
            "brickname",
            "ra_deg",
            "dec_deg",
            "cell",
        )
        columns: dict[str, Any] = {name: self.batch.column(name) for name in (*carried, "reject")}
        columns |= {f"flux_{band}": self.batch.column(f"flux_{band}") for band in BANDS}
        columns |= {
            name: pa.array(values, mask=~self.signed if values.dtype.kind == "i" else np.isnan(values))
            for name, values in self.numbers.items()
        }
        schema_faults: list[list[str]] = [[] for _ in range(self.n)]
        for promise, mask in PAIRED_STAMPS.violations(self.batch):
            for row in np.flatnonzero(mask.to_numpy()):
                schema_faults[row].append(promise)
        return PAIR_AUDIT.conform(
            columns
            | {
                "row_id": self.batch.column("task_id"),
                "faults": [" ".join(names) or None for names in self.faults],
                "schema_faults": ["; ".join(names) or None for names in schema_faults],
            }
        )


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_string(column.type):
        return np.asarray(column.to_pylist(), dtype=object)
    return np.asarray(pc.fill_null(column, float("nan")).to_numpy(), dtype=np.float64)


def _look(pixels: _Pixels, at: NDArray[np.intp], out: _Audit, desk: _Desk, *, sham: bool) -> None:
    """All checks of some decoded pairs; a pair that is not finite or has no sky gets no further ones."""
    difference = _difference(pixels, desk)
    finite = np.isfinite(difference.residual)
    out.note("pair_finite", ~finite, at)
    flat = _flat(pixels.stamp) | _flat(pixels.control)
    out.note("pair_variance", flat & finite, at)
    good = finite & ~flat
    out.note("pair_range", (_large(pixels.stamp) | _large(pixels.control)) & good, at)
    if not good.all():
        keep = np.flatnonzero(good)
        pixels, difference, at = pixels.at(keep), difference.at(keep), at[keep]
    if len(at):
        _look_at_control(pixels, at, out)
        _look_at_arc(pixels, difference, at, out, desk, sham=sham)


@dataclass(frozen=True)
class _Difference:
    """What stands between stamp and control.

    changed    pixels that differ
    weight     1/sigma of each pixel
    snr        arc/sigma
    residual   largest |stamp - control - arc|/sigma of each row; not finite where any of the pixels is not
    """

    changed: NDArray[np.bool_]
    weight: Cube
    snr: Cube
    residual: NDArray[np.float32]

    def at(self, rows: NDArray[np.intp]) -> "_Difference":
        """Some of the rows."""
        return _Difference(self.changed[rows], self.weight[rows], self.snr[rows], self.residual[rows])


def _difference(pixels: _Pixels, desk: _Desk) -> _Difference:
    n = len(pixels.stamp)
    added, weight, snr = (desk.cube(name, n) for name in ("added", "weight", "snr"))
    changed = desk.cube("changed", n, bool)
    with np.errstate(invalid="ignore", over="ignore"):
        np.subtract(pixels.stamp, pixels.control, out=added)
        np.not_equal(added, 0.0, out=changed)
        np.sqrt(np.maximum(pixels.invvar, 0.0, out=weight), out=weight)
        np.multiply(pixels.arc, weight, out=snr)
        added -= pixels.arc
        added *= weight
        np.abs(added, out=added)
        return _Difference(changed, weight, snr, added.reshape(n, -1).max(axis=1))


def _large(cube: Cube) -> NDArray[np.bool_]:
    """Rows with a pixel beyond the largest flux; a small sum of squares proves that there is none."""
    planes = cube.reshape(len(cube), -1)
    large = np.zeros(len(cube), dtype=bool)
    with np.errstate(over="ignore", invalid="ignore"):
        doubtful = ~(np.einsum("ij,ij->i", planes, planes) < LARGEST_FLUX_NMGY**2)
    for row in np.flatnonzero(doubtful):
        large[row] = np.abs(planes[row]).max() > LARGEST_FLUX_NMGY
    return large


def _flat(cube: Cube) -> NDArray[np.bool_]:
    """Rows with a band whose variance is below the least that a sky can have.

    Two pixels that differ by d give n pixels a variance of at least d²/2n: a line of each plane proves it for
    most of them.
    """
    pixels = cube.shape[-2] * cube.shape[-1]
    line = cube[:, :, cube.shape[2] // 4].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        spread = line.max(axis=-1) - line.min(axis=-1)
        doubtful = ~(spread**2 > 2 * pixels * SMALLEST_VARIANCE)
    flat = np.zeros(len(cube), dtype=bool)
    for row, band in zip(*np.nonzero(doubtful), strict=True):
        flat[row] |= bool(cube[row, band].var(dtype=np.float64) < SMALLEST_VARIANCE)
    return flat


def _look_at_control(pixels: _Pixels, at: NDArray[np.intp], out: _Audit) -> None:
    """What the untouched galaxy shows: clipped or blank pixels, its centre, its light, its signature."""
    control, invvar = pixels.control, pixels.invvar
    out.note("pair_clipped", _clipped(control), at)
    out.note("pair_blank", _blank(control, invvar), at)
    background = _background(control)
    x, y = pixels.declared["x_center_pix"], pixels.declared["y_center_pix"]
    dx, dy = _centroids(control, background, x, y)
    light, sigma = _light(control, background), _corner_sigma(invvar)
    first, second = signatures(control[:, _R], invvar[:, _R])
    for k, band in enumerate(BANDS):
        out.fill(f"x_offset_{band}", dx[:, k], at)
        out.fill(f"y_offset_{band}", dy[:, k], at)
        out.fill(f"light_{band}", light[:, k], at)
        out.fill(f"sigma_{band}", sigma[:, k], at)
    out.fill("signature_a", first, at)
    out.fill("signature_b", second, at)
    out.signed[at] = True


def _clipped(cube: Cube) -> NDArray[np.bool_]:
    """Rows in which several pixels of the middle share its largest value: noise never ties."""
    half, middle = CORE_BOX_PIX, cube.shape[-1] // 2
    box = cube[:, :, middle - half : middle + half, middle - half : middle + half]
    top = box.max(axis=(2, 3), keepdims=True)
    return np.asarray(((box == top).sum(axis=(2, 3)) >= SAME_PIXELS).any(axis=1))


def _blank(cube: Cube, invvar: Cube) -> NDArray[np.bool_]:
    """Rows with pixels of exactly 0 that have a noise."""
    blank = np.zeros(len(cube), dtype=bool)
    if np.count_nonzero(cube) == cube.size:
        return blank
    zero = cube.reshape(len(cube), -1) == 0.0
    for row in np.flatnonzero(zero.any(axis=1)):
        blank[row] = np.count_nonzero(zero[row] & (invvar[row].ravel() > 0.0)) >= SAME_PIXELS
    return blank


_CORNER = 8


def _corners(cube: Cube) -> Cube:
    """Pixels of the four corners of each plane, (n, band, pixel)."""
    n = _CORNER
    rows = np.concatenate([cube[:, :, :n], cube[:, :, -n:]], axis=2)
    corners: Cube = np.concatenate([rows[..., :n], rows[..., -n:]], axis=3)
    return corners.reshape(*cube.shape[:2], -1)


def _background(cube: Cube) -> Cube:
    """Median of the corners of each plane, (n, band)."""
    middle: Cube = np.median(_corners(cube), axis=2).astype(np.float32)
    return middle


def _corner_sigma(invvar: Cube) -> NDArray[np.float64]:
    """Pixel noise in the corners of each plane, (n, band) [nmgy]; NaN where they are masked."""
    weight = _corners(invvar).mean(axis=2).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight > 0.0, 1.0 / np.sqrt(weight), np.nan)


_WINDOW_PIX = 2.0
_HALF_BOX = 8


def _centroids(
    cube: Cube, background: Cube, x_center: NDArray[np.float64], y_center: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offset of the light from the declared centres, (n, band) each [pix]; NaN where there is no light.

    A first moment under a Gaussian window of width s falls short of the offset by 1 - m2/s² for Gaussian
    light, m2 being the second moment under the same window; it is divided by that.
    """
    middle = cube.shape[-1] // 2
    box = slice(middle - _HALF_BOX, middle + _HALF_BOX)
    light = cube[:, :, box, box].astype(np.float64) - background[..., None, None]
    pixel = np.arange(box.start, box.stop)
    dx, dy = pixel - x_center[:, None], pixel - y_center[:, None]
    light *= np.exp(-0.5 * (dx / _WINDOW_PIX) ** 2)[:, None, None, :]
    light *= np.exp(-0.5 * (dy / _WINDOW_PIX) ** 2)[:, None, :, None]
    return _moment(light.sum(axis=2), dx[:, None]), _moment(light.sum(axis=3), dy[:, None])


def _moment(light: NDArray[np.float64], d: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offset along one axis from the windowed light (n, band, pixel) at distances d from the centre."""
    total = light.sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = (light * d).sum(axis=2) / total
        second = (light * d**2).sum(axis=2) / total - first**2
        return np.where(total > 0, first / np.maximum(1.0 - second / _WINDOW_PIX**2, 0.1), np.nan)


_APERTURE_PIX = 8.0


@functools.lru_cache(maxsize=4)
def _aperture(height: int, width: int) -> NDArray[np.intp]:
    return np.flatnonzero(core_mask((height, width), radius_pix=_APERTURE_PIX))


def _light(cube: Cube, background: Cube) -> NDArray[np.float64]:
    """Background-subtracted flux within 8 px of the middle, (n, band)."""
    inside = cube.reshape(*cube.shape[:2], -1)[..., _aperture(*cube.shape[2:])].astype(np.float64)
    return np.asarray((inside - background[..., None]).sum(axis=-1))


def _look_at_arc(
    pixels: _Pixels, difference: _Difference, at: NDArray[np.intp], out: _Audit, desk: _Desk, *, sham: bool
) -> None:
    """What stands between stamp and control."""
    arc, declared, changed = pixels.arc, pixels.declared, difference.changed
    identical = ~changed.reshape(len(changed), -1).any(axis=1)
    if sham:
        out.note("sham_identical", ~identical, at)
        return
    out.note("pair_identical", identical, at)
    dark, faint = (desk.cube(name, len(arc), bool) for name in ("dark", "faint"))
    np.equal(arc, 0.0, out=dark)
    np.less(difference.snr, 0.99 * FOOTPRINT_SIGMAS, out=faint)
    out.note("pair_control_identity", _any_row(changed & dark), at)
    out.fill("residual_sigmas", difference.residual.astype(np.float64), at)
    out.note("pair_residual", (difference.residual > RESIDUAL_SIGMAS) & ~identical, at)
    if np.count_nonzero(faint) != np.count_nonzero(dark):  # masked pixels, or light below the limit
        out.note("pair_footprint", _any_row(faint & (difference.snr != 0.0)), at)
    _look_at_flux(arc, declared, at, out)
    peak, matched = _snr(difference, declared, desk)
    for name, found in (("arc_snr", peak), ("arc_snr_mf", matched)):
        out.fill(f"{name}_found", found, at)
        off = np.abs(found - declared[name]) > SNR_TOLERANCE * np.maximum(declared[name], 1e-3)
        out.note(f"pair_{name}", off | ~np.isfinite(declared[name]), at)
    unknown = np.any([~(declared[name] > 0.0) for name in _STRATA if name != "kappa_r5"], axis=0)
    out.note("pair_strata", unknown | np.isnan(declared["kappa_r5"]), at)


def _any_row(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows with any marked pixel; mostly there is none at all."""
    if not np.count_nonzero(mask):
        return np.zeros(len(mask), dtype=bool)
    return np.asarray(mask.any(axis=(1, 2, 3)))


def _look_at_flux(arc: Cube, declared: dict[str, NDArray[Any]], at: NDArray[np.intp], out: _Audit) -> None:
    flux = arc.reshape(*arc.shape[:2], -1).sum(axis=-1).astype(np.float64)
    found = to_magnitude(np.maximum(flux, 1e-30))
    wanted = np.stack([declared[f"lensed_mag_{band}"] for band in BANDS], axis=1)
    share = 10.0 ** (-0.4 * (found - wanted))
    low, high = ARC_FLUX_SHARE
    out.note("pair_arc_flux", ~((share > low) & (share < high)).all(axis=1), at)


def _snr(
    difference: _Difference, declared: dict[str, NDArray[Any]], desk: _Desk
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Peak S/N in r and matched-filter S/N, as before the arc's own photons were added.

    The stored inverse variance w has them in: 1/w = 1/w0 + a/G, so that a²w0 = (a²w) / (1 - aw/G).
    """
    gain = np.stack([declared[f"gain_{band}"] for band in BANDS], axis=1).astype(np.float32)
    snr = difference.snr
    own, square = (desk.cube(name, len(snr)) for name in ("added", "square"))
    with np.errstate(divide="ignore", invalid="ignore"):
        np.multiply(snr, difference.weight, out=own)
        own *= (-1.0 / gain)[..., None, None]
        own += 1.0
        np.multiply(snr, snr, out=square)
        square /= own
        peak = np.sqrt(square[:, _R].max(axis=(1, 2)).astype(np.float64))
        # A sum in another type would run through a buffer whose edges depend on the batch.
        return peak, np.sqrt(square.reshape(len(square), -1).sum(axis=1).astype(np.float64))


# --- findings over all rows ------------------------------------------------------------------------------


def pair_findings(
    audits: Iterable[pa.Table], *, sham: bool = False, registration_pix: float = 0.0
) -> Findings:
    """Findings of the pairs that were audited, over all tables together. Nothing looked at is no pass.

    registration_pix   scatter by which the recipe shifts each band along each axis, which is no fault [pix]
    """
    rows = pa.concat_tables(list(audits))
    used = rows.filter(pc.is_null(rows.column("reject")))
    return Findings(
        [*_schema(rows), *_by_name(used, sham=sham), *([] if sham else _over_all(used, registration_pix))]
    )


def check_pairs(pairs: Dataset, *, sham: bool = False, size: int = STAMP_SIZE) -> Findings:
    """Audit a dataset in this process, shard by shard, and give its findings."""
    pairs.expect(PAIRED_STAMPS)
    job = VerifyPairs(sham=sham, size=size)
    audits = [job.run(pairs.read_shard(key)) for key in pairs.keys]
    return pair_findings(audits or [PAIR_AUDIT.schema.empty_table()], sham=sham)


def _schema(rows: pa.Table) -> Iterator[Finding]:
    check = _zero(f"schema_{PAIRED_STAMPS.name}", "rows that break the declared table")
    counts: Counter[str] = Counter()
    first: dict[str, list[str]] = {}
    told = rows.filter(pc.is_valid(rows.column("schema_faults")))
    for row, promises in zip(*(told.column(c).to_pylist() for c in ("row_id", "schema_faults")), strict=True):
        for promise in promises.split("; "):
            counts[promise] += 1
            first.setdefault(promise, []).append(row)
    repeated = rows.num_rows - int(pc.count_distinct(rows.column("row_id")).as_py())
    if repeated:
        counts[f"{PAIRED_STAMPS.key} repeated"] = repeated
    for promise, count in counts.items():
        yield check.measure(
            count, n=rows.num_rows, detail=promise, examples=first.get(promise, [])[:EXAMPLES]
        )
    if not counts:
        yield check.measure(0, n=rows.num_rows)


def _by_name(used: pa.Table, *, sham: bool) -> Iterator[Finding]:
    told = used.filter(pc.is_valid(used.column("faults")))
    counts: Counter[str] = Counter()
    first: dict[str, list[str]] = {}
    for row, names in zip(*(told.column(c).to_pylist() for c in ("row_id", "faults")), strict=True):
        for name in names.split():
            counts[name] += 1
            if counts[name] <= EXAMPLES:
                first.setdefault(name, []).append(row)
    for check in PAIR_CHECKS.values():
        if (check.name in OF_ARCS and sham) or (check.name == "sham_identical" and not sham):
            continue
        if not used.num_rows:
            yield check.not_evaluated("there is no pair to look at", n=0, needs_n=1)
            continue
        yield check.measure(counts[check.name], n=used.num_rows, examples=first.get(check.name, ()))


def _over_all(used: pa.Table, registration_pix: float) -> Iterator[Finding]:
    """Medians over the rows: what a single noisy galaxy cannot show."""
    dx, dy = (np.stack([_floats(used, f"{axis}_offset_{band}") for band in BANDS], axis=1) for axis in "xy")
    yield _centering(dx[:, _R], dy[:, _R])
    light, flux, sigma = (
        np.stack([_floats(used, f"{n}_{b}") for b in BANDS], axis=1) for n in ("light", "flux", "sigma")
    )
    yield _registration(dx, dy, light, registration_pix)
    yield from _photometry(light, flux, sigma)


def _floats(rows: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(pc.fill_null(rows.column(name), float("nan")).to_numpy(), dtype=np.float64)


def _centering(dx: NDArray[np.float64], dy: NDArray[np.float64]) -> Finding:
    known = np.isfinite(dx) & np.isfinite(dy)
    n, check = int(known.sum()), OVER_ALL["pair_centering"]
    if n < LEAST_ROWS:
        return check.measure(None, n=n, detail=f"{n} galaxies have a centre to measure")
    x, y = float(np.median(dx[known])), float(np.median(dy[known]))
    return check.measure(np.hypot(x, y), n=n, detail=f"x {x:+.3f}, y {y:+.3f} pix in r")


def _registration(
    dx: NDArray[np.float64], dy: NDArray[np.float64], light: NDArray[np.float64], declared_pix: float
) -> Finding:
    """The worse of g and z against r: how far apart the centres of the bright galaxies lie, in the median.

    Bright: the third with most light in the band, whose centres are known to a few hundredths of a pixel.
    What a recipe declares is taken out in quadrature: two bands that are each shifted by a normal number
    along each axis lie apart by a Rayleigh one, in the median by sqrt(2 ln 2) sqrt(2) of its scatter. The
    median of few such numbers is uncertain: its 99 % interval's lower end is then held against the bound.
    """
    check, values, notes, n = OVER_ALL["pair_registration"], [], [], 0
    expected = math.sqrt(4.0 * math.log(2.0)) * declared_pix
    for k, band in enumerate(BANDS):
        apart = np.hypot(dx[:, k] - dx[:, _R], dy[:, k] - dy[:, _R])
        apart, bright = apart[np.isfinite(apart)], light[np.isfinite(apart), k]
        apart = apart[np.argsort(bright)[-max(len(apart) // 3, LEAST_ROWS) :]]
        if band != "r" and len(apart) >= LEAST_ROWS:
            middle = float(np.median(apart))
            least = middle if not expected else _median_low(apart)
            values.append(math.sqrt(max(least**2 - expected**2, 0.0)))
            notes.append(f"{band} {middle:.3f}")
            n = max(n, len(apart))
    told = f"from r: {', '.join(notes) or 'unknown'}"
    if expected:
        told += f"; {expected:.3f} is what the recipe declares, and taken out"
    return check.measure(max(values, default=None), n=n, detail=told)


def _median_low(values: NDArray[np.float64]) -> float:
    """Lower end of the 99 % interval of a median: an order statistic, whatever the distribution."""
    rank = int(distributions.binom.ppf(0.005, len(values), 0.5))
    return float(np.sort(values)[max(rank - 1, 0)])


def _photometry(
    light: NDArray[np.float64], flux: NDArray[np.float64], sigma: NDArray[np.float64]
) -> Iterator[Finding]:
    known = ((light > 0) & (flux > 0)).all(axis=1)
    n, order, units = int(known.sum()), OVER_ALL["pair_band_order"], OVER_ALL["pair_units"]
    if n < LEAST_ROWS:
        yield from _photometry_without_catalogue(light, sigma)
        return
    ratio = np.median(np.log10(light[known] / flux[known]), axis=0)
    text = "light over catalogue flux: " + ", ".join(
        f"{b} {10**x:.3g}" for b, x in zip(BANDS, ratio, strict=True)
    )
    yield order.measure(float(np.abs(ratio - np.median(ratio)).max()), n=n, detail=text)
    yield units.measure(float(np.abs(ratio).max()), n=n, detail=text)


def _photometry_without_catalogue(
    light: NDArray[np.float64], sigma: NDArray[np.float64]
) -> Iterator[Finding]:
    """What pixels alone can say: galaxies are red, and a survey's noise is known to a factor of ten."""
    order, units = OVER_ALL["pair_band_order"], OVER_ALL["pair_units"]
    bright = light[(light > 0).all(axis=1)]
    blue = np.log10(bright[:, :-1] / bright[:, 1:])
    worst = float(np.maximum(np.median(blue, axis=0), 0.0).max()) if len(bright) else None
    yield order.measure(worst, n=len(bright), detail="no catalogue fluxes: light g over r and r over z")
    known = sigma[np.isfinite(sigma).all(axis=1)]
    if not len(known):
        yield units.measure(None, n=0, detail="neither catalogue fluxes nor a noise to compare with")
        return
    found = np.median(known, axis=0)
    off = np.abs(np.log10(found / TYPICAL_SIGMA_NMGY)).max() - SIGMA_DEX + FLUX_SCALE_DEX
    text = ", ".join(f"{band} {value:.3g}" for band, value in zip(BANDS, found, strict=True))
    yield units.measure(
        max(float(off), 0.0),
        n=len(known),
        detail=f"no catalogue fluxes: pixel noise {text} nmgy; departure from {TYPICAL_SIGMA_NMGY:g} beyond "
        f"{SIGMA_DEX - FLUX_SCALE_DEX:g} dex",
    )
