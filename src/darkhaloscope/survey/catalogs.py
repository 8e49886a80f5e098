"""Readers of published tables: known lenses (anchors) and look-alikes.

CSV, tab-separated, blank-separated (first line ``# name ra dec ...``) and FITS tables are read. A column is
found by any of its usual names, whatever their case. Positions are read, never recalled: the table's name and
checksum go into every row.
"""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from astropy.io import fits

from darkhaloscope.contracts.errors import DataError, SchemaMismatch
from darkhaloscope.contracts.tables import ANCHORS, CATEGORIES, CONTAMINANTS

_NAMES: dict[str, tuple[str, ...]] = {
    "name": ("name", "target_id", "id", "object1"),
    "ra_deg": ("ra_deg", "ra", "raj2000", "ra1"),
    "dec_deg": ("dec_deg", "dec", "dej2000", "dec1"),
    "theta_e_arcsec": ("theta_e_arcsec", "theta_e", "theta_ein", "thetae"),
    "category": ("category", "class"),
}
_READ_ERRORS = (OSError, ValueError, TypeError, csv.Error, UnicodeError)

Rows = list[dict[str, Any]]


def read_anchor_table(path: Path) -> pa.Table:
    """Known lenses of a published table, as rows of ANCHORS with real host and real arc.

    Needs a right ascension and a declination [deg]; a table without names gets them from the positions, one
    without Einstein radii leaves them null. `source` becomes the file's name and SHA-256.

    Raises SchemaMismatch naming the file and the column that is absent, DataError naming the row whose value
    is no number or no position, or a file that is absent or unreadable.
    """
    path = Path(path)
    rows, source = _read_rows(path), _provenance(path)
    columns = _find_columns(path, rows, ("ra_deg", "dec_deg"), ("name", "theta_e_arcsec"))
    out = []
    for number, row in enumerate(rows, start=1):
        where = f"{path} row {number}"
        ra, dec = _position(row, columns, where)
        theta = _number(row, columns.get("theta_e_arcsec"), where)
        out.append(
            {
                "name": _name(row, columns, ra, dec),
                "ra_deg": ra,
                "dec_deg": dec,
                # Tables write an unknown radius as zero or less.
                "theta_e_arcsec": theta if theta is not None and theta > 0.0 else None,
                "source": source,
                "host_domain": "real",
                "arc_domain": "real",
            }
        )
    return ANCHORS.conform(out, where=str(path))


def read_contaminant_table(path: Path, category: str | None = None) -> pa.Table:
    """Look-alikes of a published table, as rows of CONTAMINANTS with real hosts.

    category   class of every row; by default the table's own column. Errors as in `read_anchor_table`.
    """
    path = Path(path)
    rows = _read_rows(path)
    needed = ("ra_deg", "dec_deg") if category else ("ra_deg", "dec_deg", "category")
    columns = _find_columns(path, rows, needed, ("name",))
    out = []
    for number, row in enumerate(rows, start=1):
        where = f"{path} row {number}"
        ra, dec = _position(row, columns, where)
        kind = category or str(row[columns["category"]]).strip()
        if kind not in CATEGORIES:
            raise DataError(where, f"has the class '{kind}'", f"known: {', '.join(CATEGORIES)}")
        found = {"name": _name(row, columns, ra, dec), "ra_deg": ra, "dec_deg": dec}
        out.append(found | {"category": kind, "host_domain": "real"})
    return CONTAMINANTS.conform(out, where=str(path))


def _read_rows(path: Path) -> Rows:
    if not path.is_file():
        raise DataError(str(path), "there is no such file")
    try:
        rows = _fits_rows(path) if ".fits" in path.suffixes else _text_rows(path)
    except _READ_ERRORS as error:
        raise DataError(str(path), f"cannot be read as a table: {error}") from error
    if not rows:
        raise DataError(str(path), "holds no rows")
    return rows


def _fits_rows(path: Path) -> Rows:
    with fits.open(path, memmap=False) as units:
        tables = [unit for unit in units if isinstance(unit, fits.BinTableHDU)]
        if not tables:
            raise DataError(str(path), "holds no table")
        data = tables[0].data
        return [dict(zip(data.names, row, strict=True)) for row in data]


def _text_rows(path: Path) -> Rows:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    lines = [line for line in lines if line.strip()]
    if not lines:
        return []
    lines[0] = lines[0].lstrip("# ")
    if "," in lines[0]:
        return list(csv.DictReader(lines))
    if "\t" in lines[0]:
        return list(csv.DictReader(lines, delimiter="\t"))
    names = lines[0].split()
    return [dict(zip(names, line.split(), strict=False)) for line in lines[1:] if not line.startswith("#")]


def _find_columns(path: Path, rows: Rows, needed: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
    have = {str(name).strip().lower(): name for name in rows[0]}
    found = {}
    for column in (*needed, *optional):
        match = next((have[alias] for alias in _NAMES[column] if alias in have), None)
        if match is not None:
            found[column] = match
        elif column in needed:
            looked = ", ".join(_NAMES[column])
            raise SchemaMismatch(str(path), f"lacks the column '{column}'", f"looked for {looked}")
    return found


def _number(row: dict[str, Any], column: str | None, where: str) -> float | None:
    if column is None or row.get(column) is None or str(row[column]).strip() == "":
        return None
    try:
        value = float(row[column])
    except ValueError as error:
        raise DataError(where, f"column '{column}' holds '{row[column]}', which is no number") from error
    return value if value == value else None  # noqa: PLR0124 - NaN is a table's way to say unknown


def _position(row: dict[str, Any], columns: dict[str, str], where: str) -> tuple[float, float]:
    ra, dec = (_number(row, columns[axis], where) for axis in ("ra_deg", "dec_deg"))
    if ra is None or dec is None or not (0.0 <= ra <= 360.0 and -90.0 <= dec <= 90.0):
        raise DataError(where, f"has no position in degrees (ra {ra}, dec {dec})")
    return ra, dec


def _name(row: dict[str, Any], columns: dict[str, str], ra: float, dec: float) -> str:
    if "name" in columns and str(row[columns["name"]]).strip():
        return str(row[columns["name"]]).strip()
    return f"J{ra:.5f}{dec:+.5f}"


def _provenance(path: Path) -> str:
    return f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
