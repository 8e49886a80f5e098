"""Published tables as they come: CSV, tab- or blank-separated text, FITS and Parquet, plain or gzipped.

A column is found by any of its usual names, whatever their case. Positions are degrees; a FITS column that
says it is in another unit is refused. What is read is what the file says, with its name and checksum.
"""

import csv
import gzip
import hashlib
import io
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from darkhaloscope.contracts.errors import DataError, SchemaMismatch
from darkhaloscope.survey.fits_images import refuse_endless_headers

NAMES: dict[str, tuple[str, ...]] = {
    "name": ("name", "target_id", "id", "system", "object1", "objid"),
    "ra_deg": ("ra_deg", "ra", "raj2000", "ra [deg]", "ra1", "target_ra"),
    "dec_deg": ("dec_deg", "dec", "dej2000", "decj2000", "dec [deg]", "dec1", "target_dec"),
    "theta_e_arcsec": ("theta_e_arcsec", "theta_e", "theta_ein", "thetae", "rein", "r_ein"),
    "category": ("category", "class"),
    "z": ("z", "z_spec", "redshift"),
    "z_lens": ("z_lens", "zlens", "zd", "zl", "z_spec", "z_l"),
    "z_source": ("z_source", "zsource", "zs", "zsrc", "z_s"),
    "sigma_v_kms": ("sigma_v_kms", "sigma_v", "veldisp(km/s)", "veldisp"),
    "grade": ("grade", "grading"),
    "ref": ("ref", "reference", "bibcode"),
    "system_type": ("type",),
    "size_arcsec": ("size_arcsec", "diameter_arcsec", "d25_arcsec"),
    "ra2_deg": ("ra2",),
    "dec2_deg": ("dec2",),
    "brickname": ("brickname",),
}
UNKNOWN = ("", "-", "--", "nan", "none", "null", "n/a", "not measured")
_NOT_DEGREES = ("hourangle", "hour", "hours", "rad", "radian", "radians", "arcmin", "arcsec")
_MOST_BYTES = 2**31

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Published:
    """The rows of one table, and where they come from.

    where    the file, as errors call it
    source   its name and SHA-256
    rows     one mapping per row, keys as the file spells them
    units    of columns, where the file says
    """

    where: str
    source: str
    rows: list[Row]
    units: dict[str, str] = field(default_factory=dict)

    def column(self, *names: str) -> str | None:
        """How the file spells a column, by any of its names in any case.

        Of spellings that differ in case only, the one with more values.
        """
        have: dict[str, list[str]] = {}
        for name in self.rows[0]:
            have.setdefault(str(name).strip().lower(), []).append(name)
        spelled = next((have[name] for name in names if name in have), None)
        if spelled is None or len(spelled) == 1:
            return spelled[0] if spelled else None
        return max(spelled, key=lambda name: sum(text_in(row, name) is not None for row in self.rows))

    def columns(self, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, str]:
        """The file's spelling of the house's columns (`NAMES`); SchemaMismatch where a needed one lacks."""
        found = {}
        for name in (*needed, *optional):
            spelled = self.column(*NAMES[name])
            if spelled is not None:
                found[name] = spelled
            elif name in needed:
                looked = ", ".join(NAMES[name])
                raise SchemaMismatch(self.where, f"lacks the column '{name}'", f"looked for {looked}")
        for name in ("ra_deg", "dec_deg"):
            unit = self.units.get(found.get(name, ""), "").strip().lower()
            if unit in _NOT_DEGREES:
                problem = f"gives '{found[name]}' in {unit}"
                raise SchemaMismatch(self.where, problem, "positions are needed in degrees")
        return found

    def at(self, number: int) -> str:
        """What an error calls a row (counted from 1)."""
        return f"{self.where} row {number}"


def read_published(path: Path | str) -> Published:
    """Read a table of any of the kinds; DataError naming the file (and row) that cannot be one."""
    path = Path(path)
    if not path.is_file():
        raise DataError(str(path), "there is no such file")
    data = path.read_bytes()
    source = f"{path.name} sha256:{hashlib.sha256(data).hexdigest()}"
    plain, suffix = _unzipped(path, data)
    units: dict[str, str] = {}
    if suffix in (".fits", ".fit"):
        rows, units = _fits_rows(plain, str(path))
    elif suffix == ".parquet":
        rows = _parquet_rows(plain, str(path))
    else:
        rows = _text_rows(plain, str(path))
    if not rows:
        raise DataError(str(path), "holds no rows")
    return Published(str(path), source, rows, units)


def number_in(row: Row, column: str | None, where: str) -> float | None:
    """A number, or None where the table says that it is unknown; DataError for text that is no number."""
    if column is None:
        return None
    value = row.get(column)
    if value is None or str(value).strip().lower() in UNKNOWN:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise DataError(where, f"column '{column}' holds '{value}', which is no number") from error
    return number if np.isfinite(number) else None


def positive_in(row: Row, column: str | None, where: str) -> float | None:
    """A number above zero; tables write an unknown radius or redshift as zero, -1 or -99."""
    value = number_in(row, column, where)
    return value if value is not None and value > 0.0 else None


def text_in(row: Row, column: str | None) -> str | None:
    """Text without its padding, or None where there is none."""
    if column is None or row.get(column) is None:
        return None
    value = row[column]
    text = (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()
    return None if text.lower() in UNKNOWN else text


def position_in(row: Row, columns: dict[str, str], where: str) -> tuple[float, float]:
    """Right ascension and declination [deg]; DataError where they are none."""
    ra, dec = (number_in(row, columns[axis], where) for axis in ("ra_deg", "dec_deg"))
    if ra is None or dec is None or not (0.0 <= ra <= 360.0 and -90.0 <= dec <= 90.0):
        raise DataError(where, f"has no position in degrees (ra {ra}, dec {dec})")
    return ra % 360.0, dec


def name_in(row: Row, columns: dict[str, str], ra: float, dec: float) -> str:
    """The row's own name, else one made of its position."""
    return text_in(row, columns.get("name")) or f"J{ra:.5f}{dec:+.5f}"


def _unzipped(path: Path, data: bytes) -> tuple[bytes, str]:
    """Plain bytes, and the suffix that says what they are."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if not suffixes or suffixes[-1] != ".gz":
        return data, suffixes[-1] if suffixes else ""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            plain = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(str(path), f"is truncated or no gzip file: {error}") from error
    if len(plain) > _MOST_BYTES:
        raise DataError(str(path), f"inflates to more than {_MOST_BYTES} bytes", "split the file")
    return plain, suffixes[-2] if len(suffixes) > 1 else ""


def _fits_rows(data: bytes, where: str) -> tuple[list[Row], dict[str, str]]:
    refuse_endless_headers(data, where)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*truncated.*")
            warnings.filterwarnings("ignore", category=fits.verify.VerifyWarning)
            with fits.open(io.BytesIO(data), memmap=False) as units:
                table = _first_table(units, data, where)
                named = {c.name: str(c.unit) for c in table.columns if c.unit}
                flat = [c.name for c in table.columns if table.data[c.name].ndim == 1]
                columns = {name: table.data[name].tolist() for name in flat}
    except DataError:
        raise
    except Exception as error:  # a damaged table makes astropy raise nearly anything
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(where, f"cannot be read as a table: {cause}") from error
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], named


def _first_table(units: fits.HDUList, data: bytes, where: str) -> fits.BinTableHDU:
    """The table, once it is sure that the bytes which its header declares exist."""
    table = next((unit for unit in units if isinstance(unit, fits.BinTableHDU)), None)
    if table is None:
        raise DataError(where, "holds no table")
    place = table.fileinfo()
    if place["datLoc"] + table.header["NAXIS1"] * table.header["NAXIS2"] > len(data):
        raise DataError(where, "is truncated: its header declares more rows than the file holds")
    return table


def _parquet_rows(data: bytes, where: str) -> list[Row]:
    try:
        return list(pq.read_table(io.BytesIO(data)).to_pylist())
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(where, f"cannot be read as Parquet: {cause}") from error


def _text_rows(data: bytes, where: str) -> list[Row]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(where, f"is no UTF-8 text (byte {error.start})", "CSV, FITS or Parquet") from error
    lines = [line for line in io.StringIO(text, newline="") if line.strip()]
    if not lines:
        return []
    lines[0] = lines[0].lstrip("# ")
    if "," in lines[0] or "\t" in lines[0]:
        return _separated(lines, "," if "," in lines[0] else "\t", where)
    names = lines[0].split()
    return [
        _as_row(names, line.split(), f"{where} line {number}")
        for number, line in enumerate(lines[1:], start=2)
        if not line.startswith("#")
    ]


def _separated(lines: list[str], delimiter: str, where: str) -> list[Row]:
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        names = next(reader)
        return [_as_row(names, cells, f"{where} line {reader.line_num}") for cells in reader if cells]
    except csv.Error as error:
        raise DataError(f"{where} line {reader.line_num}", f"is no row of a table: {error}") from error


def _as_row(names: list[str], cells: list[str], where: str) -> Row:
    """A row of as many cells as there are names: a shifted row would give every value another meaning."""
    if len(cells) != len(names):
        raise DataError(where, f"has {len(cells)} cells under {len(names)} names")
    return dict(zip(names, cells, strict=True))
