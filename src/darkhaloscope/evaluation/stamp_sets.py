"""Stamps of one population, with what is known of each: what comparisons of populations are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.dataset.pixels import centres, decode_column
from darkhaloscope.evaluation.representations import PerRow, Pixels
from darkhaloscope.evaluation.samples import depth_mag
from darkhaloscope.stamps.stamp import decode_planes
from darkhaloscope.survey.release import BANDS, to_magnitude

HOST_FACTS = ("z", "mag_r", "g_r", "r_z", "size_arcsec", "psf_fwhm_arcsec", "depth_mag")
"""What hosts are matched in; a population that lacks one has NaN there."""


@dataclass(frozen=True, eq=False)
class StampSet:
    """Rows of one population.

    keys      name of each row, unique: random draws are keyed by it
    hosts     host_id: rows of one host in two sets are pairs
    groups    what no fold and no resample cuts: the host, or a sky cell
    stamps    (row, band, y, x) [nmgy]; invvar [1/nmgy²] or None
    x_center, y_center       [pix]
    theta_e_arcsec, psf_fwhm_arcsec   NaN where unknown
    arcs      noiseless light of simulated arcs, like `stamps`, or None
    facts     of the host, by name, NaN where unknown: see HOST_FACTS

    Raises DataError where lengths do not fit, a key is repeated, or pixels are not finite.
    """

    name: str
    keys: NDArray[np.str_]
    hosts: NDArray[np.str_]
    groups: NDArray[np.str_]
    stamps: Pixels
    invvar: Pixels | None
    x_center: PerRow
    y_center: PerRow
    theta_e_arcsec: PerRow
    psf_fwhm_arcsec: PerRow
    host_domain: HostDomain
    arc_domain: ArcDomain
    facts: Mapping[str, PerRow] = field(default_factory=dict)
    arcs: Pixels | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray) and len(value) != len(self.stamps):
                raise DataError(self.name, f"has {len(value)} values of {f.name}, {len(self.stamps)} stamps")
        for name, value in self.facts.items():
            if len(value) != len(self.stamps):
                raise DataError(self.name, f"has {len(value)} values of {name}, {len(self.stamps)} stamps")
        if len(set(self.keys)) < len(self.keys):
            raise DataError(self.name, "names a row twice")
        bad = ~np.isfinite(self.stamps).all(axis=(1, 2, 3))
        if bad.any():
            raise DataError(self.name, f"{self.keys[bad.argmax()]} holds pixels that are not finite")

    def __len__(self) -> int:
        return len(self.stamps)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer[Any]]) -> Self:
        """The given rows."""
        changed: dict[str, Any] = {
            f.name: value[rows]
            for f in fields(self)
            for value in [getattr(self, f.name)]
            if isinstance(value, np.ndarray)
        }
        changed["facts"] = {name: value[rows] for name, value in self.facts.items()}
        return replace(self, **changed)

    def showing(self, stamps: Pixels, arc_domain: ArcDomain) -> Self:
        """The same rows with other pixels."""
        return replace(self, stamps=stamps, arc_domain=arc_domain)

    @classmethod
    def of_stamps(cls, rows: pa.Table, name: str, *, group: Literal["host_id", "group"] = "host_id") -> Self:
        """STAMPS rows that were not rejected, sorted by target_id. DataError where none is left."""
        kept = _kept(rows, "target_id", name)
        return cls(
            name=name,
            keys=_text(kept, "target_id"),
            stamps=decode_column(kept, "target_id", "stamp_npz", where=name),
            theta_e_arcsec=_numbers(kept, "theta_e_arcsec"),
            psf_fwhm_arcsec=_known(_numbers(kept, "psfsize_r")),
            arc_domain=_one(kept, "arc_domain", ArcDomain, ArcDomain.NONE, name),
            facts=host_facts(kept),
            **_common(kept, "target_id", name, group),
        )

    @classmethod
    def of_pairs(
        cls,
        rows: pa.Table,
        name: str,
        *,
        hosts: pa.Table | None = None,
        control: bool = False,
        group: Literal["host_id", "group"] = "host_id",
    ) -> Self:
        """PAIRED_STAMPS rows that were not rejected, sorted by task_id: with their arc, or their controls.

        hosts   STAMPS that hold the targets: their facts. Without them only the seeing and depth are known

        Raises DataError where no row is left, or a target is not among the hosts.
        """
        kept = _kept(rows, "task_id", name)
        facts = _facts_of_pairs(kept, hosts, name)
        missing = ArcDomain.NONE
        return cls(
            name=name,
            keys=_text(kept, "task_id"),
            stamps=decode_column(kept, "task_id", "ctrl_stamp_npz" if control else "stamp_npz", where=name),
            theta_e_arcsec=_numbers(kept, "theta_e_arcsec"),
            psf_fwhm_arcsec=_known(_numbers(kept, "psf_fwhm_arcsec")),
            arc_domain=missing if control else _one(kept, "arc_domain", ArcDomain, missing, name),
            facts=facts,
            arcs=None if control else _arcs(kept, name),
            **_common(kept, "task_id", name, group),
        )


def host_facts(rows: pa.Table) -> dict[str, PerRow]:
    """HOST_FACTS of STAMPS rows. Of a real lens, the Tractor's fluxes may hold light of its arc."""
    mags = {band: to_magnitude(_numbers(rows, f"flux_{band}")) for band in BANDS}
    depth = _numbers(rows, "psfdepth_r")
    return {
        "z": _numbers(rows, "z"),
        "mag_r": mags["r"],
        "g_r": mags["g"] - mags["r"],
        "r_z": mags["r"] - mags["z"],
        "size_arcsec": _numbers(rows, "shape_r"),
        "psf_fwhm_arcsec": _known(_numbers(rows, "psfsize_r")),
        "depth_mag": depth_mag(depth),
    }


def _facts_of_pairs(rows: pa.Table, hosts: pa.Table | None, name: str) -> dict[str, PerRow]:
    if hosts is None:
        depth = _numbers(rows, "psfdepth_r")
        unknown = {fact: np.full(rows.num_rows, np.nan) for fact in HOST_FACTS}
        seeing = _known(_numbers(rows, "psf_fwhm_arcsec"))
        return unknown | {
            "psf_fwhm_arcsec": seeing,
            "depth_mag": depth_mag(depth),
        }
    at = pc.index_in(rows.column("target_id"), value_set=hosts.column("target_id").combine_chunks())
    if at.null_count:
        raise DataError(
            name, f"{at.null_count} targets are not among the hosts", "give the STAMPS they came of"
        )
    narrow = hosts.select(["target_id", "z", "shape_r", "psfsize_r", "psfdepth_r", *_FLUXES])
    return host_facts(narrow.take(at))


_FLUXES = tuple(f"flux_{band}" for band in BANDS)


def _common(rows: pa.Table, key: str, name: str, group: str) -> dict[str, Any]:
    x, y = centres(rows)
    return {
        "hosts": _text(rows, "host_id"),
        "groups": _text(rows, group),
        "invvar": _inverse_variance(rows, key, name),
        "x_center": x,
        "y_center": y,
        "host_domain": _one(rows, "host_domain", HostDomain, HostDomain.MIXED, name),
    }


def _inverse_variance(rows: pa.Table, key: str, name: str) -> Float[np.ndarray, "row band y x"] | None:
    """None unless every row has one."""
    column = rows.column("invvar_npz")
    if column.null_count:
        return None
    names = rows.column(key).to_pylist()
    blobs = zip(names, column, strict=True)
    return np.stack(
        [decode_planes(blob.as_py(), "invvar", where=f"{name} {row} invvar_npz") for row, blob in blobs]
    )


def _arcs(rows: pa.Table, name: str) -> Pixels | None:
    """None where the rows were read without them, or are shams: unless every row has one."""
    if "arc_npz" not in rows.column_names or rows.column("arc_npz").null_count:
        return None
    return decode_column(rows, "task_id", "arc_npz", "arc", where=name)


def _kept(rows: pa.Table, key: str, name: str) -> pa.Table:
    kept = rows.filter(pc.is_null(rows.column("reject"))).sort_by(key)
    if not kept.num_rows:
        raise DataError(name, f"holds no row that was not rejected ({rows.num_rows} rows read)")
    return kept


def _one(rows: pa.Table, column: str, kind: Any, otherwise: Any, name: str) -> Any:
    """The one value of a column; a set of several kinds of arcs is refused, several kinds of hosts mixed."""
    found = {kind(v) if v is not None else ArcDomain.NONE for v in pc.unique(rows.column(column)).to_pylist()}
    if len(found) == 1:
        return found.pop()
    if kind is ArcDomain:
        raise DataError(name, f"holds arcs of several kinds: {sorted(found)}", "one population to a set")
    return otherwise


def _text(rows: pa.Table, column: str) -> NDArray[np.str_]:
    return np.asarray(rows.column(column).to_pylist(), dtype=str)


def _numbers(rows: pa.Table, column: str) -> PerRow:
    values = pc.fill_null(rows.column(column).cast(pa.float64()), float("nan"))
    return np.array(values.to_numpy(), dtype=float)


def _known(values: PerRow) -> PerRow:
    """Zero stands for unknown in the survey's maps."""
    return np.where(values > 0, values, np.nan)
