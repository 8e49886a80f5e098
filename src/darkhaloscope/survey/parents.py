"""The parent sample: declared cuts on the survey's catalogues, streamed, and what each cut removed.

A selection function needs both: who is in, and who was left out by what. Cuts are applied in their stated
order and a row is counted under the first that it fails.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.contracts.config import Frozen, tagged
from darkhaloscope.contracts.errors import SchemaMismatch
from darkhaloscope.survey.brick_grid import brick_of
from darkhaloscope.survey.release import BANDS, MASK_BITS, Release, release_of, to_magnitude
from darkhaloscope.survey.targets import make_targets
from darkhaloscope.survey.tractor import CHUNK_ROWS, catalogue_chunks

Exclude = Callable[[ArrayLike, ArrayLike], NDArray[np.bool_]]
Bools = NDArray[np.bool_]


class Cuts(Frozen):
    """A parent sample. A limit that is None is not applied; magnitudes are AB."""

    kind: Literal["search", "lrg", "none"]
    primary: bool = tagged(
        default=True, tag="K", basis="rows outside the brick's own area come twice (brick_primary)"
    )
    left_out_types: tuple[str, ...] = tagged(
        ("PSF", "DUP"), "S", "point sources, and duplicates of Gaia stars"
    )
    min_exposures: int = tagged(1, "S", "nobs in each of g r z", ge=0)
    mask_bits: tuple[str, ...] = tagged(
        ("BRIGHT", "BAILOUT", "CLUSTER"),
        "S",
        "MASKBITS at the object: bright stars, unfinished bricks, globulars",
    )
    r_max: float | None = tagged(None, "S", "faintest r", "mag")
    z_max: float | None = tagged(None, "S", "faintest z", "mag")
    g_r: tuple[float, float] | None = tagged(None, "S", "range of g - r", "mag")
    r_z: tuple[float, float] | None = tagged(None, "S", "range of r - z", "mag")
    dereddened: bool = tagged(
        default=True,
        tag="K",
        basis="magnitudes and colours are freed of Galactic extinction (mw_transmission)",
    )


CUTS: Mapping[str, Cuts] = {
    # Searches for lenses in the Legacy Surveys look at galaxies with z < 20 (Huang+20, 21; Storfer+22).
    "search": Cuts(kind="search", z_max=20.0),
    # Colours of massive early types to z of about 1; the upper ends keep out M dwarfs.
    "lrg": Cuts(kind="lrg", r_max=22.0, g_r=(0.9, 2.3), r_z=(0.6, 2.0)),
    "none": Cuts(kind="none", left_out_types=(), min_exposures=0, mask_bits=()),
}


@dataclass
class ParentSummary:
    """How many rows were read, what removed the others, how many stay."""

    read: int = 0
    kept: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    notes: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        gone = ", ".join(f"{reason} {n:,}" for reason, n in self.removed.most_common())
        text = f"{self.read:,} rows: {self.kept:,} kept" + (f"; removed by {gone}" if gone else "")
        return text + "".join(f"; {note}" for note in sorted(self.notes))


def first_failed(rows: pa.Table, cuts: Cuts) -> list[str | None]:
    """For each row of a catalogue (house's names), the first cut that it fails, or None."""
    failed: list[str | None] = [None] * rows.num_rows
    for name, passes in _tests(rows, cuts):
        # A comparison with NaN is false: what has no magnitude passes no cut on it.
        for k in np.flatnonzero(~passes).tolist():
            failed[k] = failed[k] or name
    return failed


def _tests(rows: pa.Table, cuts: Cuts) -> Iterator[tuple[str, Bools]]:
    have = set(rows.column_names)
    if cuts.primary and "brick_primary" in have:
        yield "brick_primary", np.asarray(rows.column("brick_primary").to_numpy(), dtype=bool)
    if cuts.left_out_types:
        kinds = np.array([kind.upper() for kind in rows.column("type").to_pylist()])
        yield "type", ~np.isin(kinds, cuts.left_out_types)
    if cuts.min_exposures and {f"nexp_{b}" for b in BANDS} <= have:
        seen = [rows.column(f"nexp_{b}").to_numpy() >= cuts.min_exposures for b in BANDS]
        yield "nobs", np.logical_and.reduce(seen)
    if cuts.mask_bits and "maskbits" in have:
        bits = int(np.bitwise_or.reduce([MASK_BITS[name] for name in cuts.mask_bits]))
        yield "maskbits", (rows.column("maskbits").to_numpy() & bits) == 0
    magnitude = {b: _magnitudes(rows, b, dereddened=cuts.dereddened) for b in BANDS}
    limits: list[tuple[str, NDArray[np.float64], float | None]] = [
        ("z_mag", magnitude["z"], cuts.z_max),
        ("r_mag", magnitude["r"], cuts.r_max),
    ]
    for name, values, limit in limits:
        if limit is not None:
            yield name, values < limit
    colours = [
        ("g_r", magnitude["g"] - magnitude["r"], cuts.g_r),
        ("r_z", magnitude["r"] - magnitude["z"], cuts.r_z),
    ]
    for name, values, span in colours:
        if span is not None:
            yield name, (values > span[0]) & (values < span[1])


def _magnitudes(rows: pa.Table, band: str, *, dereddened: bool) -> NDArray[np.float64]:
    flux = rows.column(f"flux_{band}").to_numpy()
    if dereddened and f"mw_transmission_{band}" in rows.column_names:
        with np.errstate(divide="ignore", invalid="ignore"):
            flux = flux / rows.column(f"mw_transmission_{band}").to_numpy()
    return to_magnitude(flux)


def select_parents(
    paths: Iterable[Path | str],
    cuts: Cuts,
    release: Release,
    *,
    exclude: Exclude | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    summary: ParentSummary | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[pa.Table]:
    """Rows of TARGETS from catalogue files, in their order, a chunk at a time.

    exclude     positions [deg] to a mask of those near a known lens: they stay as rows with `known_lens`
    fraction    share of the sample to keep, chosen by each row's identity and the seed, never by order
    summary     filled as the rows go by

    Rows of another release are left out and counted. SchemaMismatch for a RELEASE that nobody knows.
    """
    counts = summary if summary is not None else ParentSummary()
    for path in paths:
        source = f"{Path(path).name} sha256:{_checksum(Path(path))}"
        for chunk in catalogue_chunks(path, chunk_rows):
            counts.read += chunk.num_rows
            chosen = _chosen(chunk, cuts, release, counts, str(path))
            targets = _targets(chunk.filter(pa.array(chosen)), release, source, str(path))
            if fraction < 1.0:
                targets = _thinned(targets, fraction, seed, counts)
            counts.kept += targets.num_rows
            if targets.num_rows:
                yield targets if exclude is None else _with_exclusion(targets, exclude, counts)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chosen(chunk: pa.Table, cuts: Cuts, release: Release, counts: ParentSummary, where: str) -> Bools:
    failed = first_failed(chunk, cuts)
    if "tractor_release" in chunk.column_names:
        codes = chunk.column("tractor_release").to_numpy()
        for code in np.unique(codes).tolist():
            owner = release_of(code)
            if owner is None:
                raise SchemaMismatch(where, f"has rows of RELEASE {code}, which is unknown")
            if owner is not release:
                for k in np.flatnonzero(codes == code).tolist():
                    failed[k] = f"release {owner.name}"
    counts.removed.update(reason for reason in failed if reason is not None)
    if cuts.dereddened and "mw_transmission_r" not in chunk.column_names:
        counts.notes.add("no mw_transmission: magnitudes are not freed of extinction")
    if cuts.primary and "brick_primary" not in chunk.column_names:
        counts.notes.add("no brick_primary: the file is taken to hold primary rows only, as sweeps do")
    return np.array([reason is None for reason in failed], dtype=bool)


_CARRIED = (
    "tractor_release", "brickid", "objid", "type", "sersic", "shape_r", "shape_e1", "shape_e2", "maskbits",
    "ebv",
    *(f"{stem}_{b}" for stem in ("flux", "psfsize", "psfdepth", "nexp") for b in BANDS),
)  # fmt: skip


def _targets(rows: pa.Table, release: Release, source: str, where: str) -> pa.Table:
    columns: dict[str, Any] = {name: rows.column(name) for name in _CARRIED if name in rows.column_names}
    ra, dec = (rows.column(axis).to_numpy() for axis in ("ra_deg", "dec_deg"))
    if {"tractor_release", "brickid", "objid"} <= columns.keys():
        identity = [rows.column(name).to_pylist() for name in ("tractor_release", "brickid", "objid")]
        columns["target_id"] = [f"{r}-{b}-{o}" for r, b, o in zip(*identity, strict=True)]
    given = rows.column("brickname") if "brickname" in rows.column_names else brick_of(ra, dec).name.tolist()
    columns["brickname"] = given
    return make_targets(ra, dec, release=release, source=source, columns=columns, where=where)


def _thinned(targets: pa.Table, fraction: float, seed: int, counts: ParentSummary) -> pa.Table:
    limit = int(fraction * 2.0**64)
    drawn = [
        int.from_bytes(hashlib.blake2b(f"{seed}/parents/{name}".encode(), digest_size=8).digest()) < limit
        for name in targets.column("target_id").to_pylist()
    ]
    counts.removed["sampling"] += len(drawn) - sum(drawn)
    return targets.filter(pa.array(drawn, pa.bool_()))


def _with_exclusion(targets: pa.Table, exclude: Exclude, counts: ParentSummary) -> pa.Table:
    near = exclude(targets.column("ra_deg").to_numpy(), targets.column("dec_deg").to_numpy())
    if near.any():
        counts.notes.add("rows near a known lens are kept as rejects")
    place = targets.schema.get_field_index("reject")
    codes = pa.array(["known_lens" if lens else None for lens in near.tolist()], pa.string())
    return targets.set_column(place, targets.schema.field(place), codes)
