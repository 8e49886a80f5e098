"""Catalogues of the Tractor: sweep, tractor and random files, and anything with their columns, in chunks.

A file is read a few rows at a time and only the columns that are needed, so that a sweep of gigabytes takes
no more memory than a small one. Names are matched whatever their case; units are checked where the file gives
them.

**psfdepth and galdepth have two meanings.** In tractor, sweep and random files they are inverse variances
[1/nmgy^2]; in the survey-bricks summaries they are 5-sigma AB magnitudes. Which it is follows from the kind
of file, and is held against the unit and the values; what does not fit together is refused. Here they are
always inverse variances.

Whatever is judged, is judged on blocks of one size: the rows that a caller asks for at a time change nothing.
"""

import gzip
import math
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from astropy.io import fits
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import ConfigError, DataError, SchemaMismatch
from darkhaloscope.survey.fits_images import BLOCK, refuse_endless_headers
from darkhaloscope.survey.release import BANDS, Numbers, to_nmgy

CHUNK_ROWS = 50_000
"""Rows in memory at a time: 50 MB of a sweep."""
MOST_UNITS = 16
"""Where a file's first table is looked for; a catalogue's is the second unit."""
MOST_HEADER_BLOCKS = 1000
"""Of one header: 36,000 cards. A sweep's has a thousand."""
MOST_ELEMENTS = 2**40
"""Of one unit: no file of the survey has a terabyte."""
DEPTH_SIGMAS = 5.0
"""Of the magnitudes that summaries call depth."""
MAGNITUDES = (15.0, 30.0)
"""Every survey depth in magnitudes lies here; inverse variances of two bands hardly ever do."""

# Units in lower case, without blanks and brackets, powers with a caret.
_FLUX = ("nanomaggy", "nanomaggies", "nmgy", "nanomagg")
_IVAR = ("1/nanomaggy^2", "1/nanomaggies^2", "1/nmgy^2", "nanomaggy^-2", "nanomaggies^-2", "nmgy^-2")
_MAG = ("mag", "mags", "abmag", "magab")
_NUMBERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    # house's name: (the Tractor's, units it may be given in)
    "ra_deg": ("ra", ("deg", "degree", "degrees")),
    "dec_deg": ("dec", ("deg", "degree", "degrees")),
    **{f"flux_{b}": (f"flux_{b}", _FLUX) for b in BANDS},
    **{f"mw_transmission_{b}": (f"mw_transmission_{b}", ()) for b in BANDS},
    "sersic": ("sersic", ()),
    "shape_r": ("shape_r", ("arcsec",)),
    "shape_e1": ("shape_e1", ()),
    "shape_e2": ("shape_e2", ()),
    **{f"psfsize_{b}": (f"psfsize_{b}", ("arcsec",)) for b in BANDS},
    **{f"psfdepth_{b}": (f"psfdepth_{b}", _IVAR) for b in BANDS},
    "ebv": ("ebv", ("mag",)),
    # Models before DR9 had shapes of their own.
    **{f"shape{m}_r": (f"shape{m}_r", ("arcsec",)) for m in ("dev", "exp")},
    **{f"shape{m}_e{k}": (f"shape{m}_e{k}", ()) for m in ("dev", "exp") for k in (1, 2)},
    "fracdev": ("fracdev", ()),
}  # fmt: skip
_INTEGERS: Mapping[str, str] = {
    "tractor_release": "release",
    "brickid": "brickid",
    "objid": "objid",
    **{f"nexp_{b}": f"nobs_{b}" for b in BANDS},
    "maskbits": "maskbits",
}
_TEXTS: Mapping[str, str] = {"brickname": "brickname", "type": "type"}
_TRUTHS: Mapping[str, str] = {"brick_primary": "brick_primary"}
_DEPTHS = tuple(f"{stem}_{b}" for stem in ("psfdepth", "galdepth") for b in BANDS)
_WANTED = {tractor for tractor, _ in _NUMBERS.values()} | {
    *_INTEGERS.values(),
    *_TEXTS.values(),
    *_TRUTHS.values(),
}

Arrays = dict[str, Any]
Reader = Callable[[list[str], int], Iterator[Arrays]]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A file of rows: what it is, its columns in lower case with their units, and how to stream them.

    kind    catalogue, random, brick_summary, brick_grid, ccds, positions
    units   by column, in the file's words; empty where it says none
    read    (lower-case names, rows at a time) to chunks of arrays
    """

    where: str
    kind: str
    units: Mapping[str, str]
    read: Reader


def open_catalogue(path: Path | str) -> Catalogue:
    """What a file is, from its columns. DataError for a file that cannot be read, or is none of these."""
    path = Path(path)
    if not path.is_file():
        raise DataError(str(path), "there is no such file")
    suffixes = [s.lower() for s in path.suffixes]
    kind = next((s for s in reversed(suffixes) if s != ".gz"), "")
    if kind in (".fits", ".fit"):
        units, read = _open_fits(path, zipped=bool(suffixes) and suffixes[-1] == ".gz")
    elif kind == ".parquet":
        units, read = _open_parquet(path)
    elif kind in (".csv", ".txt"):
        units, read = _open_csv(path)
    else:
        raise DataError(str(path), "is no FITS, Parquet or CSV file by its name", "rename or convert it")
    return Catalogue(str(path), _kind_of(set(units), str(path)), units, read)


def _kind_of(names: set[str], where: str) -> str:
    if {"expnum", "ccdname"} <= names:
        return "ccds"
    if not {"ra", "dec"} <= names:
        raise SchemaMismatch(
            where, "lacks the columns 'ra' and 'dec'", f"has {', '.join(sorted(names)[:20])}"
        )
    if "brickname" in names and not {"objid", "flux_r"} & names and {"ra1", "nexphist_r", "nobjs"} & names:
        return "brick_summary" if {"nexphist_r", "nobjs"} & names else "brick_grid"
    if "decam_flux" in names:
        problem = "has fluxes as arrays over ugrizY (DR1 to DR3), which are not read"
        raise SchemaMismatch(where, problem, "use DR8 or later")
    if "flux_r" in names:
        return "catalogue"
    return "random" if "nobs_r" in names else "positions"


def catalogue_chunks(path: Path | str, rows: int = CHUNK_ROWS) -> Iterator[pa.Table]:
    """The rows of a catalogue (or random file) under the house's names, at most so many at a time.

    Columns that the file lacks are absent. Raises SchemaMismatch for a file that is something else, for a
    unit that is another, and for a psfdepth that is a magnitude or may be one; DataError naming row and
    column of a value that is none.
    """
    if rows < 1:
        raise ConfigError("catalogue_chunks", "rows", f"is {rows}", "1 or more")
    found = open_catalogue(path)
    if found.kind not in ("catalogue", "random"):
        words = {
            "ccds": "is a table of exposures (survey-ccds), not of objects",
            "brick_grid": "is a table of bricks, not of objects",
            "brick_summary": "is a summary of bricks, not of objects",
            "positions": "has no fluxes (flux_r)",
        }
        raise SchemaMismatch(found.where, words[found.kind], "give tractor or sweep files")
    _check_units(found)
    depths, first = _Depths(found), 0
    for arrays in found.read(sorted(_WANTED & set(found.units)), CHUNK_ROWS):
        block = _house(arrays, found.where, first)
        depths.judge(block)
        first += block.num_rows
        for start in range(0, block.num_rows, rows):
            yield block.slice(start, rows)


def read_bricks_table(path: Path | str) -> pa.Table:
    """The survey's table of bricks: brickname, brickid, ra_deg, dec_deg, and the bounds of each brick
    ra1_deg, ra2_deg, dec1_deg, dec2_deg. SchemaMismatch for another kind of file.
    """
    found = open_catalogue(path)
    if found.kind != "brick_grid":
        raise SchemaMismatch(found.where, "is no table of bricks", "give survey-bricks.fits.gz")
    degrees = ("ra", "dec", "ra1", "ra2", "dec1", "dec2")
    arrays = _whole(found, ("brickname", "brickid", *degrees))
    columns: dict[str, Any] = {
        "brickname": _text(arrays["brickname"]),
        "brickid": _integers(arrays["brickid"], "brickid", found.where, 0),
    }
    for name in degrees:
        columns[f"{name}_deg"] = _numbers(arrays[name], name, found.where, 0)
    _refuse_positions(columns, found.where, 0)
    return pa.table(columns)


def read_brick_summary(path: Path | str) -> pa.Table:
    """A survey-bricks summary: brickname, ra_deg, dec_deg, nexp_*, psfsize_*, psfdepth_* and galdepth_*
    [1/nmgy^2], ebv.

    Depths are turned from magnitudes into inverse variances; a depth of 0 (no exposure) becomes null.
    """
    found = open_catalogue(path)
    if found.kind != "brick_summary":
        raise SchemaMismatch(found.where, "is no summary of bricks", "give survey-bricks-dr….fits.gz")
    stems = ("nexp", "psfsize", "psfdepth", "galdepth")
    wanted = ("ra", "dec", "ebv", *(f"{stem}_{b}" for stem in stems for b in BANDS))
    arrays = _whole(found, ("brickname", *(name for name in wanted if name in found.units)))
    columns: dict[str, Any] = {"brickname": _text(arrays.pop("brickname"))}
    for name, given in arrays.items():
        if name.startswith("nexp"):
            columns[name] = _integers(given, name, found.where, 0)
            continue
        values = _numbers(given, name, found.where, 0)
        house = f"{name}_deg" if name in ("ra", "dec") else name
        columns[house] = _depth_from_magnitude(values, name, found) if name in _DEPTHS else values
    _refuse_positions(columns, found.where, 0)
    return pa.table(columns)


def _whole(found: Catalogue, names: Sequence[str]) -> Arrays:
    """Columns of a small table in one piece. SchemaMismatch for one that is absent."""
    for name in names:
        if name not in found.units:
            raise SchemaMismatch(found.where, f"lacks the column '{name}'")
    pieces = list(found.read(list(names), CHUNK_ROWS))
    if not pieces:
        raise DataError(found.where, "holds no rows")
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in names}


def _depth_from_magnitude(values: Numbers, name: str, found: Catalogue) -> pa.Array:
    """1/nmgy^2 of a 5-sigma depth: (5 / f)^2, f the flux of that magnitude."""
    known = values > 0.0
    low, high = MAGNITUDES
    unit = _plain_unit(found.units[name])
    if unit not in ("", *_MAG) or np.any((values[known] < low) | (values[known] > high)):
        problem = f"'{name}' holds no magnitudes (unit '{unit}'), as a summary of bricks should"
        raise SchemaMismatch(found.where, problem, "inverse variances belong to catalogues")
    ivar = (DEPTH_SIGMAS / to_nmgy(np.where(known, values, low))) ** 2
    return pa.array(ivar, mask=~known)


def _plain_unit(unit: str) -> str:
    return re.sub(r"[\s()]", "", unit.lower()).replace("**", "^")


def _check_units(found: Catalogue) -> None:
    known = dict(_NUMBERS.values()) | dict.fromkeys(_DEPTHS, _IVAR)
    for tractor, allowed in known.items():
        unit = _plain_unit(found.units.get(tractor, ""))
        if not unit or not allowed or unit in allowed:
            continue
        if tractor in _DEPTHS and unit in _MAG:
            problem = f"gives '{tractor}' as a magnitude; in a catalogue it is an inverse variance"
            raise SchemaMismatch(found.where, problem, "convert it to 1/nanomaggy^2")
        raise SchemaMismatch(found.where, f"gives '{tractor}' in '{unit}'", f"known: {', '.join(allowed)}")


class _Depths:
    """Holds the values of psfdepth against what a catalogue's should be, over all rows so far.

    A row whose depths in two bands or more all look like magnitudes is taken for one of magnitudes, a row
    with any depth outside their range for one of inverse variances; the more numerous kind says what the file
    holds. Only over many rows: an inverse variance of 25 is a shallow z band. Rows of one band in that range
    say nothing, and a file that has no others must give the unit.
    """

    def __init__(self, found: Catalogue) -> None:
        self._where = found.where
        units = [_plain_unit(found.units[f"psfdepth_{b}"]) for b in BANDS if f"psfdepth_{b}" in found.units]
        self._unit_given = bool(units) and all(unit in _IVAR for unit in units)
        self._magnitudes = self._variances = self._either = 0

    def judge(self, block: pa.Table) -> None:
        names = [f"psfdepth_{b}" for b in BANDS if f"psfdepth_{b}" in block.column_names]
        if not names:
            return
        values = np.stack([block.column(name).to_numpy() for name in names])
        known = np.isfinite(values) & (values > 0.0)
        low, high = MAGNITUDES
        inside = np.sum(known & (values > low) & (values < high), axis=0)
        bands = np.sum(known, axis=0)
        self._variances += int(np.sum(inside < bands))
        self._magnitudes += int(np.sum((inside == bands) & (bands > 1)))
        self._either += int(np.sum((inside == bands) & (bands == 1)))
        span = f"{values[known].min():.1f} to {values[known].max():.1f}" if known.any() else ""
        if self._magnitudes > self._variances:
            problem = (
                f"holds psfdepth from {span} in every band: magnitudes, where a catalogue has inverse "
                "variances (tens to ten thousands)"
            )
            raise SchemaMismatch(self._where, problem, "convert them to 1/nanomaggy^2")
        if self._either and not (self._magnitudes or self._variances or self._unit_given):
            problem = (
                f"holds psfdepth from {span} in one band alone, which may be magnitudes or inverse variances"
            )
            raise SchemaMismatch(self._where, problem, "give the unit of psfdepth (TUNIT 1/nanomaggy^2)")


def _house(arrays: Arrays, where: str, first: int) -> pa.Table:
    """One block under the house's names. `first` is the number of its first row."""
    columns: dict[str, Any] = {}
    for house, (tractor, _) in _NUMBERS.items():
        if tractor in arrays:
            columns[house] = _numbers(arrays[tractor], tractor, where, first)
    for house, tractor in _INTEGERS.items():
        if tractor in arrays:
            columns[house] = _integers(arrays[tractor], tractor, where, first)
    for house, tractor in _TEXTS.items():
        if tractor in arrays:
            columns[house] = _text(arrays[tractor])
    for house, tractor in _TRUTHS.items():
        if tractor in arrays:
            columns[house] = _truth(arrays[tractor], tractor, where, first)
    _refuse_positions(columns, where, first)
    return pa.table(_one_shape(columns))


def _numbers(values: Any, name: str, where: str, first: int) -> Numbers:
    """Values as numbers; an absent one is NaN."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiubOUS":
        raise SchemaMismatch(where, f"column '{name}' holds {array.dtype}, not numbers")
    try:
        with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
            return array.astype(np.float64)
    except (TypeError, ValueError):
        for number, value in enumerate(array.tolist(), start=first + 1):
            if not _is_number(value):
                row = f"{where} row {number}"
                raise SchemaMismatch(row, f"column '{name}' holds {value!r}, which is no number") from None
        raise


def _is_number(value: Any) -> bool:
    try:
        float(value) if value is not None else 0.0
    except (TypeError, ValueError):
        return False
    return True


def _integers(values: Any, name: str, where: str, first: int) -> NDArray[np.int64]:
    """Values as whole numbers, none of them absent: an identity or a mask cannot be guessed."""
    array = np.asarray(values)
    if array.dtype.kind in "ib":
        return array.astype(np.int64)
    numbers = _numbers(array, name, where, first)
    with np.errstate(invalid="ignore"):
        bad = ~(np.abs(numbers) < 2.0**53) | (numbers != np.floor(numbers))
    if bad.any():
        k = int(np.argmax(bad))
        row = f"{where} row {first + k + 1}"
        raise DataError(row, f"column '{name}' holds {numbers[k]}, which is no whole number")
    return numbers.astype(np.int64)


def _text(values: Any) -> pa.Array:
    """Text without its padding; an absent one is null."""
    array = np.asarray(values)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "ascii", "replace")
    words = [None if word is None or word != word else _word(word) for word in array.tolist()]  # noqa: PLR0124 - NaN
    return pa.array(words, pa.string())


def _word(value: Any) -> str:
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip()


_TRUE, _FALSE = ("t", "true", "1", "1.0"), ("f", "false", "0", "0.0")


def _truth(values: Any, name: str, where: str, first: int) -> NDArray[np.bool_]:
    """FITS writes T and F (or a byte of 0), text tables words or numbers. DataError for anything else."""
    array = np.asarray(values)
    if array.dtype.kind == "b":
        return array.astype(bool)
    if array.dtype.kind in "iu":
        known = np.isin(array, (0, 1, ord("T"), ord("F")))
        truth = np.isin(array, (1, ord("T")))
    else:
        words = np.array([str(word).lower() for word in _text(array).to_pylist()], dtype="U8")
        known, truth = np.isin(words, _TRUE + _FALSE), np.isin(words, _TRUE)
    if not known.all():
        k = int(np.argmin(known))
        raise DataError(f"{where} row {first + k + 1}", f"column '{name}' holds neither true nor false")
    return truth


def _refuse_positions(columns: Arrays, where: str, first: int) -> None:
    ra, dec = columns["ra_deg"], columns["dec_deg"]
    bad = ~((ra >= 0.0) & (ra <= 360.0) & (np.abs(dec) <= 90.0))
    if bad.any():
        k = int(np.argmax(bad))
        raise DataError(
            f"{where} row {first + k + 1}", f"has no position in degrees (ra {ra[k]}, dec {dec[k]})"
        )


def _one_shape(columns: Arrays) -> Arrays:
    """DR9's shape columns, made of the older ones where only those are there."""
    if "shape_r" not in columns and {"shapedev_r", "shapeexp_r", "type"} <= columns.keys():
        kinds = np.array([(kind or "").upper() for kind in columns["type"].to_pylist()], dtype="U8")
        dev = (kinds == "DEV") | ((kinds == "COMP") & (columns.get("fracdev", np.zeros(len(kinds))) > 0.5))
        for part in ("r", "e1", "e2"):
            columns[f"shape_{part}"] = np.where(dev, columns[f"shapedev_{part}"], columns[f"shapeexp_{part}"])
        columns["sersic"] = np.where(dev, 4.0, 1.0)
    models = [f"shape{m}_{k}" for m in ("dev", "exp") for k in ("r", "e1", "e2")]
    return {name: values for name, values in columns.items() if name not in (*models, "fracdev")}


def _open_fits(path: Path, *, zipped: bool) -> tuple[dict[str, str], Reader]:
    where = str(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _opened(path, zipped=zipped) as file:
                table, start = _first_table(file, where)
                dtype = table.columns.dtype.newbyteorder(">")
                n, width = int(table.header["NAXIS2"]), int(table.header["NAXIS1"])
                spelled = _spelled([c.name for c in table.columns], where)
                described = {name: table.columns[spelling] for name, spelling in spelled.items()}
    except DataError:
        raise
    except Exception as error:  # a damaged header makes astropy raise nearly anything
        raise DataError(where, f"cannot be read as a table: {_first_line(error)}") from error
    if dtype.itemsize != width:
        raise DataError(where, "is a damaged table: its columns do not fill its rows")
    if not zipped and path.stat().st_size < start + n * width:
        raise DataError(where, "is truncated: its header declares more rows than the file holds")
    if n < 0:
        raise DataError(where, f"is a damaged table: its header declares {n} rows")

    def read(names: list[str], rows: int) -> Iterator[Arrays]:
        with _opened(path, zipped=zipped) as file:
            try:
                file.seek(start)
                for first in range(0, n, rows):
                    count = min(rows, n - first)
                    data = file.read(count * width)
                    if len(data) < count * width:
                        raise DataError(
                            where, f"is truncated: it ends after row {first + len(data) // width}"
                        )
                    chunk = np.frombuffer(data, dtype=dtype)
                    yield {name: _scaled(chunk[spelled[name]], described[name], where) for name in names}
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(where, f"is truncated or damaged: {error}") from error

    return {name: str(column.unit or "") for name, column in described.items()}, read


def _opened(path: Path, *, zipped: bool) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if zipped else path.open("rb")


def _first_table(file: IO[bytes], where: str) -> tuple[fits.BinTableHDU, int]:
    """The first binary table by its header alone, and where its rows begin.

    astropy parses one header; the walk from unit to unit is ours. Its own takes a file whose header has no
    end into memory as a whole, and makes an object for every axis that a damaged header declares.
    """
    start = 0
    for number in range(MOST_UNITS):
        file.seek(start)
        head = _head(file, where)
        if not head.startswith(b"XTENSION" if number else b"SIMPLE  ="):
            break
        if head[8:80].replace(b"'", b" ").split()[1:2] == [b"BINTABLE"]:
            return fits.BinTableHDU.fromstring(head), start + len(head)
        start += len(head) + _data_bytes(fits.Header.fromstring(head), where)
    raise SchemaMismatch(where, "holds no table")


def _head(file: IO[bytes], where: str) -> bytes:
    """The header at this place, whole blocks; empty at the end of the file."""
    blocks: list[bytes] = []
    while len(blocks) < MOST_HEADER_BLOCKS:
        block = file.read(BLOCK)
        if not block and not blocks:
            return b""
        if len(block) < BLOCK:
            raise DataError(where, "is truncated: it ends within a header")
        blocks.append(block)
        if any(block[k : k + 80].rstrip() == b"END" for k in range(0, BLOCK, 80)):
            head = b"".join(blocks)
            refuse_endless_headers(head, where)
            return head
    raise DataError(where, "is a damaged FITS file: a header does not end")


def _data_bytes(header: fits.Header, where: str) -> int:
    """Bytes of a unit's data, in whole blocks (FITS standard 4.0, section 4.4.1)."""
    axes = [int(header[f"NAXIS{k + 1}"]) for k in range(int(header["NAXIS"]))]
    groups, heap = int(header.get("GCOUNT", 1)), int(header.get("PCOUNT", 0))
    elements = groups * (heap + math.prod(axes)) if axes else 0
    if min([*axes, groups, heap]) < 0 or elements > MOST_ELEMENTS:
        raise DataError(where, "is a damaged FITS file: a header declares a size that no file has")
    blocks = -(-elements * (abs(int(header["BITPIX"])) // 8) // BLOCK)  # rounded up
    return blocks * BLOCK


def _spelled(names: Sequence[str], where: str) -> dict[str, str]:
    """The file's spelling of each name in lower case. SchemaMismatch where two are the same needed name."""
    spelled: dict[str, str] = {}
    for name in names:
        plain = name.strip().lower()
        if plain in spelled and plain in {*_WANTED, *_DEPTHS}:
            problem = f"has the columns '{spelled[plain]}' and '{name}', which are one name here"
            raise SchemaMismatch(where, problem, "keep the right one")
        spelled.setdefault(plain, name)
    return spelled


def _scaled(values: NDArray[Any], column: Any, where: str) -> NDArray[Any]:
    if values.ndim > 1:
        raise SchemaMismatch(where, f"has arrays in the column '{column.name}', where one number is needed")
    scale, zero = (1.0 if column.bscale in ("", None) else column.bscale), column.bzero or 0
    if values.dtype.kind not in "iuf" or (scale == 1 and zero == 0):
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values * scale + zero)


def _open_parquet(path: Path) -> tuple[dict[str, str], Reader]:
    where = str(path)
    try:
        schema = pq.read_schema(path)
        names = list(schema.names)
        units = [(schema.field(k).metadata or {}).get(b"unit", b"").decode() for k in range(len(names))]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(where, f"cannot be read as Parquet: {_first_line(error)}") from error
    spelled = _spelled(names, where)

    def read(names: list[str], rows: int) -> Iterator[Arrays]:
        try:
            # Serial and without reading ahead: else memory grows with the file's row groups.
            with pq.ParquetFile(path, memory_map=False, buffer_size=2**20, pre_buffer=False) as file:
                wanted = [spelled[name] for name in names]
                for batch in file.iter_batches(batch_size=rows, columns=wanted, use_threads=False):
                    yield {name: _plain(batch.column(spelled[name])) for name in names}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(where, f"cannot be read as Parquet: {_first_line(error)}") from error

    said = dict(zip(names, units, strict=True))
    return {name: said[spelling] for name, spelling in spelled.items()}, read


def _open_csv(path: Path) -> tuple[dict[str, str], Reader]:
    where = str(path)

    def stream(convert: Any = None) -> Any:
        # Serial, for messages that name the row. Arrow still reads up to 32 blocks ahead of a slow reader.
        blocks = pa.csv.ReadOptions(block_size=2**18, use_threads=False)
        return pa.csv.open_csv(path, read_options=blocks, convert_options=convert)

    try:
        with stream() as reader:
            names = list(reader.schema.names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(where, f"cannot be read as CSV: {_first_line(error)}") from error
    spelled = _spelled(names, where)

    def named(error: Exception) -> str:
        numbered = re.sub(r"CSV column #(\d+)", lambda m: f"column '{names[int(m[1])]}'", _first_line(error))
        return numbered.replace("Row #", "line ")

    def read(wanted: list[str], rows: int) -> Iterator[Arrays]:
        # Types are ours: those guessed from the first block may not fit the second.
        texts = {*_TEXTS.values(), *_TRUTHS.values()}
        types = {spelled[name]: pa.string() if name in texts else pa.float64() for name in wanted}
        convert = pa.csv.ConvertOptions(include_columns=list(types), column_types=types)
        try:
            with stream(convert) as reader:
                for batch in reader:
                    for first in range(0, batch.num_rows, rows):
                        part = batch.slice(first, rows)
                        yield {name: _plain(part.column(spelled[name])) for name in wanted}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(where, f"cannot be read as CSV: {named(error)}") from error

    return dict.fromkeys(spelled, ""), read


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _plain(column: pa.Array) -> NDArray[Any]:
    return np.asarray(column.to_numpy(zero_copy_only=False))
