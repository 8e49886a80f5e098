"""Catalogues of the Tractor: sweep, tractor and random files, and anything with their columns, in chunks.

A file is read a few rows at a time and only the columns that are needed, so that a sweep of gigabytes takes
no more memory than a small one. Names are matched whatever their case; units are checked where the file gives
them.

**psfdepth and galdepth have two meanings.** In tractor, sweep and random files they are inverse variances
[1/nmgy^2]; in the survey-bricks summaries they are 5-sigma AB magnitudes. Which it is follows from the kind
of file, and is held against the unit and the values; what does not fit together is refused. Here they are
always inverse variances.
"""

import gzip
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from astropy.io import fits
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import DataError, SchemaMismatch
from darkhaloscope.survey.release import BANDS, Numbers, to_nmgy

CHUNK_ROWS = 50_000
DEPTH_SIGMAS = 5.0
"""Of the magnitudes that summaries call depth."""
MAGNITUDES = (15.0, 30.0)
"""Every survey depth in magnitudes lies here; inverse variances of three bands do not."""

_FLUX = ("nanomaggy", "nanomaggies", "nmgy", "nanomagg")
_IVAR = ("1/nanomaggy^2", "1/nanomaggies^2", "1/nmgy^2", "nanomaggy^-2", "nanomaggies^(-2)", "nanomaggy**-2")
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

    kind    catalogue, random, brick_summary, brick_grid, ccds
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
        raise DataError(str(path), "is no FITS, Parquet or CSV file")
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
    """The rows of a catalogue (or random file) under the house's names, a few at a time.

    Columns that the file lacks are absent. Raises SchemaMismatch for a file that is something else, for a
    unit that is another, and for a psfdepth that is a magnitude; DataError naming the row of a position that
    is none.
    """
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
    first = 0
    for arrays in found.read(sorted(_WANTED & set(found.units)), rows):
        table = _house(arrays, found.where, first)
        first += table.num_rows
        yield table


def read_brick_summary(path: Path | str) -> pa.Table:
    """A survey-bricks summary: brickname, ra_deg, dec_deg, nexp_*, psfsize_*, psfdepth_* [1/nmgy^2], ebv.

    Depths are turned from magnitudes into inverse variances; a depth of 0 (no exposure) becomes null.
    """
    found = open_catalogue(path)
    if found.kind != "brick_summary":
        raise SchemaMismatch(found.where, "is no summary of bricks", "give survey-bricks-dr….fits.gz")
    wanted = {"brickname", "ra", "dec", "ebv"}
    wanted |= {f"{stem}_{b}" for stem in ("nexp", "psfsize", "psfdepth") for b in BANDS}
    (arrays,) = found.read(sorted(wanted & set(found.units)), 2**31 - 1)
    columns: dict[str, Any] = {"brickname": _text(arrays["brickname"])}
    for name in sorted(wanted - {"brickname"} & set(arrays)):
        house = f"{name}_deg" if name in ("ra", "dec") else name
        values = np.asarray(arrays[name], dtype=np.float64)
        if name.startswith("psfdepth"):
            columns[house] = _depth_from_magnitude(values, name, found)
        else:
            columns[house] = values
    return pa.table(columns)


def _depth_from_magnitude(values: Numbers, name: str, found: Catalogue) -> pa.Array:
    known = values > 0.0
    low, high = MAGNITUDES
    unit = found.units.get(name, "")
    if unit.lower() in _IVAR or np.any((values[known] < low) | (values[known] > high)):
        problem = f"'{name}' holds no magnitudes (unit '{unit}'), as a summary of bricks should"
        raise SchemaMismatch(found.where, problem, "inverse variances belong to catalogues")
    with np.errstate(divide="ignore", invalid="ignore"):
        ivar = (DEPTH_SIGMAS / to_nmgy(values)) ** 2
    return pa.array(ivar, mask=~known)


def _check_units(found: Catalogue) -> None:
    for tractor, allowed in _NUMBERS.values():
        unit = found.units.get(tractor, "").strip().lower().replace(" ", "")
        if not unit or not allowed or unit in allowed:
            continue
        if tractor.startswith("psfdepth") and unit in ("mag", "abmag", "mag(ab)"):
            problem = f"gives '{tractor}' as a magnitude; in a catalogue it is an inverse variance"
            raise SchemaMismatch(found.where, problem, "convert it to 1/nanomaggy^2")
        raise SchemaMismatch(found.where, f"gives '{tractor}' in '{unit}'", f"known: {', '.join(allowed)}")


def _house(arrays: Arrays, where: str, first: int) -> pa.Table:
    """One chunk under the house's names. `first` is the number of its first row."""
    columns: dict[str, Any] = {}
    for house, (tractor, _) in _NUMBERS.items():
        if tractor in arrays:
            columns[house] = np.asarray(arrays[tractor], dtype=np.float64)
    for house, tractor in _INTEGERS.items():
        if tractor in arrays:
            columns[house] = np.asarray(arrays[tractor]).astype(np.int64)
    for house, tractor in _TEXTS.items():
        if tractor in arrays:
            columns[house] = _text(arrays[tractor])
    for house, tractor in _TRUTHS.items():
        if tractor in arrays:
            columns[house] = _truth(arrays[tractor])
    _refuse_positions(columns, where, first)
    _refuse_magnitudes(columns, where)
    return pa.table(_one_shape(columns))


def _text(values: Any) -> list[str]:
    return [
        (v.decode("ascii", "replace") if isinstance(v, bytes) else str(v)).strip() for v in values.tolist()
    ]


def _truth(values: Any) -> NDArray[np.bool_]:
    """FITS writes T and F, text tables words or numbers."""
    array = np.asarray(values)
    if array.dtype.kind in "iu" and array.size and set(np.unique(array)) <= {ord("T"), ord("F"), 0}:
        return np.asarray(array == ord("T")) if ord("T") in array or ord("F") in array else array.astype(bool)
    if array.dtype.kind in "OUS":
        return np.array([str(v).strip().lower() in ("t", "true", "1", "b't'") for v in array.tolist()])
    return array.astype(bool)


def _refuse_positions(columns: Arrays, where: str, first: int) -> None:
    ra, dec = columns["ra_deg"], columns["dec_deg"]
    bad = ~((ra >= 0.0) & (ra <= 360.0) & (np.abs(dec) <= 90.0))
    if bad.any():
        k = int(np.argmax(bad))
        raise DataError(
            f"{where} row {first + k + 1}", f"has no position in degrees (ra {ra[k]}, dec {dec[k]})"
        )


def _refuse_magnitudes(columns: Arrays, where: str) -> None:
    depths = [columns[f"psfdepth_{b}"] for b in BANDS if f"psfdepth_{b}" in columns]
    known = np.concatenate([d[np.isfinite(d) & (d > 0.0)] for d in depths]) if depths else np.empty(0)
    low, high = MAGNITUDES
    if known.size >= len(BANDS) and np.all((known > low) & (known < high)):
        problem = (
            f"holds psfdepth from {known.min():.1f} to {known.max():.1f} in every band: magnitudes, where "
            "a catalogue has inverse variances (tens to ten thousands)"
        )
        raise SchemaMismatch(where, problem, "convert them to 1/nanomaggy^2")


def _one_shape(columns: Arrays) -> Arrays:
    """DR9's shape columns, made of the older ones where only those are there."""
    if "shape_r" not in columns and {"shapedev_r", "shapeexp_r", "type"} <= columns.keys():
        kinds = np.array([kind.upper() for kind in columns["type"]], dtype="U8")
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
            with fits.open(path, memmap=False, lazy_load_hdus=True) as units:
                table = _first_table(units, where)
                dtype, start = table.columns.dtype.newbyteorder(">"), table.fileinfo()["datLoc"]
                n, width = int(table.header["NAXIS2"]), int(table.header["NAXIS1"])
                described = {c.name.lower(): c for c in table.columns}
    except DataError:
        raise
    except Exception as error:  # a damaged header makes astropy raise nearly anything
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(where, f"cannot be read as a table: {cause}") from error
    if dtype.itemsize != width or len(described) != len(dtype.names):
        raise DataError(where, "is a damaged table: its columns do not fill its rows")
    if not zipped and path.stat().st_size < start + n * width:
        raise DataError(where, "is truncated: its header declares more rows than the file holds")
    spelled = {name: column.name for name, column in described.items()}

    def read(names: list[str], rows: int) -> Iterator[Arrays]:
        with gzip.open(path) if zipped else path.open("rb") as file:
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
            except (OSError, EOFError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
                raise DataError(where, f"is truncated or damaged: {error}") from error

    return {name: str(column.unit or "") for name, column in described.items()}, read


def _first_table(units: fits.HDUList, where: str) -> fits.BinTableHDU:
    table = next((unit for unit in units if isinstance(unit, fits.BinTableHDU)), None)
    if table is None:
        raise SchemaMismatch(where, "holds no table")
    return table


def _scaled(values: NDArray[Any], column: Any, where: str) -> NDArray[Any]:
    if values.ndim > 1:
        raise SchemaMismatch(where, f"has arrays in the column '{column.name}', where one number is needed")
    scale, zero = (1.0 if column.bscale in ("", None) else column.bscale), column.bzero or 0
    return values if scale == 1 and zero == 0 else values * scale + zero


def _open_parquet(path: Path) -> tuple[dict[str, str], Reader]:
    where = str(path)
    try:
        spelled = {name.lower(): name for name in pq.read_schema(path).names}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(where, f"cannot be read as Parquet: {str(error).splitlines()[0]}") from error

    def read(names: list[str], rows: int) -> Iterator[Arrays]:
        try:
            with pq.ParquetFile(path, memory_map=False) as file:
                for batch in file.iter_batches(batch_size=rows, columns=[spelled[name] for name in names]):
                    yield {name: _plain(batch.column(spelled[name])) for name in names}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(where, f"cannot be read as Parquet: {str(error).splitlines()[0]}") from error

    return dict.fromkeys(spelled, ""), read


def _open_csv(path: Path) -> tuple[dict[str, str], Reader]:
    where = str(path)

    def stream() -> Any:
        return pa.csv.open_csv(path, read_options=pa.csv.ReadOptions(block_size=2**22))

    try:
        with stream() as reader:
            spelled = {name.strip().lower(): name for name in reader.schema.names}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(where, f"cannot be read as CSV: {str(error).splitlines()[0]}") from error

    def read(names: list[str], rows: int) -> Iterator[Arrays]:
        try:
            with stream() as reader:
                for batch in reader:
                    for first in range(0, batch.num_rows, rows):
                        part = batch.slice(first, rows)
                        yield {name: _plain(part.column(spelled[name])) for name in names}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(where, f"cannot be read as CSV: {str(error).splitlines()[0]}") from error

    return dict.fromkeys(spelled, ""), read


def _plain(column: pa.Array) -> NDArray[Any]:
    return np.asarray(column.to_numpy(zero_copy_only=False))
