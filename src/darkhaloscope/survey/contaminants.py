"""Look-alikes from published tables: rings, spirals, mergers, spikes, small enough for a stamp."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from darkhaloscope.contracts.errors import ConfigError, DataError
from darkhaloscope.contracts.tables import CATEGORIES, CONTAMINANTS
from darkhaloscope.survey.catalogs import (
    name_in,
    number_in,
    position_in,
    positive_in,
    read_published,
    text_in,
)
from darkhaloscope.survey.known_lenses import SAME_SYSTEM_ARCSEC, KnownLenses
from darkhaloscope.survey.matching import SkyTree, groups_within
from darkhaloscope.survey.release import PIXEL_SCALE_ARCSEC, Release
from darkhaloscope.survey.targets import make_targets

LARGEST_ARCSEC = 64 * PIXEL_SCALE_ARCSEC
"""A look-alike must fit on a stamp of 64 pixels: an arcminute galaxy fills it and imitates nothing."""


@dataclass(eq=False)
class Lookalikes:
    """Contaminants, and what was left out and why."""

    rows: pa.Table
    removed: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        kinds = Counter(self.rows.column("category").to_pylist())
        made = ", ".join(f"{kind} {kinds[kind]}" for kind in CATEGORIES if kinds[kind])
        gone = ", ".join(f"{reason} {n}" for reason, n in sorted(self.removed.items()))
        return f"{self.rows.num_rows} contaminants ({made})" + (f"; left out: {gone}" if gone else "")


def read_contaminant_table(
    path: Path | str,
    category: str | None = None,
    *,
    largest_arcsec: float = LARGEST_ARCSEC,
    known: KnownLenses | None = None,
) -> Lookalikes:
    """Look-alikes of a published table, as rows of CONTAMINANTS with real hosts.

    category         class of every row; by default the table's own column
    largest_arcsec   larger ones are left out; the size is the table's, for a pair (ra2, dec2) its separation
    known            look-alikes near one of these are lenses, and left out

    Rows within 5 arcsec are one. Errors as of `read_anchor_table`, and DataError for an unknown class.
    """
    if category is not None and category not in CATEGORIES:
        raise ConfigError(str(path), "", f"the class '{category}' is unknown", ", ".join(CATEGORIES))
    table = read_published(path)
    needed = ("ra_deg", "dec_deg") if category else ("ra_deg", "dec_deg", "category")
    columns = table.columns(needed, ("name", "size_arcsec", "ra2_deg", "dec2_deg"))
    rows, removed = [], Counter[str]()
    for number, raw in enumerate(table.rows, start=1):
        where = table.at(number)
        ra, dec = position_in(raw, columns, where)
        kind = category or text_in(raw, columns["category"])
        if kind not in CATEGORIES:
            raise DataError(where, f"has the class '{kind}'", f"known: {', '.join(CATEGORIES)}")
        size = _size(raw, columns, ra, dec, where)
        if size is not None and size > largest_arcsec:
            removed["too large"] += 1
            continue
        rows.append(
            {
                "name": name_in(raw, columns, ra, dec),
                "ra_deg": ra,
                "dec_deg": dec,
                "category": kind,
                "size_arcsec": size,
                "source": table.source,
                "host_domain": "real",
            }
        )
    kept = _one_per_place(_no_lenses(rows, known, removed), removed)
    _make_names_unique(kept)
    return Lookalikes(
        CONTAMINANTS.conform(kept, where=str(path)) if kept else CONTAMINANTS.schema.empty_table(), removed
    )


def _size(raw: dict[str, Any], columns: dict[str, str], ra: float, dec: float, where: str) -> float | None:
    size = positive_in(raw, columns.get("size_arcsec"), where)
    if size is not None or not {"ra2_deg", "dec2_deg"} <= columns.keys():
        return size
    ra2, dec2 = (number_in(raw, columns[axis], where) for axis in ("ra2_deg", "dec2_deg"))
    if ra2 is None or dec2 is None:
        return None
    return float(SkyTree([ra], [dec]).nearest([ra2], [dec2])[1][0])


def _no_lenses(
    rows: list[dict[str, Any]], known: KnownLenses | None, removed: Counter[str]
) -> list[dict[str, Any]]:
    if known is None or not rows:
        return rows
    near = known.near([r["ra_deg"] for r in rows], [r["dec_deg"] for r in rows])
    removed["known lens"] += int(near.sum())
    return [row for row, lens in zip(rows, near.tolist(), strict=True) if not lens]


def _one_per_place(rows: list[dict[str, Any]], removed: Counter[str]) -> list[dict[str, Any]]:
    if not rows:
        return rows
    groups = groups_within([r["ra_deg"] for r in rows], [r["dec_deg"] for r in rows], SAME_SYSTEM_ARCSEC)
    _, first = np.unique(groups, return_index=True)
    if len(first) < len(rows):
        removed["named twice"] += len(rows) - len(first)
    return [rows[k] for k in sorted(first.tolist())]


def _make_names_unique(rows: list[dict[str, Any]]) -> None:
    counts = Counter(row["name"] for row in rows)
    for row in rows:
        if counts[row["name"]] > 1:
            row["name"] = f"{row['name']}@{row['ra_deg']:.5f}{row['dec_deg']:+.5f}"


def targets_from_contaminants(rows: pa.Table, release: Release) -> pa.Table:
    """Rows of TARGETS (kind contaminant)."""
    if not rows.num_rows:
        raise DataError("contaminants", "there are none")
    columns = {name: rows.column(name).to_pylist() for name in ("name", "category", "source")}
    return make_targets(
        rows.column("ra_deg").to_pylist(),
        rows.column("dec_deg").to_pylist(),
        release=release,
        source="contaminants",
        kind="contaminant",
        columns=columns,
        where="contaminants",
    )
