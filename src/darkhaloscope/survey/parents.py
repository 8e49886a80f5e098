"""The parent sample: declared cuts on the survey's catalogues, streamed, and what each cut removed.

A selection function needs both: who is in, and who was left out by what. Cuts are applied in their stated
order and a row is counted under the first that it fails. An object that comes twice is kept once.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.contracts.config import Frozen, tagged
from darkhaloscope.contracts.errors import ConfigError, DataError, SchemaMismatch
from darkhaloscope.survey.brick_grid import brick_of
from darkhaloscope.survey.release import BANDS, MASK_BITS, Release, release_of, to_magnitude
from darkhaloscope.survey.targets import make_targets
from darkhaloscope.survey.tractor import CHUNK_ROWS, catalogue_chunks

Exclude = Callable[[ArrayLike, ArrayLike], NDArray[np.bool_]]
Bools = NDArray[np.bool_]
Keys = NDArray[np.uint64]


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
    """How many rows were read, what removed the others, how many stay; every row is under one of them.

    rejected   of those that stay, how many are rows without pixels to come, by reject code
    notes      what could not be applied, and why
    """

    read: int = 0
    kept: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    notes: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        gone = ", ".join(f"{reason} {n:,}" for reason, n in self.removed.most_common())
        text = f"{self.read:,} rows: {self.kept:,} kept" + (f"; removed by {gone}" if gone else "")
        coded = ", ".join(f"{code} {n:,}" for code, n in self.rejected.most_common())
        text += f"; of the kept rejected: {coded}" if coded else ""
        return text + "".join(f"; {note}" for note in sorted(self.notes))


def first_failed(rows: pa.Table, cuts: Cuts, where: str = "catalogue") -> list[str | None]:
    """For each row of a catalogue (house's names), the first cut that it fails, or None.

    SchemaMismatch for a table without the types and fluxes that the cuts are about.
    """
    failed = np.full(rows.num_rows, None, dtype=object)
    for name, passes in _tests(rows, cuts, where):
        # A comparison with NaN is false: what has no magnitude passes no cut on it.
        failed[~passes & (failed == None)] = name  # noqa: E711 - elementwise
    return list(failed)


def _tests(rows: pa.Table, cuts: Cuts, where: str) -> Iterator[tuple[str, Bools]]:
    have = set(rows.column_names)
    if cuts.primary and "brick_primary" in have:
        yield "brick_primary", np.asarray(rows.column("brick_primary").to_numpy(), dtype=bool)
    if cuts.left_out_types:
        kinds = np.array([(kind or "").upper() for kind in _column(rows, "type", where).to_pylist()])
        yield "type", ~np.isin(kinds, (*cuts.left_out_types, ""))
    exposures = [f"nexp_{b}" for b in BANDS if f"nexp_{b}" in have]
    if cuts.min_exposures and exposures:
        seen = [rows.column(name).to_numpy() >= cuts.min_exposures for name in exposures]
        yield "nobs", np.logical_and.reduce(seen)
    if cuts.mask_bits and "maskbits" in have:
        bits = int(np.bitwise_or.reduce([MASK_BITS[name] for name in cuts.mask_bits]))
        yield "maskbits", (rows.column("maskbits").to_numpy() & bits) == 0
    free = _dereddens(rows, cuts, where)
    magnitude = {b: _magnitudes(rows, b, where, dereddened=free) for b in _bands(cuts)}
    for name, band, limit in (("z_mag", "z", cuts.z_max), ("r_mag", "r", cuts.r_max)):
        if limit is not None:
            yield name, magnitude[band] < limit
    for name, blue, red, span in (("g_r", "g", "r", cuts.g_r), ("r_z", "r", "z", cuts.r_z)):
        if span is not None:
            colour = magnitude[blue] - magnitude[red]
            yield name, (colour > span[0]) & (colour < span[1])


def _column(rows: pa.Table, name: str, where: str) -> pa.ChunkedArray:
    if name not in rows.column_names:
        raise SchemaMismatch(where, f"lacks the column '{name}', which the cuts need", "give sweep files")
    return rows.column(name)


def _bands(cuts: Cuts) -> list[str]:
    """Bands whose magnitudes the cuts look at."""
    used = {"g": (cuts.g_r,), "r": (cuts.r_max, cuts.g_r, cuts.r_z), "z": (cuts.z_max, cuts.r_z)}
    return [band for band in BANDS if any(limit is not None for limit in used[band])]


def _dereddens(rows: pa.Table, cuts: Cuts, where: str) -> bool:
    """Whether magnitudes are freed of extinction: in all the bands that are needed, or in none."""
    bands = _bands(cuts)
    given = [b for b in bands if f"mw_transmission_{b}" in rows.column_names]
    if not cuts.dereddened or not given:
        return False
    if given != bands:
        missing = ", ".join(f"mw_transmission_{b}" for b in bands if b not in given)
        raise SchemaMismatch(where, f"lacks {missing} but has it in {', '.join(given)}", "give all or none")
    return True


def _magnitudes(rows: pa.Table, band: str, where: str, *, dereddened: bool) -> NDArray[np.float64]:
    """Magnitudes; NaN where there is no finite flux above 0, or no transmission in (0, 1]."""
    flux = _column(rows, f"flux_{band}", where).to_numpy()
    if dereddened:
        through = rows.column(f"mw_transmission_{band}").to_numpy()
        possible = (through > 0.0) & (through < 1.0 + 1e-6)
        flux = flux / np.where(possible, through, np.nan)
    return to_magnitude(np.where(np.isfinite(flux), flux, np.nan))


def select_parents(
    paths: Iterable[Path | str],
    cuts: Cuts,
    release: Release,
    *,
    exclude: Exclude | None = None,
    fraction: float = 1.0,
    most: int | None = None,
    seed: int = 0,
    summary: ParentSummary | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[pa.Table]:
    """Rows of TARGETS from catalogue files, in their order, a chunk at a time.

    exclude     positions [deg] to a mask of those near a known lens: they stay as rows with `known_lens`
    fraction    share of the sample to keep, chosen by each object's identity and the seed, never by order
    most        in place of a share: that many objects (all, if there are fewer); files are read twice
    summary     filled as the rows go by

    Rows of another release are left out and counted, and so is an object that came before, in this file or
    an earlier one (8 bytes of memory for each that passes the cuts). SchemaMismatch for a RELEASE that nobody
    knows; ConfigError for a share or number that is none.
    """
    if not 0.0 < fraction <= 1.0:
        raise ConfigError("select_parents", "fraction", f"is {fraction}", "above 0, up to 1")
    if most is not None and (most < 1 or fraction < 1.0):
        raise ConfigError(
            "select_parents", "most", f"is {most}, fraction {fraction}", "1 or more, no fraction"
        )
    files = [Path(path) for path in paths]
    limit = int(fraction * 2.0**64)
    if most is not None:
        limit = _limit_of(most, _passing(files, cuts, release, ParentSummary(), chunk_rows), seed)
    counts = summary if summary is not None else ParentSummary()
    sources: dict[Path, str] = {}
    for path, rows in _passing(files, cuts, release, counts, chunk_rows):
        if path not in sources:
            sources[path] = f"{path.name} sha256:{_checksum(path)}"
        drawn = _draws(rows, seed) < limit if limit < 2**64 else np.ones(rows.num_rows, dtype=bool)
        _count(counts.removed, "sampling", ~drawn)
        targets = _targets(rows.filter(pa.array(drawn)), release, sources[path], str(path))
        counts.kept += targets.num_rows
        if targets.num_rows:
            yield targets if exclude is None else _with_exclusion(targets, exclude, counts)


def _count(counter: Counter[str], reason: str, which: Bools) -> None:
    if which.any():
        counter[reason] += int(np.sum(which))


def _passing(
    files: Iterable[Path], cuts: Cuts, release: Release, counts: ParentSummary, chunk_rows: int
) -> Iterator[tuple[Path, pa.Table]]:
    """What passes the cuts, each object once, with its target_id."""
    numbered, placed = _Seen(), _Seen()
    for path in files:
        for chunk in catalogue_chunks(path, chunk_rows):
            counts.read += chunk.num_rows
            rows = chunk.filter(pa.array(_chosen(chunk, cuts, release, counts, str(path))))
            ids, keys = _identity(rows, str(path))
            seen = placed if keys is None else numbered
            fresh = seen.fresh(_hashes(ids) if keys is None else keys)
            _count(counts.removed, "repeated", ~fresh)
            yield path, rows.append_column("target_id", pa.array(ids, pa.string())).filter(pa.array(fresh))


_NUMBERED = (("tractor_release", 16), ("brickid", 20), ("objid", 28))
"""The identity of a Tractor object and the bits that each part takes: 64 together."""


def _identity(rows: pa.Table, where: str) -> tuple[list[str], Keys | None]:
    """Names of objects, and their numbers packed into one; positions as names (no number) for the others."""
    if not {name for name, _ in _NUMBERED} <= set(rows.column_names):
        ra, dec = (rows.column(axis).to_numpy() for axis in ("ra_deg", "dec_deg"))
        return [f"J{a:010.6f}{d:+010.6f}" for a, d in zip(ra % 360.0, dec, strict=True)], None
    keys = np.zeros(rows.num_rows, dtype=np.uint64)
    parts = []
    for name, bits in _NUMBERED:
        values = rows.column(name).to_numpy()
        if np.any((values < 0) | (values >= 2**bits)):
            worst = values[(values < 0) | (values >= 2**bits)][0]
            raise DataError(where, f"column '{name}' holds {worst}", f"an identity is 0 to {2**bits - 1}")
        keys = (keys << np.uint64(bits)) | values.astype(np.uint64)
        parts.append(values.tolist())
    return [f"{r}-{b}-{o}" for r, b, o in zip(*parts, strict=True)], keys


def _hashes(names: Iterable[str]) -> Keys:
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def _draws(rows: pa.Table, seed: int) -> Keys:
    """A uniform 64-bit number for each object, of its name and the seed alone."""
    return _hashes(f"{seed}/parents/{name}" for name in rows.column("target_id").to_pylist())


def _limit_of(most: int, passing: Iterable[tuple[Path, pa.Table]], seed: int) -> int:
    """The draw below which that many objects lie."""
    lowest = np.empty(0, dtype=np.uint64)
    for _, rows in passing:
        lowest = np.concatenate([lowest, _draws(rows, seed)])
        if lowest.size > most:
            lowest = np.partition(lowest, most - 1)[:most]
    return int(lowest.max()) + 1 if lowest.size == most else 2**64


class _Seen:
    """Keys that came before: a few sorted arrays, each more than twice as long as the next."""

    def __init__(self) -> None:
        self._arrays: list[Keys] = []

    def fresh(self, keys: Keys) -> Bools:
        """Which keys come for the first time, here and in all calls before."""
        new = np.zeros(keys.size, dtype=bool)
        new[np.unique(keys, return_index=True)[1]] = True
        for array in self._arrays:
            place = np.minimum(np.searchsorted(array, keys), array.size - 1)
            new &= array[place] != keys
        added = np.sort(keys[new])
        while self._arrays and self._arrays[-1].size <= 2 * added.size:
            added = np.sort(np.concatenate([self._arrays.pop(), added]))
        if added.size:
            self._arrays.append(added)
        return new


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chosen(chunk: pa.Table, cuts: Cuts, release: Release, counts: ParentSummary, where: str) -> Bools:
    failed = np.array(first_failed(chunk, cuts, where), dtype=object)
    if "tractor_release" in chunk.column_names:
        codes = chunk.column("tractor_release").to_numpy()
        for code in np.unique(codes).tolist():
            owner = release_of(code)
            if owner is None:
                raise SchemaMismatch(where, f"has rows of RELEASE {code}, which is unknown")
            if owner is not release:
                failed[codes == code] = f"release {owner.name}"
    stays = np.array([reason is None for reason in failed], dtype=bool)
    counts.removed.update(failed[~stays].tolist())
    counts.notes |= _not_applied(set(chunk.column_names), cuts, release)
    return stays


def _not_applied(have: set[str], cuts: Cuts, release: Release) -> set[str]:
    """What a catalogue without some columns leaves undone, in words."""
    notes = set()
    if "tractor_release" not in have:
        notes.add(f"no release: rows are taken for {release.name}")
    if cuts.dereddened and not {f"mw_transmission_{b}" for b in _bands(cuts)} <= have:
        notes.add("no mw_transmission: magnitudes are not freed of extinction")
    if cuts.primary and "brick_primary" not in have:
        notes.add("no brick_primary: the file is taken to hold primary rows only, as sweeps do")
    unseen = [b for b in BANDS if f"nexp_{b}" not in have]
    if cuts.min_exposures and unseen:
        notes.add(f"no nobs_{', nobs_'.join(unseen)}: exposures are not looked at there")
    if cuts.mask_bits and "maskbits" not in have:
        notes.add("no maskbits: masks are not looked at")
    return notes


_CARRIED = (
    "tractor_release", "brickid", "objid", "type", "sersic", "shape_r", "shape_e1", "shape_e2", "maskbits",
    "ebv",
    *(f"{stem}_{b}" for stem in ("flux", "psfsize", "psfdepth", "nexp") for b in BANDS),
)  # fmt: skip


def _targets(rows: pa.Table, release: Release, source: str, where: str) -> pa.Table:
    carried = ("target_id", *(name for name in _CARRIED if name in rows.column_names))
    columns: dict[str, Any] = {name: _finite(rows.column(name)) for name in carried}
    columns["target_id"] = rows.column("target_id").to_pylist()
    ra, dec = (rows.column(axis).to_numpy() for axis in ("ra_deg", "dec_deg"))
    if "brickname" in rows.column_names:
        columns["brickname"] = _bricknames(rows.column("brickname"), where)
    else:
        columns["brickname"] = brick_of(ra, dec).name.tolist()
    return make_targets(ra, dec, release=release, source=source, columns=columns, where=where)


def _finite(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers that a single-precision column can hold; NaN and infinity become null."""
    if not pa.types.is_floating(values.type):
        return values
    holds = pc.less(pc.abs(values), float(np.finfo(np.float32).max))
    return pc.if_else(holds, values, pa.scalar(None, values.type))


def _bricknames(names: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    good = pc.fill_null(pc.match_substring_regex(names, r"^\d{4}[pm]\d{3}$"), fill_value=False)
    if not pc.all(good).as_py() and len(names):
        wrong = names.filter(pc.invert(good))[0].as_py()
        raise DataError(where, f"column 'brickname' holds {wrong!r}", "names are like 0591m305")
    return names


def _with_exclusion(targets: pa.Table, exclude: Exclude, counts: ParentSummary) -> pa.Table:
    near = exclude(targets.column("ra_deg").to_numpy(), targets.column("dec_deg").to_numpy())
    _count(counts.rejected, "known_lens", near)
    place = targets.schema.get_field_index("reject")
    codes = pa.array(["known_lens" if lens else None for lens in near.tolist()], pa.string())
    return targets.set_column(place, targets.schema.field(place), codes)
