"""Known lenses: anchors to be found again, and systems that must be nobody's host or negative.

An anchor is a row of a published table with its checksum, and, once survey sources are at hand, an extended
source within 2 arcsec of it. What has neither is no anchor: positions are read, never recalled. A grade is a
grade; only redshifts of lens *and* source make a system spectroscopically confirmed.
"""

import importlib.util
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.contracts.errors import ConfigError, DataError
from darkhaloscope.contracts.tables import ANCHORS, CHANNELS, EVIDENCE
from darkhaloscope.survey.catalogs import (
    Published,
    name_in,
    position_in,
    positive_in,
    read_published,
    text_in,
)
from darkhaloscope.survey.matching import SkyTree, groups_within
from darkhaloscope.survey.release import Release
from darkhaloscope.survey.targets import make_targets

SAME_SYSTEM_ARCSEC = 5.0
"""Rows of tables this near are one system."""
MATCH_ARCSEC = 2.0
"""An anchor's survey source lies this near."""
EXCLUSION_ARCSEC = 11.0
"""No host and no negative this near to a known lens: a stamp's half diagonal at 64 pixels."""
POINT_TYPES = ("PSF", "DUP")
"""Tractor types that are no galaxy."""

CLUSTER_SURVEYS = (
    "Lopes et al. (2004)",
    "Gonzalez et al. (2001)",
    "Gioia et al. (1990)",
    "Gladders et al. (2005)",
    'B\\"ohringer et al. (2000)',
    'B\\"ohringer et al. (2004)',
    "Ebeling et al. (1998)",
    "Ebeling et al. (2000)",
    "Olsen et al. (2006)",
    "Popesso et al. (2004)",
    "Menanteau et al. (2010)",
    "Cypriano et al. (2004)",
    "Kausch et al. (2010)",
    "Sand et al. (2005)",
    "van Breukelen et al. (2006)",
)
"""References of lenscat that list clusters of galaxies, most of them never searched for arcs. A row that
stands on nothing else is no galaxy lens, whatever its type says."""

_GRADES: Mapping[str, str] = {
    **dict.fromkeys(("confident", "a", "a+", "definite"), "confident"),
    **dict.fromkeys(("probable", "a-", "b", "b+", "b-"), "probable"),
}
_FOUND_BY: Mapping[str, tuple[str, ...]] = {
    "quasar": ("lensedquasars",),
    "spectroscopic": (
        *(
            "slacs",
            "bolton et al.",
            "auger et al.",
            "brownstein et al.",
            "shu et al. (2016)",
            "talbot et al.",
        ),
        *("cao et al. (2020)", "treu et al. (2011)", "holwerda et al."),
    ),
    "ground_ml": (
        *(
            "huang et al.",
            "storfer et al.",
            "stein et al.",
            "training_lenses",
            "new_lenses",
            "petrillo et al.",
        ),
        *("canameras et al.", "rojas et al.", "savary et al.", "shu et al. (2022)", "zaborowski et al."),
        *("jacobs et al.", "li et al. (2021)"),
    ),
    "ground_visual": (
        *("cabanac et al.", "more et al. (2011)", "diehl et al.", "o'donnell et al.", "stark et al."),
        "wen et al.",
    ),
    "space": ("faure et al.", "pawase et al.", "negrello et al.", "amvrosiadis et al."),
}
"""Channels by what a reference or a table's name holds, the first that fits; assumed from papers' titles."""


def lenscat_path() -> Path:
    """The table that comes with the package lenscat, found without running any of its code.

    Raises ConfigError that says what to install.
    """
    spec = importlib.util.find_spec("lenscat")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        table = Path(folder) / "data" / "catalog.csv"
        if table.is_file():
            return table
    remedy = "pip install --no-deps lenscat, or pip install 'darkhaloscope[anchors]'"
    raise ConfigError("lenscat", "", "the table of known lenses is not installed", remedy)


@dataclass(eq=False)
class Gathered:
    """Anchors, and what was left out and why.

    anchors   rows of ANCHORS
    removed   reasons with counts
    losers    (name, reason) of single rows that were left out one by one
    """

    anchors: pa.Table
    removed: Counter[str] = field(default_factory=Counter)
    losers: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        gone = ", ".join(f"{reason} {n}" for reason, n in sorted(self.removed.items()))
        return f"{self.anchors.num_rows} anchors" + (f"; left out: {gone}" if gone else "")


def read_anchor_table(
    path: Path | str, *, evidence: str | None = None, channel: str | None = None
) -> pa.Table:
    """Known lenses of a published table, as rows of ANCHORS with real host and real arc.

    Needs a right ascension and a declination [deg]; a table without names gets them from the positions, what
    it does not say stays null. `source` is the file's name and SHA-256.

    evidence, channel   of every row, where the caller knows better than the table (see EVIDENCE, CHANNELS)

    Raises SchemaMismatch naming the file and the column that is absent, DataError naming the row whose value
    is no number or no position, or a file that is absent or unreadable.
    """
    for given, known in ((evidence, EVIDENCE), (channel, CHANNELS)):
        if given is not None and given not in known:
            raise ConfigError(str(path), "", f"'{given}' is unknown", ", ".join(known))
    table = read_published(path)
    return _conformed([row for _, row in _anchor_rows(table, evidence, channel)], table.where)


def read_lenscat(path: Path | None = None) -> Gathered:
    """The galaxy lenses of lenscat: clusters, and rows that only surveys of clusters name, are left out."""
    table = read_published(path or lenscat_path())
    kind = table.column("type")
    kept, removed = [], Counter[str]()
    for raw, row in _anchor_rows(table, None, None):
        reason = _no_galaxy_lens(text_in(raw, kind), row["ref"])
        if reason is None:
            kept.append(row)
        else:
            removed[reason] += 1
    return Gathered(_conformed(kept, table.where), removed)


def _no_galaxy_lens(kind: str | None, ref: str | None) -> str | None:
    if kind == "cluster":
        return "type cluster"
    refs = [part.strip() for part in (ref or "").split(" | ")]
    return "cluster survey" if all(part.startswith(CLUSTER_SURVEYS) for part in refs) else None


def _anchor_rows(
    table: Published, evidence: str | None, channel: str | None
) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    wanted = ("name", "theta_e_arcsec", "z_lens", "z_source", "sigma_v_kms", "grade", "ref")
    columns = table.columns(("ra_deg", "dec_deg"), wanted)
    for number, raw in enumerate(table.rows, start=1):
        where = table.at(number)
        ra, dec = position_in(raw, columns, where)
        row: dict[str, Any] = {"name": name_in(raw, columns, ra, dec), "ra_deg": ra, "dec_deg": dec}
        for column in ("theta_e_arcsec", "z_source", "sigma_v_kms"):
            row[column] = positive_in(raw, columns.get(column), where)
        row["z_lens"] = _first_redshift(raw, columns.get("z_lens"))
        row["grade"], row["ref"] = (text_in(raw, columns.get(column)) for column in ("grade", "ref"))
        row["evidence"] = evidence or _evidence(row)
        row["channel"] = channel or _channel(row["ref"] or table.source)
        row |= {"source": table.source, "host_domain": "real", "arc_domain": "real"}
        yield raw, row


def _first_redshift(raw: Mapping[str, Any], column: str | None) -> float | None:
    """Merged tables list redshifts as '0.49 | 0.49', and write words where there is none."""
    text = text_in(dict(raw), column)
    for part in (text or "").split("|"):
        try:
            value = float(part)
        except ValueError:
            continue
        if np.isfinite(value) and value > 0.0:
            return value
    return None


def _evidence(row: Mapping[str, Any]) -> str:
    if row["z_lens"] is not None and row["z_source"] is not None:
        return "spec_two_z"
    return _GRADES.get((row["grade"] or "").lower(), "candidate")


def _channel(text: str) -> str:
    low = text.lower()
    return next((c for c, marks in _FOUND_BY.items() if any(mark in low for mark in marks)), "unknown")


def _conformed(rows: Sequence[Mapping[str, Any]], where: str) -> pa.Table:
    return ANCHORS.conform(rows, where=where) if rows else ANCHORS.schema.empty_table()


def merge_anchors(tables: Sequence[pa.Table], radius_arcsec: float = SAME_SYSTEM_ARCSEC) -> Gathered:
    """One row per system: rows within the radius (friends of friends) become one.

    The row with the strongest evidence is kept, of equals one with an Einstein radius, then the one of the
    earlier table, then of the lower name; what it does not know is taken from the others in the same order.
    Names of the others stand in `also`, all sources and references are kept. Names are made unique.
    """
    rows = [row | {"_table": number} for number, table in enumerate(tables) for row in table.to_pylist()]
    if not rows:
        return Gathered(ANCHORS.schema.empty_table())
    groups = groups_within([r["ra_deg"] for r in rows], [r["dec_deg"] for r in rows], radius_arcsec)
    members: dict[int, list[dict[str, Any]]] = {}
    for group, row in zip(groups.tolist(), rows, strict=True):
        members.setdefault(group, []).append(row)
    merged = sorted((_merged(group) for group in members.values()), key=lambda r: (r["ra_deg"], r["dec_deg"]))
    _make_names_unique(merged)
    removed = Counter({"named by another row": len(rows) - len(merged)} if len(rows) > len(merged) else {})
    return Gathered(ANCHORS.conform(merged), removed)


def _merged(group: list[dict[str, Any]]) -> dict[str, Any]:
    group.sort(key=_precedence)
    best = {key: value for key, value in group[0].items() if key != "_table"}
    for column in ("theta_e_arcsec", "z_lens", "z_source", "sigma_v_kms", "grade"):
        best[column] = next((r[column] for r in group if r[column] is not None), None)
    names = dict.fromkeys(r["name"] for r in group[1:] if r["name"] != best["name"])
    best["also"] = ";".join(names) or None
    best["ref"] = " | ".join(dict.fromkeys(r["ref"] for r in group if r["ref"])) or None
    best["source"] = "; ".join(dict.fromkeys(r["source"] for r in group))
    if best["channel"] == "unknown":
        best["channel"] = next((r["channel"] for r in group if r["channel"] != "unknown"), "unknown")
    return best


def _precedence(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Of rows that name one system, the lowest is kept."""
    rank = EVIDENCE.index(row["evidence"])
    return rank, row["theta_e_arcsec"] is None, row["_table"], row["name"], row["ra_deg"], row["dec_deg"]


def _make_names_unique(rows: list[dict[str, Any]]) -> None:
    """Two systems may share a short name: then the position is added to both."""
    counts = Counter(row["name"] for row in rows)
    for row in rows:
        if counts[row["name"]] > 1:
            row["name"] = f"{row['name']}@{row['ra_deg']:.5f}{row['dec_deg']:+.5f}"


_SOURCE_FACTS = ("tractor_release", "brickid", "objid", "type", "flux_g", "flux_r", "flux_z")


def cross_match(anchors: pa.Table, sources: pa.Table, radius_arcsec: float = MATCH_ARCSEC) -> Gathered:
    """Anchors that have an extended survey source within the radius, with its identity, type and fluxes.

    sources   ra_deg, dec_deg, type, flux_g, flux_r, flux_z, tractor_release, brickid, objid

    The others are in `losers`: no source there, or a point source only. Nothing else makes an anchor.
    """
    tree = SkyTree(sources.column("ra_deg").to_numpy(), sources.column("dec_deg").to_numpy())
    rows = anchors.to_pylist()
    ra, dec = ([row[axis] for row in rows] for axis in ("ra_deg", "dec_deg"))
    first, second = tree.pairs_within(ra, dec, radius_arcsec)
    kinds = [str(kind or "").strip().upper() for kind in sources.column("type").to_pylist()]
    candidates: dict[int, list[int]] = {}
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        candidates.setdefault(i, []).append(j)
    wanted = [
        "tractor_release",
        "brickid",
        "objid",
        "type",
        "flux_g",
        "flux_r",
        "flux_z",
        "ra_deg",
        "dec_deg",
    ]
    facts = sources.select(wanted).to_pylist() if candidates else []
    kept, losers = [], []
    for number, row in enumerate(rows):
        near = candidates.get(number, [])
        extended = [j for j in near if kinds[j] not in POINT_TYPES]
        if not extended:
            losers.append((row["name"], "point source only" if near else "no survey source"))
            continue
        spot = SkyTree([facts[j]["ra_deg"] for j in extended], [facts[j]["dec_deg"] for j in extended])
        index, distance = spot.nearest([row["ra_deg"]], [row["dec_deg"]])
        found = facts[extended[int(index[0])]]
        kept.append(row | {key: found[key] for key in _SOURCE_FACTS} | {"match_arcsec": float(distance[0])})
    return Gathered(_conformed(kept, "anchors"), Counter(reason for _, reason in losers), losers)


class KnownLenses:
    """Where known lenses are. Wider than the anchors: clusters and doubtful systems keep hosts away too."""

    def __init__(self, ra_deg: ArrayLike, dec_deg: ArrayLike, sources: Sequence[str] = ()) -> None:
        self._tree = SkyTree(ra_deg, dec_deg)
        self.sources = tuple(sources)

    def __len__(self) -> int:
        return len(self._tree)

    @property
    def tree(self) -> SkyTree:
        """The positions."""
        return self._tree

    @classmethod
    def gather(cls, tables: Sequence[Path | str] = (), *, lenscat: bool = True) -> "KnownLenses":
        """Every row of lenscat (unless told not to) and of the given tables."""
        paths = [*([lenscat_path()] if lenscat else []), *tables]
        ra: list[float] = []
        dec: list[float] = []
        sources = []
        for path in paths:
            table = read_published(path)
            columns = table.columns(("ra_deg", "dec_deg"))
            for number, row in enumerate(table.rows, start=1):
                a, d = position_in(row, columns, table.at(number))
                ra.append(a)
                dec.append(d)
            sources.append(table.source)
        return cls(ra, dec, sources)

    def near(
        self, ra_deg: ArrayLike, dec_deg: ArrayLike, radius_arcsec: float = EXCLUSION_ARCSEC
    ) -> NDArray[np.bool_]:
        """Whether a known lens lies within the radius of each position."""
        return self._tree.near(ra_deg, dec_deg, radius_arcsec)


def targets_from_anchors(anchors: pa.Table, release: Release) -> pa.Table:
    """Rows of TARGETS (kind lens) at the published positions."""
    rows = anchors.to_pylist()
    if not rows:
        raise DataError("anchors", "there are none")
    same = ("name", "theta_e_arcsec", "sigma_v_kms", "source", *_SOURCE_FACTS)
    columns = {column: [r[column] for r in rows] for column in same} | {"z": [r["z_lens"] for r in rows]}
    ra, dec = ([r[axis] for r in rows] for axis in ("ra_deg", "dec_deg"))
    return make_targets(
        ra, dec, release=release, source="anchors", kind="lens", columns=columns, where="anchors"
    )
