"""Pairs as the gates see them: two blocks of pixels and a few numbers per pair.

Conventions: arrays (pair, band, y, x) in nanomaggies, bands g r z, 0-based pixel centres, x = column.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.stamps.measure import CORE_RADIUS_PIX, arc_snr_mf, core_mask
from darkhaloscope.stamps.stamp import decode_planes

StampBatch = Float[np.ndarray, "pair band y x"]
PerPair = Float[np.ndarray, "pair"]


@dataclass(frozen=True, eq=False)
class PairArrays:
    """Stamps with an arc and the same pixels without one.

    keys            name of each pair: random draws are keyed by it
    hosts           host_id of each pair: the unit that folds and intervals never cut
    stamps, controls   [nmgy]
    x_center, y_center   the target [pix]
    kappa           share of the r-band arc light with r < 5 px (`kappa_r5`), NaN where unknown
    kappa_box       share in the brief's 10x10 box, which the linear probe reads; NaN where unknown
    theta_e_arcsec  NaN where unknown
    arc_snr_mf, arc_snr_mf_core   matched-filter S/N of the arc, and of its part with r < 5 px; or NaN

    Raises DataError naming the field if lengths or shapes do not fit or pixels are not finite.
    """

    keys: NDArray[np.str_]
    hosts: NDArray[np.str_]
    stamps: StampBatch
    controls: StampBatch
    x_center: PerPair
    y_center: PerPair
    kappa: PerPair
    kappa_box: PerPair
    theta_e_arcsec: PerPair
    arc_snr_mf: PerPair
    arc_snr_mf_core: PerPair
    where: str = "pairs"

    def __post_init__(self) -> None:
        if self.stamps.ndim != 4 or self.stamps.shape != self.controls.shape:
            raise DataError(
                self.where,
                f"stamps {self.stamps.shape} and controls {self.controls.shape} must be (n, 3, y, x)",
            )
        for field in fields(self):
            values = getattr(self, field.name)
            if field.name != "where" and len(values) != len(self):
                raise DataError(self.where, f"has {len(values)} values of {field.name} for {len(self)} pairs")
        for name in ("stamps", "controls"):
            bad = ~np.isfinite(getattr(self, name)).all(axis=(1, 2, 3))
            if bad.any():
                raise DataError(
                    self.where, f"{name} of {self.keys[bad.argmax()]} hold pixels that are not finite"
                )
        if len(set(self.keys)) < len(self):
            raise DataError(self.where, "a pair is named twice", "task_id must be unique")

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def n_hosts(self) -> int:
        """Number of distinct hosts."""
        return len(set(self.hosts))

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer[Any]]) -> Self:
        """The given pairs."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{name: v if name == "where" else v[rows] for name, v in values.items()})

    @classmethod
    def of(
        cls,
        stamps: StampBatch,
        controls: StampBatch,
        hosts: ArrayLike,
        *,
        keys: ArrayLike | None = None,
        x_center: ArrayLike | None = None,
        y_center: ArrayLike | None = None,
        kappa: ArrayLike | None = None,
        kappa_box: ArrayLike | None = None,
        theta_e_arcsec: ArrayLike | None = None,
        arc_snr_mf: ArrayLike | None = None,
        arc_snr_mf_core: ArrayLike | None = None,
        where: str = "pairs",
    ) -> Self:
        """Pairs from bare arrays; centres default to the middle of the stamp, what is not given is NaN."""
        n, middle = len(stamps), (stamps.shape[-1] - 1) / 2
        return cls(
            keys=np.array([f"{where}#{i}" for i in range(n)])
            if keys is None
            else np.asarray(keys, dtype=str),
            hosts=np.asarray(hosts, dtype=str),
            stamps=stamps,
            controls=controls,
            x_center=_filled(x_center, n, middle),
            y_center=_filled(y_center, n, middle),
            kappa=_filled(kappa, n),
            kappa_box=_filled(kappa_box, n),
            theta_e_arcsec=_filled(theta_e_arcsec, n),
            arc_snr_mf=_filled(arc_snr_mf, n),
            arc_snr_mf_core=_filled(arc_snr_mf_core, n),
            where=where,
        )

    @classmethod
    def read(cls, rows: pa.Table, *, where: str = "paired_stamps") -> Self:
        """Decode the PAIRED_STAMPS rows that were not rejected, in the order of their task_id.

        The S/N in the core needs `arc_npz` and `invvar_npz`; where these are null it is NaN. Raises DataError
        when no row is left, StampError for a blob that is not a stamp, naming `where` and the task.
        """
        kept = rows.filter(pc.is_null(rows.column("reject"))).sort_by("task_id")
        if kept.num_rows == 0:
            raise DataError(where, f"holds no pair that was not rejected ({rows.num_rows} rows read)")
        xc, yc = _numbers(kept, "x_center_pix"), _numbers(kept, "y_center_pix")
        return cls(
            keys=np.array(kept.column("task_id").to_pylist()),
            hosts=np.array(kept.column("host_id").to_pylist()),
            stamps=_planes(kept, "stamp_npz", "image", where),
            controls=_planes(kept, "ctrl_stamp_npz", "image", where),
            x_center=xc,
            y_center=yc,
            kappa=_numbers(kept, "kappa_r5"),
            kappa_box=_numbers(kept, "kappa_box"),
            theta_e_arcsec=_numbers(kept, "theta_e_arcsec"),
            arc_snr_mf=_numbers(kept, "arc_snr_mf"),
            arc_snr_mf_core=_core_snr(kept, xc, yc, where),
            where=where,
        )


def _filled(values: ArrayLike | None, n: int, default: float = float("nan")) -> PerPair:
    array = np.asarray(default if values is None else values, dtype=float)
    return np.full(n, float(array)) if array.ndim == 0 else array


def _numbers(rows: pa.Table, column: str) -> PerPair:
    values = pc.fill_null(rows.column(column).cast(pa.float64()), float("nan"))
    return np.asarray(values.to_numpy(), dtype=float)


def _planes(rows: pa.Table, column: str, prefix: str, where: str) -> StampBatch:
    names = rows.column("task_id").to_pylist()
    blobs = zip(names, rows.column(column), strict=True)
    cubes = [decode_planes(blob.as_py(), prefix, where=f"{where} {name} {column}") for name, blob in blobs]
    sizes = {cube.shape for cube in cubes}
    if len(sizes) > 1:
        raise DataError(
            where, f"{column} has stamps of several shapes: {sorted(sizes)}", "harvest with one size"
        )
    return np.stack(cubes)


def _core_snr(rows: pa.Table, xc: PerPair, yc: PerPair, where: str) -> PerPair:
    """Matched-filter S/N of the arc's light with r < 5 px.

    The share of the S/N is measured here and the S/N itself is the table's, so that core and rest add up to
    it in quadrature. One pair at a time: no third block of pixels is held.
    """
    total = _numbers(rows, "arc_snr_mf")
    out = np.full(rows.num_rows, np.nan)
    names = rows.column("task_id").to_pylist()
    columns = zip(names, rows.column("arc_npz"), rows.column("invvar_npz"), strict=True)
    for i, (name, arc_blob, invvar_blob) in enumerate(columns):
        if arc_blob.as_py() is None or invvar_blob.as_py() is None:
            continue
        arc = decode_planes(arc_blob.as_py(), "arc", where=f"{where} {name} arc_npz")
        invvar = decode_planes(invvar_blob.as_py(), "invvar", where=f"{where} {name} invvar_npz")
        core = core_mask(arc.shape, xc[i], yc[i], radius_pix=CORE_RADIUS_PIX)
        whole = float(arc_snr_mf(arc, invvar))
        out[i] = total[i] * float(arc_snr_mf(arc * core, invvar)) / whole if whole > 0 else 0.0
    return out
