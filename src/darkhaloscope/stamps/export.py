"""Stamps for other people's tools: one HDF5 file, or a folder of FITS or PNG files with an index.csv.

HDF5 holds ``images`` (n, 3, y, x), bands g r z, in nanomaggies, with ``invvar``, ``maskbits`` and ``psf``
beside it and one array per column of the catalogue; of pairs, ``images`` are with the arc and ``control``
without. FITS files are laid out as the sky viewer's cutouts. `survey.cutouts` reads HDF5 and FITS back, pixel
for pixel; PNG is for eyes.
"""

import csv
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pyarrow as pa
from astropy.io import fits
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import DataError, SchemaMismatch
from darkhaloscope.contracts.store import Dataset, write_whole
from darkhaloscope.contracts.tables import PAIRED_STAMPS, STAMPS
from darkhaloscope.stamps.rgb import stamp_png
from darkhaloscope.stamps.stamp import decode_mask, decode_planes
from darkhaloscope.survey.release import BANDS, ZERO_POINT

Layout = Literal["hdf5", "fits", "png"]
LAYOUTS: tuple[Layout, ...] = ("hdf5", "fits", "png")
FILES_PER_FOLDER = 1000

_CUBES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    # array: (column, what its planes are called)
    STAMPS.name: {
        "images": ("stamp_npz", "image"),
        "invvar": ("invvar_npz", "invvar"),
        "psf": ("psf_npz", "psf"),
    },
    PAIRED_STAMPS.name: {
        "images": ("stamp_npz", "image"),
        "control": ("ctrl_stamp_npz", "image"),
        "invvar": ("invvar_npz", "invvar"),
        "arc": ("arc_npz", "arc"),
    },
}  # fmt: skip
_UNITS = {
    "images": "nanomaggies",
    "control": "nanomaggies",
    "arc": "nanomaggies",
    "invvar": "1/nanomaggies^2",
}


@dataclass(frozen=True)
class Exported:
    """What was written, and how many rows had no pixels."""

    path: Path
    rows: int
    without_pixels: int

    def __str__(self) -> str:
        left = f"; {self.without_pixels} without pixels left out" if self.without_pixels else ""
        return f"{self.rows} stamps in {self.path}{left}"


@dataclass(frozen=True, eq=False)
class _Stamp:
    """One row: cubes by array name, mask, and the narrow columns."""

    cubes: dict[str, NDArray[np.float32]]
    mask: NDArray[np.int32] | None
    row: dict[str, Any] = field(default_factory=dict)


def export_stamps(dataset: Dataset, out: Path, layout: Layout) -> Exported:
    """Write a dataset of STAMPS or PAIRED_STAMPS for other tools; rows with a reject code are left out.

    out   the file (hdf5) or the folder (fits, png)

    One shard is in memory at a time. A file is written whole or not at all; in a folder the index is written
    last, and files of an earlier, killed run are kept. Raises SchemaMismatch for another table, DataError
    where stamps differ in size (HDF5) or nothing is left.
    """
    if dataset.manifest.table not in _CUBES:
        raise SchemaMismatch(
            dataset.where, f"holds {dataset.manifest.table}", "stamps or pairs can be exported"
        )
    counts = _counted(dataset)
    if not counts[0]:
        raise DataError(dataset.where, "has no row with pixels")
    if layout == "hdf5":
        _write_hdf5(dataset, out, counts[0])
    else:
        _write_folder(dataset, out, layout)
    return Exported(out, *counts)


def _counted(dataset: Dataset) -> tuple[int, int]:
    rejects = dataset.read(["reject"]).column("reject")
    return rejects.null_count, len(rejects) - rejects.null_count


def _stamps(dataset: Dataset) -> Iterator[_Stamp]:
    table = dataset.manifest.table
    for key in dataset.keys:
        for row in dataset.read_shard(key).to_pylist():
            if row["reject"] is not None:
                continue
            where = f"{dataset.where} {row[dataset.table.key]}"
            cubes = {
                name: decode_planes(row[column], prefix, where=where)
                for name, (column, prefix) in _CUBES[table].items()
            }
            mask = decode_mask(row["mask_npz"], where=where) if "mask_npz" in row else None
            narrow = {name: row[name] for name in dataset.table.narrow}
            yield _Stamp(cubes, mask, narrow)


def _write_hdf5(dataset: Dataset, out: Path, rows: int) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", suffix=".h5", dir=out.parent)
    os.close(handle)
    draft = Path(name)
    try:
        with h5py.File(draft, "w") as file:
            _fill(file, dataset, rows)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


def _fill(file: Any, dataset: Dataset, rows: int) -> None:
    file.attrs.update(
        {
            "bands": "".join(BANDS),
            "zero_point": ZERO_POINT,
            "table": dataset.manifest.table,
            "table_version": dataset.manifest.version,
            "fingerprint": dataset.fingerprint,
            "nulls": "NaN in numbers that may be missing, -1 in integers, empty text",
        }
    )
    kernels = _largest_kernel(dataset)
    for k, stamp in enumerate(_stamps(dataset)):
        arrays: dict[str, NDArray[Any]] = dict(stamp.cubes)
        if stamp.mask is not None:
            arrays["maskbits"] = stamp.mask
        if "psf" in arrays:
            arrays["psf"] = _padded(arrays["psf"], kernels)
        for name, values in arrays.items():
            if k == 0:
                made = file.create_dataset(
                    name, (rows, *values.shape), values.dtype, chunks=(1, *values.shape)
                )
                made.attrs["units"] = _UNITS.get(name, "")
            if file[name].shape[1:] != values.shape:
                problem = f"has stamps of {values.shape} and {file[name].shape[1:]} pixels"
                raise DataError(dataset.where, problem, "export stamps of one size")
            file[name][k] = values
        for name, value in stamp.row.items():
            if k == 0:
                _column(file, dataset, name, rows)
            file[name][k] = _storable(value, dataset.table[name].dtype)


def _largest_kernel(dataset: Dataset) -> int:
    if dataset.manifest.table != STAMPS.name:
        return 0
    return max(int(stamp.cubes["psf"].shape[-1]) for stamp in _stamps(dataset))


def _padded(psf: NDArray[Any], size: int) -> NDArray[Any]:
    """A kernel in the middle of a larger square; both sides are odd."""
    margin = (size - psf.shape[-1]) // 2
    return np.pad(psf, ((0, 0), (margin, margin), (margin, margin)))


def _column(file: Any, dataset: Dataset, name: str, rows: int) -> None:
    column = dataset.table[name]
    kind = h5py.string_dtype() if pa.types.is_string(column.dtype) else column.dtype.to_pandas_dtype()
    made = file.create_dataset(name, (rows,), kind)
    made.attrs["units"], made.attrs["doc"] = column.unit, column.doc


def _storable(value: Any, dtype: pa.DataType) -> Any:
    if value is not None:
        return value
    if pa.types.is_string(dtype):
        return ""
    return np.nan if pa.types.is_floating(dtype) else -1


def _write_folder(dataset: Dataset, out: Path, layout: Layout) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=["file", *dataset.table.narrow], lineterminator="\n")
    writer.writeheader()
    for k, stamp in enumerate(_stamps(dataset)):
        name = f"{k // FILES_PER_FOLDER:05d}/{k:07d}.{layout}"
        if not (out / name).exists():
            data = stamp_png(stamp.cubes["images"]) if layout == "png" else _fits(stamp)
            write_whole(out / name, data)
        writer.writerow({"file": name} | {key: "" if v is None else v for key, v in stamp.row.items()})
    write_whole(out / "index.csv", text.getvalue().encode())


def _fits(stamp: _Stamp) -> bytes:
    """The cubes as image units, told apart by IMAGETYP, with the target at the reference pixel."""
    units: list[Any] = []
    names = {"images": "image", "invvar": "invvar", "psf": "psf", "control": "control", "arc": "arc"}
    for name, cube in stamp.cubes.items():
        header = fits.Header({"IMAGETYP": names[name], "BANDS": "".join(BANDS)})
        if name in _UNITS:
            header["BUNIT"] = {"invvar": "1/nanomaggy^2"}.get(name, "nanomaggy")
        if name != "psf":
            header.update(_sky_cards(stamp.row))
        units.append((fits.ImageHDU if units else fits.PrimaryHDU)(cube, header))
    if stamp.mask is not None:
        header = fits.Header({"IMAGETYP": "maskbits"} | _sky_cards(stamp.row))
        units.append(fits.ImageHDU(stamp.mask, header))
    out = io.BytesIO()
    fits.HDUList(units).writeto(out)
    return out.getvalue()


def _sky_cards(row: Mapping[str, Any]) -> dict[str, Any]:
    """A tangent plane at the target, north up and east to the left, as the coadds have it."""
    step = row["pixel_scale_arcsec"] / 3600.0
    cards = {
        "VERSION": row["release"],
        "CRPIX1": row["x_center_pix"] + 1.0,
        "CRPIX2": row["y_center_pix"] + 1.0,
    }
    if row.get("brickname"):
        cards["BRICK"] = row["brickname"]
    if row["ra_deg"] is None or row["dec_deg"] is None:
        return cards
    cards |= {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": row["ra_deg"], "CRVAL2": row["dec_deg"]}
    return cards | {"CD1_1": -step, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": step}
