"""The selection function as a file that others can use.

    from darkhaloscope.evaluation.selection_function import SelectionFunction
    selection = SelectionFunction.load("selection_function.fits")
    value, low, high, supported = selection.completeness(theta_e=1.2, arc_snr_mf=20, psf_fwhm=1.3)

The file is FITS, readable without this package: CELLS and GRID are tables (the same as Parquet beside it),
META is one JSON text, and each surface is an image of posterior draws of its spline coefficients, (draw,
coefficient), whose axes META describes.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.contracts.config import Frozen, fingerprint
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import ArcDomain, HostDomain, Measured
from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.evaluation.populations import averages
from darkhaloscope.evaluation.recovery import METHODS, Recovery, bins_of, cells
from darkhaloscope.evaluation.samples import Run
from darkhaloscope.evaluation.selection import (
    DESIGNS,
    FEWEST_ROWS,
    TABLES,
    surface_of,
    with_known_facts,
)
from darkhaloscope.evaluation.surface import Design, Surface
from darkhaloscope.gates.detection import OperatingPoint
from darkhaloscope.stats.rows import Vector

VERSION = 1
REFERENCE_ROWS = 100
GRID_POINTS = 24
NAMES = {
    "theta_e": "theta_e_arcsec",
    "psf_fwhm": "psf_fwhm_arcsec",
    "depth": "depth_r_mag",
    "source_mag": "source_mag_r",
    "host_mag": "host_mag_r",
}
"""Short names of the facts; the long ones are understood too."""


class Factor(Frozen):
    """A factor of the selection function that is measured elsewhere: k of n, and what that means."""

    k: int
    n: int
    about: str


class Meta(Frozen):
    """Where a selection function comes from.

    threshold      score above which something is found; `threshold_text` has its FPR with interval and n
    theta_e_prior, recipes   what the injections were drawn from
    n, n_hosts, n_groups     injections, their galaxies, and the sky cells these lie in
    parent         share of lenses whose galaxy is in the parent sample; None: not measured, and not one
    inspection     share of found lenses that people keep; None: not measured, and not one
    """

    version: int = VERSION
    threshold: float
    threshold_text: str
    fpr: float
    checkpoint: str
    protocol: str
    seeds: tuple[int, ...]
    manifests: tuple[str, ...]
    host_domain: HostDomain
    arc_domain: ArcDomain = ArcDomain.SIM
    theta_e_prior: tuple[str, ...]
    recipes: tuple[str, ...]
    n: int
    n_hosts: int
    n_groups: int
    parent: Factor | None = None
    inspection: Factor | None = None


class Completeness(NamedTuple):
    """A share with its 95 % interval, shaped like the facts it was asked for.

    supported   whether injections lay there: where not, the surface goes on by its own curvature alone
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    supported: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SelectionFunction:
    """What a finder finds: counts in cells, smooth surfaces, averages over populations.

    cells       one row for each cell of each table: `by`, `cell`, k, n, effective rows, three intervals
    surfaces    by name: visibility (arc_snr_mf, theta_e_over_fwhm), intrinsic (theta_e_arcsec, source_mag_r)
    reference   facts of some injections: an added fact that is not asked for is averaged over them
    averages    completeness averaged over populations
    """

    meta: Meta
    cells: pa.Table
    surfaces: Mapping[str, Surface]
    reference: Mapping[str, Vector]
    averages: tuple[Measured, ...]

    @classmethod
    def measure(
        cls,
        recovery: Recovery,
        run: Run,
        threshold: OperatingPoint,
        *,
        checkpoint: str,
        theta_e_prior: tuple[str, ...],
        recipes: tuple[str, ...],
        parent: Factor | None = None,
        inspection: Factor | None = None,
    ) -> Self:
        """From injections and what was found of them. With fewer than 300 there are no surfaces.

        Raises DataError where all or none were found, if there are enough for a surface.
        """
        known = with_known_facts(recovery)
        surfaces = {}
        if len(known) >= FEWEST_ROWS and 0 < known.found.sum() < len(known):
            surfaces = {name: surface_of(known, design(known), run.seed) for name, design in DESIGNS.items()}
        meta = Meta(
            threshold=threshold.threshold,
            threshold_text=threshold.text,
            fpr=threshold.fpr,
            checkpoint=checkpoint,
            protocol=fingerprint(run.protocol),
            seeds=run.seeds,
            manifests=run.manifests,
            host_domain=recovery.domain,
            theta_e_prior=theta_e_prior,
            recipes=recipes,
            n=len(recovery),
            n_hosts=len(set(recovery.host)),
            n_groups=len(set(recovery.group)),
            parent=parent,
            inspection=inspection,
        )
        rows = stream(run.seed, "selection/reference", "rows").permutation(len(known))[:REFERENCE_ROWS]
        reference = {name: values[np.sort(rows)] for name, values in known.facts.items()}
        return cls(meta, _cell_table(recovery, run), surfaces, reference, averages(recovery, run, threshold))

    def completeness(self, *, confidence: float = 0.95, **facts: ArrayLike) -> Completeness:
        """The share found of arcs with these facts, in the parent sample and before inspection.

        facts   arrays that broadcast: theta_e [arcsec], psf_fwhm [arcsec], arc_snr_mf, source_mag [r AB],
                depth [5 sigma point source, r AB], host_mag [r AB]. Either arc_snr_mf, theta_e and psf_fwhm
                or theta_e and source_mag must be there; what else is left out is averaged over injections.

        Raises DataError for facts that it does not know, or that no surface is made of.
        """
        return self._told(facts, confidence, ())

    def total(self, *, confidence: float = 0.95, **facts: ArrayLike) -> Completeness:
        """The same times the factors of parent sample and inspection.

        Raises DataError naming a factor that was not measured: it is not taken to be one.
        """
        factors = {"parent": self.meta.parent, "inspection": self.meta.inspection}
        lacking = [name for name, factor in factors.items() if factor is None]
        if lacking:
            problem = f"lacks the factor of {' and '.join(lacking)}: it was not measured"
            raise DataError("selection function", problem, "`completeness` is the finder's factor alone")
        return self._told(facts, confidence, [factor for factor in factors.values() if factor is not None])

    def _told(
        self, facts: Mapping[str, ArrayLike], confidence: float, factors: Sequence[Factor]
    ) -> Completeness:
        surface, given = self._asked(facts)
        shape = np.broadcast_shapes(*(v.shape for v in given.values()))
        flat = {name: np.broadcast_to(v, shape).ravel() for name, v in given.items()}
        shares = self._shares(surface, flat)
        rng = stream(self.meta.n, "selection/factors", self.meta.checkpoint)
        for factor in factors:
            shares = shares * rng.beta(factor.k + 0.5, factor.n - factor.k + 0.5, (len(shares), 1))
        tail = (1 - confidence) / 2
        low, high = np.quantile(shares, [tail, 1 - tail], axis=0)
        middle = {axis.name: np.full(len(low), (axis.low + axis.high) / 2) for axis in surface.design.added}
        supported = surface.supported(middle | flat)
        return Completeness(
            shares.mean(axis=0).reshape(shape),
            low.reshape(shape),
            high.reshape(shape),
            supported.reshape(shape),
        )

    def _asked(self, facts: Mapping[str, ArrayLike]) -> tuple[Surface, dict[str, NDArray[np.float64]]]:
        """Which surface answers, and the facts under their long names."""
        given = {NAMES.get(n, n): np.asarray(v, dtype=np.float64) for n, v in facts.items()}
        unknown = sorted(set(given) - set(self.reference))
        if unknown:
            have = ", ".join(self.reference)
            raise DataError("completeness", f"knows no {', '.join(unknown)}", f"one of {have}")
        if {"theta_e_arcsec", "psf_fwhm_arcsec"} <= set(given) and "theta_e_over_fwhm" not in given:
            given["theta_e_over_fwhm"] = given["theta_e_arcsec"] / given["psf_fwhm_arcsec"]
        for surface in self.surfaces.values():
            if {axis.name for axis in surface.design.joint} <= set(given):
                return surface, given
        if not self.surfaces:
            raise DataError("selection function", f"has no surface: {self.meta.n} injections are too few")
        raise DataError(
            "completeness", f"cannot be told from {', '.join(facts) or 'nothing'}",
            "give arc_snr_mf, theta_e and psf_fwhm, or theta_e and source_mag",
        )  # fmt: skip

    def _shares(self, surface: Surface, flat: Mapping[str, Vector]) -> NDArray[np.float64]:
        """Shares in every draw, (draw, row); added facts that are missing are averaged over the reference."""
        lacking = [axis.name for axis in surface.design.added if axis.name not in flat]
        if not lacking:
            return surface.shares(flat)
        out = np.zeros((len(surface.draws), len(next(iter(flat.values())))))
        number = len(self.reference[lacking[0]])
        for k in range(number):
            fixed = {name: np.full(out.shape[1], self.reference[name][k]) for name in lacking}
            out += surface.shares({**flat, **fixed})
        return out / number

    # --- the file ----------------------------------------------------------------------------------------

    def grid(self) -> pa.Table:
        """The surfaces on a grid of their joint facts, as a table; cells without injections are marked."""
        tables = []
        for name, surface in self.surfaces.items():
            axes = [_points(axis.low, axis.high, log=axis.scale == "log") for axis in surface.design.joint]
            mesh = np.meshgrid(*axes, indexing="ij")
            facts = {axis.name: m.ravel() for axis, m in zip(surface.design.joint, mesh, strict=True)}
            found = self._told(facts, 0.95, ())
            first, second = (axis.name for axis in surface.design.joint)
            rows = {"x": facts[first], "y": facts[second], "completeness": found.value, "low": found.low,
                    "high": found.high, "supported": found.supported}  # fmt: skip
            n = len(found.value)
            names = {"surface": [name] * n, "x_name": [first] * n, "y_name": [second] * n}
            tables.append(pa.table(names | rows).select(_GRID.names).cast(_GRID))
        return pa.concat_tables(tables) if tables else _GRID.empty_table()

    def save(self, path: str | Path) -> tuple[Path, Path, Path]:
        """Write the FITS file, and its two tables as Parquet beside it: …_cells.parquet, …_grid.parquet."""
        where = Path(path)
        grid = self.grid()
        told = {
            "meta": self.meta.model_dump(mode="json"),
            "surfaces": {name: _described(surface) for name, surface in self.surfaces.items()},
            "averages": [m.model_dump(mode="json") for m in self.averages],
        }
        hdus = [
            fits.PrimaryHDU(header=_header(self.meta)),
            _text_hdu("META", json.dumps(told)),
            _table_hdu("CELLS", self.cells),
            _table_hdu("GRID", grid),
            _table_hdu("REFERENCE", pa.table({n: pa.array(v) for n, v in self.reference.items()})),
        ]
        for name, surface in self.surfaces.items():
            hdus.append(fits.ImageHDU(surface.draws, name=f"DRAWS_{name.upper()}"))
            hdus.append(fits.ImageHDU(surface.support.astype(np.int32), name=f"SUPPORT_{name.upper()}"))
        out = io.BytesIO()
        fits.HDUList(hdus).writeto(out)
        write_whole(where, out.getvalue())
        beside = [where.with_name(f"{where.stem}_{part}.parquet") for part in ("cells", "grid")]
        for place, table in zip(beside, (self.cells, grid), strict=True):
            text = io.BytesIO()
            pq.write_table(table, text)
            write_whole(place, text.getvalue())
        return where, beside[0], beside[1]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of `save`; DataError for another file, or one of a newer version."""
        try:
            with fits.open(Path(path), memmap=False) as hdus:
                told = json.loads("".join(hdus["META"].data["text"]))
                if told["meta"]["version"] > VERSION:
                    problem = f"is of version {told['meta']['version']}; this package reads {VERSION}"
                    raise DataError(str(path), problem, "update darkhaloscope")
                tables = {name: _read_table(hdus[name]) for name in ("CELLS", "REFERENCE")}
                arrays = {
                    name: (
                        np.asarray(hdus[f"DRAWS_{name.upper()}"].data, dtype=np.float64),
                        np.asarray(hdus[f"SUPPORT_{name.upper()}"].data, dtype=np.int64),
                    )
                    for name in told["surfaces"]
                }
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(
                str(path), f"is no selection function ({error})", "a file that `save` wrote"
            ) from error
        surfaces = {name: _surface(told["surfaces"][name], *arrays[name]) for name in told["surfaces"]}
        reference = {n: tables["REFERENCE"].column(n).to_numpy() for n in tables["REFERENCE"].column_names}
        meta = Meta.model_validate_json(json.dumps(told["meta"]))
        means = tuple(Measured.model_validate_json(json.dumps(m)) for m in told["averages"])
        return cls(meta, tables["CELLS"], surfaces, reference, means)


_GRID = pa.schema(
    [
        ("surface", pa.string()),
        ("x_name", pa.string()),
        ("x", pa.float64()),
        ("y_name", pa.string()),
        ("y", pa.float64()),
        ("completeness", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("supported", pa.bool_()),
    ]
)


def _points(low: float, high: float, *, log: bool) -> Vector:
    return np.geomspace(low, high, GRID_POINTS) if log else np.linspace(low, high, GRID_POINTS)


def _cell_table(recovery: Recovery, run: Run) -> pa.Table:
    """Every cell of every table, with its three intervals."""
    bins, rows = bins_of(run.protocol), []
    for by in TABLES:
        for cell in cells(recovery, {name: bins[name] for name in by}, run.protocol.statistics.confidence):
            row: dict[str, Any] = {
                "by": " x ".join(by),
                "cell": " x ".join(cell.labels),
                "k": cell.k,
                "n": cell.n,
                "n_effective": cell.effective,
                "enough": cell.enough,
                "completeness": cell.estimates["jeffreys"].value,
            }
            for method in METHODS:
                low, high = cell.estimates[method].low, cell.estimates[method].high
                key = method.replace("-", "_")
                row |= {f"{key}_low": low, f"{key}_high": high}
            rows.append(row)
    floats = ["completeness", *(f"{m.replace('-', '_')}_{end}" for m in METHODS for end in ("low", "high"))]
    schema = pa.schema(
        [
            ("by", pa.string()),
            ("cell", pa.string()),
            ("k", pa.int64()),
            ("n", pa.int64()),
            ("n_effective", pa.float64()),
            ("enough", pa.bool_()),
            *((name, pa.float64()) for name in floats),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _header(meta: Meta) -> fits.Header:
    """What a reader of FITS headers should see at once."""
    header = fits.Header()
    header["DHSVERS"] = (meta.version, "version of this layout")
    header["THRESH"] = (meta.threshold, "score above which something is found")
    header["FPR"] = (meta.fpr, "nominal false-positive rate there")
    header["NINJECT"] = (meta.n, "injections")
    header["HOSTS"] = (str(meta.host_domain), "what the galaxies' pixels are")
    header["ARCS"] = (str(meta.arc_domain), "what the arcs are")
    return header


def _text_hdu(name: str, text: str) -> fits.BinTableHDU:
    width = 60_000
    pieces = [text[i : i + width] for i in range(0, len(text), width)]
    column = fits.Column("text", format=f"{max(len(p) for p in pieces)}A", array=np.array(pieces))
    return fits.BinTableHDU.from_columns([column], name=name)


def _table_hdu(name: str, table: pa.Table) -> fits.BinTableHDU:
    columns = []
    for field in table.schema:
        values = table.column(field.name).to_pylist()
        if pa.types.is_string(field.type):
            width = max((len(v) for v in values), default=1)
            columns.append(
                fits.Column(field.name, format=f"{max(width, 1)}A", array=np.array(values, dtype=str))
            )
        elif pa.types.is_boolean(field.type):
            columns.append(fits.Column(field.name, format="L", array=np.array(values, dtype=bool)))
        elif pa.types.is_integer(field.type):
            columns.append(fits.Column(field.name, format="K", array=np.array(values, dtype=np.int64)))
        else:
            known = [np.nan if v is None else v for v in values]
            columns.append(fits.Column(field.name, format="D", array=np.array(known, dtype=np.float64)))
    return fits.BinTableHDU.from_columns(columns, name=name)


def _read_table(hdu: Any) -> pa.Table:
    columns = {}
    for column in hdu.columns:
        values = hdu.data[column.name]
        if column.format.endswith("A"):
            columns[column.name] = pa.array([str(v) for v in values], pa.string())
        elif column.format == "D":
            columns[column.name] = pa.array(np.asarray(values, dtype=np.float64), from_pandas=True)
        else:
            columns[column.name] = pa.array(
                np.asarray(values).astype(bool if column.format == "L" else np.int64)
            )
    return pa.table(columns)


def _described(surface: Surface) -> dict[str, Any]:
    return {
        "design": surface.design.model_dump(mode="json"),
        "design_effect": surface.design_effect,
        "cluster_sd": surface.cluster_sd,
        "stiffness": list(surface.stiffness),
        "n": surface.n,
        "n_clusters": surface.n_clusters,
    }


def _surface(told: dict[str, Any], draws: NDArray[np.float64], support: NDArray[np.int64]) -> Surface:
    design = Design.model_validate_json(json.dumps(told["design"]))
    rest = {name: told[name] for name in ("design_effect", "cluster_sd", "n", "n_clusters")}
    return Surface(design, draws, support, stiffness=tuple(told["stiffness"]), **rest)
