"""A table is one declaration; its schema, its check, its mock rows and its documentation follow from it.

Conventions: fluxes in nanomaggies (nmgy) at zero-point 22.5 AB; angles of a major axis in radians from +x to
+y; pixel positions 0-based with integer pixel centres; band order g r z, arrays (band, y, x). Blobs are NPZ.
Catalogue columns carry the Tractor's names, truth columns lenstronomy's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from darkhaloscope.contracts.checks import Check, Findings, Status, exactly
from darkhaloscope.contracts.errors import SchemaMismatch
from darkhaloscope.contracts.random import stream

KINDS = ("lrg", "disc", "contaminant", "lens")
CATEGORIES = ("ring", "spiral", "merger", "spike")
SkyKind = Literal["HN1", "HN2", "HN3", "HN4", "HN5"]
"""Hard negatives that are made of an arc's light before the PSF: `injection.hard_negatives`."""

SKY_KINDS: tuple[SkyKind, ...] = get_args(SkyKind)
NEGATIVE_KINDS = ("HN0", *SKY_KINDS)
"""All hard negatives: HN0 is the brief's."""

DOMAINS = ("real", "sim", "nature")
SPLITS_NAMES = ("train", "select", "calib", "test")
REJECTS = (
    "missing_band",
    "not_finite",
    "too_small",
    "host_masked",
    "host_not_lrg",
    "no_multiple_images",
    "draw_exhausted",
    "below_snr_floor",
    "gain_out_of_bounds",
    "no_source",
    "known_lens",
    "no_brick",
    "wrong_release",
    "missing_map",
    "damaged_file",
    "brick_edge",
    "too_few_exposures",
    "outside_footprint",
    "truncated",
    "not_fits",
    "clipped",
    "off_target",
    "not_native",
    "service_failed",
    "guard_band",
)
"""Why a row has no pixels, or is not used. From `truncated` to `service_failed`: what a cutout
service sent instead of a cutout."""

EVIDENCE = ("spec_two_z", "confident", "probable", "candidate")
"""What a published lens rests on, strongest first: redshifts of lens and source, or somebody's grade."""
CHANNELS = ("spectroscopic", "ground_ml", "ground_visual", "space", "quasar", "unknown")
"""How a lens was found; recall on one channel says nothing of another."""


@dataclass(frozen=True)
class Column:
    """One column: name, Arrow type, meaning, unit, and what its values may be."""

    name: str
    dtype: pa.DataType
    doc: str
    unit: str = ""
    nullable: bool = False
    one_of: tuple[str, ...] | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def field(self) -> pa.Field:
        """The Arrow field, with unit and meaning as metadata."""
        return pa.field(self.name, self.dtype, self.nullable, {"unit": self.unit, "doc": self.doc})

    def violations(self, values: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
        """Boolean masks of the rows that break a promise, by the promise's name; kept ones are not named."""
        broken: dict[str, pa.ChunkedArray] = {}
        if not self.nullable and values.null_count:
            broken["null"] = pc.is_null(values)
        if self.one_of is not None and not set(pc.unique(values).to_pylist()) <= {*self.one_of, None}:
            allowed = pc.is_in(values, value_set=pa.array(self.one_of, values.type))
            broken[f"not one of {', '.join(self.one_of)}"] = pc.and_(pc.invert(allowed), pc.is_valid(values))
        if pa.types.is_floating(self.dtype) and not np.isfinite(pc.sum(values).as_py() or 0.0):
            finite = pc.fill_null(pc.is_finite(values), fill_value=True)
            broken["not finite"] = pc.invert(finite)
        return broken | self._beyond(values)

    def _beyond(self, values: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
        """Masks of the rows outside the column's bounds."""
        broken: dict[str, pa.ChunkedArray] = {}
        if self.at_least is None and self.at_most is None:
            return broken
        found = pc.min_max(values).as_py()
        low, high = found["min"], found["max"]
        if self.at_least is not None and low is not None and low < self.at_least:
            mask = pc.less(values, self.at_least)
            broken[f"below {self.at_least:g}"] = pc.fill_null(mask, fill_value=False)
        if self.at_most is not None and high is not None and high > self.at_most:
            mask = pc.greater(values, self.at_most)
            broken[f"above {self.at_most:g}"] = pc.fill_null(mask, fill_value=False)
        return broken

    def mock(self, n: int, rng: np.random.Generator) -> pa.Array:
        """`n` values that satisfy the declaration."""
        if self.one_of is not None:
            return pa.array(rng.choice(list(self.one_of), n).tolist(), self.dtype)
        if pa.types.is_string(self.dtype):
            return pa.array([f"{self.name}-{k:05d}" for k in range(n)], self.dtype)
        if pa.types.is_binary(self.dtype):
            return pa.array([b""] * n, self.dtype)
        if pa.types.is_boolean(self.dtype):
            return pa.array(rng.random(n) < 0.5, self.dtype)
        low = 0.0 if self.at_least is None else self.at_least
        high = low + 1.0 if self.at_most is None else self.at_most
        if pa.types.is_integer(self.dtype):
            return pa.array(rng.integers(int(low), int(high) + 1, n), self.dtype)
        return pa.array(rng.uniform(low, high, n), self.dtype)


@dataclass(frozen=True)
class Table:
    """A named, versioned set of columns with the key that identifies a row."""

    name: str
    version: int
    doc: str
    columns: tuple[Column, ...]
    key: str
    _by_name: dict[str, Column] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_name.update({column.name: column for column in self.columns})

    def __getitem__(self, name: str) -> Column:
        return self._by_name[name]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema."""
        return pa.schema([column.field for column in self.columns])

    @property
    def narrow(self) -> tuple[str, ...]:
        """The columns without the pixel blobs."""
        return tuple(c.name for c in self.columns if not pa.types.is_binary(c.dtype))

    def conform(
        self, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]] | pa.Table, where: str = ""
    ) -> pa.Table:
        """Rows as this table: columns in order and typed; absent nullable columns become null.

        Raises SchemaMismatch naming the column that is absent, unknown, or of another type.
        """
        if isinstance(rows, pa.Table):
            given: dict[str, Any] = {name: rows.column(name) for name in rows.column_names}
            length = rows.num_rows
        elif isinstance(rows, Mapping):
            given = dict(rows)
            length = len(next(iter(given.values()))) if given else 0
        else:
            names = {name for row in rows for name in row}
            given = {name: [row.get(name) for row in rows] for name in names}
            length = len(rows)
        where = where or f"table {self.name}"
        unknown = sorted(set(given) - set(self._by_name))
        if unknown:
            raise SchemaMismatch(
                where, f"has the unknown column '{unknown[0]}'", f"columns: {', '.join(self._by_name)}"
            )
        arrays = [self._column(column, given, length, where) for column in self.columns]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _column(self, column: Column, given: Mapping[str, Any], length: int, where: str) -> Any:
        if column.name not in given:
            if column.nullable or length == 0:
                return pa.nulls(length, column.dtype)
            raise SchemaMismatch(where, f"lacks the column '{column.name}' ({column.doc})")
        values = given[column.name]
        try:
            if isinstance(values, (pa.Array, pa.ChunkedArray)):
                return values.cast(column.dtype)
            return pa.array(values, column.dtype)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise SchemaMismatch(where, f"column '{column.name}' is not {column.dtype}: {error}") from error

    def violations(self, rows: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray]]:
        """Each promise of a present column that rows break, with the mask of those rows."""
        for column in self.columns:
            if column.name in rows.column_names:
                for promise, mask in column.violations(rows.column(column.name)).items():
                    yield f"{column.name} {promise}", mask

    def check(self, rows: pa.Table) -> Findings:
        """Every promise of every column, plus the uniqueness of the key: one finding for each that is broken.

        A table without faults gives the single finding ``schema_<name>`` with value 0.
        """
        found = [
            _broken(self, f"column '{column.name}' is absent", rows.num_rows or 1, rows.num_rows, [])
            for column in self.columns
            if column.name not in rows.column_names
        ]
        for broken, mask in self.violations(rows):
            count = int(pc.sum(mask).as_py())
            found.append(_broken(self, broken, count, rows.num_rows, _keys(self, rows, mask)))
        if self.key in rows.column_names:
            repeated = rows.num_rows - int(pc.count_distinct(rows.column(self.key)).as_py())
            if repeated:
                found.append(_broken(self, f"{self.key} repeated", repeated, rows.num_rows, []))
        if not found:
            found = [_schema_check(self).measure(0, n=rows.num_rows)]
        return Findings(found)

    def mock(self, n: int = 6, seed: int = 1) -> pa.Table:
        """Rows that satisfy the declaration, blobs empty: what a test starts from."""
        columns = {c.name: c.mock(n, stream(seed, f"mock/{self.name}", c.name)) for c in self.columns}
        return self.conform(columns)

    def docs(self) -> str:
        """The declaration as a Markdown table."""
        lines = [f"### {self.name} (version {self.version})", "", self.doc, ""]
        lines += ["| column | type | unit | values | meaning |", "|---|---|---|---|---|"]
        for c in self.columns:
            limits = ", ".join(c.one_of) if c.one_of else _limits(c)
            null = " or null" if c.nullable else ""
            lines.append(f"| `{c.name}` | {c.dtype}{null} | {c.unit} | {limits} | {c.doc} |")
        return "\n".join(lines) + "\n"


def _limits(column: Column) -> str:
    low, high = column.at_least, column.at_most
    if low is None and high is None:
        return ""
    if high is None:
        return f"≥ {low:g}"
    return f"≤ {high:g}" if low is None else f"{low:g} to {high:g}"


def _schema_check(table: Table) -> Check:
    return Check(name=f"schema_{table.name}", bound=exactly(0), why="rows that break the declared table")


def _broken(table: Table, what: str, count: int, n: int, examples: list[str]) -> Any:
    return _schema_check(table).measure(count, n=n, detail=what, examples=examples)


def _keys(table: Table, rows: pa.Table, mask: pa.ChunkedArray) -> list[str]:
    if table.key not in rows.column_names:
        return []
    return [str(key) for key in rows.column(table.key).filter(mask).slice(0, 3).to_pylist()]


_S, _B = pa.string(), pa.binary()
_F, _D, _I, _L, _H = pa.float32(), pa.float64(), pa.int32(), pa.int64(), pa.int16()


def _per_band(
    stem: str, dtype: pa.DataType, doc: str, unit: str = "", *, nullable: bool = False
) -> Iterable[Column]:
    return (Column(f"{stem}_{band}", dtype, f"{doc}, {band} band.", unit, nullable) for band in "grz")


BRICKS = Table(
    name="bricks",
    version=1,
    doc="Where the synthetic sky is painted, and how many targets of each kind a brick holds.",
    key="brickname",
    columns=(
        Column("brickname", _S, "Legacy Surveys style brick name."),
        Column("ra_deg", _D, "Brick centre.", "deg", at_least=0, at_most=360),
        Column("dec_deg", _D, "Brick centre.", "deg", at_least=-90, at_most=90),
        Column("cell", _L, "HEALPix cell of the centre, NSIDE 64, nested.", at_least=0),
        Column("release", _S, "Release whose facts are imitated."),
        *(
            Column(f"n_{kind}", _I, f"Targets of kind {kind}.", at_least=0)
            for kind in ("lrg", "disc", *CATEGORIES)
        ),
        Column("n_anchor", _I, "Galaxies that will receive a mock anchor's arc.", at_least=0),
    ),
)

_IDENTITY = (
    Column("target_id", _S, "Survey object at the centre."),
    Column("host_id", _S, "The galaxy at the centre: the unit of clustering."),
    Column(
        "kind",
        _S,
        "lrg: possible deflector; disc: never a host; contaminant: look-alike; lens: known or mock lens.",
        one_of=KINDS,
    ),
    Column("category", _S, "Class of a contaminant.", nullable=True, one_of=CATEGORIES),
    Column("name", _S, "Published name, where there is one.", nullable=True),
    Column("host_domain", _S, "What the galaxy's pixels are.", one_of=DOMAINS),
    Column(
        "arc_domain",
        _S,
        "What the arc is; null where there is none. nature: made to play nature's part.",
        nullable=True,
        one_of=DOMAINS,
    ),
    Column("release", _S, "Data release, or what the cutout file says it is."),
    Column("brickname", _S, "Brick.", nullable=True),
    Column("ra_deg", _D, "Right ascension.", "deg", nullable=True, at_least=0, at_most=360),
    Column("dec_deg", _D, "Declination.", "deg", nullable=True, at_least=-90, at_most=90),
    Column("cell", _L, "HEALPix cell, NSIDE 64, nested; null without a position.", nullable=True, at_least=0),
    Column("group", _S, "What a split never cuts: 'cell:N', or 'host:ID' without a position."),
)

_TRACTOR_IDENTITY = (
    Column(
        "tractor_release",
        _I,
        "The Tractor's RELEASE: with brickid and objid it names one catalogue object.",
        nullable=True,
        at_least=0,
    ),
    Column("brickid", _I, "The Tractor's BRICKID.", nullable=True, at_least=0),
    Column("objid", _I, "The Tractor's OBJID.", nullable=True, at_least=0),
)
_CATALOGUE = (
    Column("z", _F, "Redshift.", nullable=True, at_least=0),
    Column("sigma_v_kms", _F, "Velocity dispersion.", "km/s", nullable=True, at_least=0),
    Column("type", _S, "Tractor morphological type.", nullable=True),
    *_per_band("flux", _F, "Total flux", "nmgy", nullable=True),
    Column("sersic", _F, "Sérsic index.", nullable=True),
    Column("shape_r", _F, "Half-light radius along the major axis.", "arcsec", nullable=True, at_least=0),
    Column(
        "shape_e1", _F, "Tractor ellipticity, modulus (a-b)/(a+b).", nullable=True, at_least=-1, at_most=1
    ),
    Column(
        "shape_e2", _F, "Tractor ellipticity, modulus (a-b)/(a+b).", nullable=True, at_least=-1, at_most=1
    ),
)

TARGETS = Table(
    name="targets",
    version=1,
    doc="Where stamps are wanted: one row per survey object, lens or look-alike, before any pixel is read.",
    key="target_id",
    columns=(
        *_IDENTITY,
        *_TRACTOR_IDENTITY,
        *_CATALOGUE,
        *_per_band("psfsize", _F, "PSF FWHM as the catalogue gives it", "arcsec", nullable=True),
        *_per_band("psfdepth", _F, "PSF depth as inverse variance", "1/nmgy^2", nullable=True),
        *_per_band("nexp", _H, "Number of exposures (the Tractor's nobs)", nullable=True),
        Column("maskbits", _L, "The catalogue's MASKBITS at the object's centre.", nullable=True),
        Column("ebv", _F, "Galactic reddening E(B-V), SFD98.", "mag", nullable=True),
        Column("theta_e_arcsec", _F, "Einstein radius of a known lens.", "arcsec", nullable=True, at_least=0),
        Column("source", _S, "Table it was read from, with its checksum."),
        Column(
            "reject",
            _S,
            "Why no stamp shall be made of it; null when one shall.",
            nullable=True,
            one_of=REJECTS,
        ),
    ),
)

STAMPS = Table(
    name="stamps",
    version=2,
    doc="One row per survey target: its pixels, its PSF, and its catalogue row under the Tractor's names.",
    key="target_id",
    columns=(
        *_IDENTITY,
        *_TRACTOR_IDENTITY,
        *_CATALOGUE,
        Column("light_q", _F, "Axis ratio of the light.", nullable=True, at_least=0, at_most=1),
        Column("light_phi_rad", _F, "Major axis of the light, +x to +y.", "rad", nullable=True),
        *_per_band("psfsize", _F, "PSF FWHM as the survey gives it, 0 where unknown", "arcsec"),
        *_per_band(
            "psfdepth",
            _F,
            "PSF depth as inverse variance (the Tractor's meaning), 0 where unknown",
            "1/nmgy^2",
        ),
        *_per_band("nexp", _H, "Number of exposures", nullable=True),
        Column(
            "psf_source",
            _S,
            "Where the PSF comes from. psfsize: a Moffat of the FWHM that the survey's map gives here.",
            one_of=("model", "assumed", "measured", "psfsize", "none"),
        ),
        Column(
            "noise_source",
            _S,
            "Where the inverse variance comes from.",
            one_of=("model", "invvar", "blank_pixels", "none"),
        ),
        Column(
            "theta_e_arcsec",
            _F,
            "Einstein radius of a lens or mock anchor.",
            "arcsec",
            nullable=True,
            at_least=0,
        ),
        Column("x_center_pix", _F, "Column of the target's centre.", "pix"),
        Column("y_center_pix", _F, "Row of the target's centre.", "pix"),
        Column(
            "pixel_scale_arcsec", _F, "Pixel scale; never resampled.", "arcsec/pix", at_least=0.01, at_most=2
        ),
        Column("stamp_npz", _B, "image_g, image_r, image_z: float32 (n, n).", "nmgy", nullable=True),
        Column(
            "invvar_npz",
            _B,
            "invvar_g, …: 1/sigma_w², white-equivalent, host photons included.",
            "1/nmgy^2",
            nullable=True,
        ),
        Column("mask_npz", _B, "maskbits: int32 (n, n).", nullable=True),
        Column(
            "psf_npz", _B, "psf_g, …: float32 (k, k), k odd, sum 1, pixel response included.", nullable=True
        ),
        Column(
            "reject",
            _S,
            "Why there are no usable pixels; null when there are.",
            nullable=True,
            one_of=REJECTS,
        ),
    ),
)

PAIRED_STAMPS = Table(
    name="paired_stamps",
    version=3,
    doc="The same galaxy twice: with an injected arc, and untouched. One row per injection task.",
    key="task_id",
    columns=(
        Column("task_id", _S, "target_id#draw."),
        *_IDENTITY,
        Column("recipe", _S, "Kind of recipe that made the arc: the sources' shapes, and +nuisances."),
        Column("lineage", _S, "Name the paper trail uses, e.g. gen5_prime."),
        Column("recipe_hash", _S, "Fingerprint of the recipe: results carry their prior."),
        Column(
            "theta_e_prior",
            _S,
            "Prior of theta_E: uniform is for completeness; host, population: from velocity dispersions.",
        ),
        Column(
            "flux_mode",
            _S,
            "counts: intrinsic number counts; snr_targeted: rescaled to a wanted S/N; sham: zero flux.",
        ),
        Column("source_model", _S, "What the source is made of."),
        Column("source_id", _S, "The real galaxy that was lensed; null for a model.", nullable=True),
        Column(
            "nuisances",
            _S,
            "What the imaging of this pair was made to suffer, e.g. 'cosmic_ray:r'.",
            nullable=True,
        ),
        Column("stamp_npz", _B, "With arc: float32, g r z.", "nmgy", nullable=True),
        Column("ctrl_stamp_npz", _B, "The same pixels before the arc was added.", "nmgy", nullable=True),
        Column(
            "invvar_npz",
            _B,
            "Inverse variance of the stamp, arc photons included.",
            "1/nmgy^2",
            nullable=True,
        ),
        Column(
            "arc_npz",
            _B,
            "arc_g, …: the arc alone, noiseless, PSF-convolved, 0 outside its footprint, which is where it "
            "is above 1e-3 of the pixel noise: outside, stamp and control are the same bits.",
            "nmgy",
            nullable=True,
        ),
        *_per_band(
            "flux_left_out", _F, "Share of the arc's light on the stamp outside its footprint", nullable=True
        ),
        Column(
            "theta_e_arcsec",
            _F,
            "Einstein radius (lenstronomy theta_E).",
            "arcsec",
            nullable=True,
            at_least=0,
        ),
        Column("q", _F, "Axis ratio of the mass.", nullable=True, at_least=0, at_most=1),
        Column("phi_rad", _F, "Major axis of the mass, +x to +y.", "rad", nullable=True),
        Column("e1", _F, "(1-q)/(1+q) cos 2phi.", nullable=True, at_least=-1, at_most=1),
        Column("e2", _F, "(1-q)/(1+q) sin 2phi.", nullable=True, at_least=-1, at_most=1),
        Column("gamma", _F, "Slope of the mass, lenstronomy's EPL; 2 is isothermal.", nullable=True),
        Column("gamma1", _F, "External shear.", nullable=True),
        Column("gamma2", _F, "External shear.", nullable=True),
        Column("center_x", _F, "Lens centre relative to the target's centre.", "arcsec", nullable=True),
        Column("center_y", _F, "Lens centre relative to the target's centre.", "arcsec", nullable=True),
        Column("z_lens", _F, "Deflector redshift.", nullable=True),
        Column("z_source", _F, "Source redshift.", nullable=True),
        Column("R_sersic_arcsec", _F, "Half-light radius of the source, sqrt(ab).", "arcsec", nullable=True),
        Column("n_sersic", _F, "Sérsic index of the source's smooth light.", nullable=True),
        Column("source_e1", _F, "Source ellipticity, (1-q)/(1+q) cos 2phi.", nullable=True),
        Column("source_e2", _F, "Source ellipticity, (1-q)/(1+q) sin 2phi.", nullable=True),
        Column("source_x_arcsec", _F, "Source position.", "arcsec", nullable=True),
        Column("source_y_arcsec", _F, "Source position.", "arcsec", nullable=True),
        Column("beta_arcsec", _F, "Source offset from the lens.", "arcsec", nullable=True),
        Column("caustic_area_arcsec2", _F, "Area of the multiply-imaged region.", "arcsec^2", nullable=True),
        Column("n_images", _H, "Images of the source's centre (2 or 4).", nullable=True),
        *_per_band("source_mag", _F, "Intrinsic magnitude of the source, as drawn", "mag", nullable=True),
        Column(
            "flux_scale",
            _F,
            "Factor on the drawn flux: 1; another number where an S/N was aimed at; 0 for a sham.",
            nullable=True,
            at_least=0,
        ),
        *_per_band("lensed_mag", _F, "Magnitude of the lensed image", "mag", nullable=True),
        Column("magnification", _F, "Lensed over intrinsic flux, r band.", nullable=True),
        Column(
            "arc_snr",
            _F,
            "The brief's column: peak per-pixel S/N of the arc in r.",
            nullable=True,
            at_least=0,
        ),
        *_per_band("arc_snr", _F, "Peak per-pixel S/N of the arc", nullable=True),
        Column(
            "arc_snr_sum",
            _F,
            "Arc flux over the noise of the whole stamp, bands in quadrature: diluted by blank sky.",
            nullable=True,
        ),
        *_per_band("arc_snr_sum", _F, "Arc flux over the noise of the whole stamp", nullable=True),
        Column(
            "arc_snr_mf",
            _F,
            "Matched-filter S/N, bands in quadrature, host variance in.",
            nullable=True,
            at_least=0,
        ),
        *_per_band("arc_snr_mf", _F, "Matched-filter S/N", nullable=True),
        Column("kappa_r5", _F, "Share of the r-band arc flux within 5 px of the centre.", nullable=True),
        Column("kappa_box", _F, "Share of the r-band arc flux in the brief's 10×10 core box.", nullable=True),
        *_per_band("gain", _F, "Gain of the coadd at this stamp", "e-/nmgy", nullable=True),
        *_per_band("flux", _F, "Host flux", "nmgy", nullable=True),
        Column("psf_fwhm_arcsec", _F, "PSF FWHM, r band (the brief's name).", "arcsec"),
        Column("psfdepth_r", _F, "PSF depth as inverse variance.", "1/nmgy^2"),
        Column("x_center_pix", _F, "Column of the target's centre.", "pix"),
        Column("y_center_pix", _F, "Row of the target's centre.", "pix"),
        Column("pixel_scale_arcsec", _F, "Pixel scale.", "arcsec/pix"),
        Column(
            "weight",
            _F,
            "Weight in population averages: how much more often nature makes such a lens than the draw; "
            "0 where the flux was chosen for its S/N.",
            at_least=0,
        ),
        Column("reject", _S, "Why no arc was added; null when it was.", nullable=True, one_of=REJECTS),
    ),
)

HARD_NEGATIVES = Table(
    name="hard_negatives",
    version=1,
    doc="For each pair its arc's light where no lens puts it. Rows as in the dataset of pairs.",
    key="task_id",
    columns=(
        Column("task_id", _S, "The pair's."),
        Column("target_id", _S, "Survey object."),
        Column("host_id", _S, "Galaxy."),
        Column("host_domain", _S, "What the galaxy's pixels are.", one_of=DOMAINS),
        Column("negative_kind", _S, "How the light was moved.", one_of=NEGATIVE_KINDS),
        Column("x_center_pix", _F, "Target, column.", "pix"),
        Column("y_center_pix", _F, "Target, row.", "pix"),
        Column("theta_e_arcsec", _F, "Einstein radius of the arc.", "arcsec", nullable=True),
        Column("arc_snr_mf", _F, "Matched-filter S/N of the moved light.", nullable=True),
        Column("kappa_r5", _F, "Share of the moved light with r < 5 px.", nullable=True),
        Column("likeness", _F, "Correlation of the moved light with the arc, as seen.", nullable=True),
        Column("reject", _S, "Why there are no pixels; null where there are.", nullable=True, one_of=REJECTS),
        Column("stamp_npz", _B, "Control plus the moved light [nmgy].", nullable=True),
    ),
)

PAIR_AUDIT = Table(
    name="pair_audit",
    version=1,
    doc="What one pass over the pixels of every pair found, and what is compared over all rows.",
    key="row_id",
    columns=(
        Column("row_id", _S, "task_id of the pair."),
        Column("target_id", _S, "Survey object."),
        Column("host_id", _S, "Galaxy."),
        Column("host_domain", _S, "What the galaxy's pixels are.", one_of=DOMAINS),
        Column("source_id", _S, "The real galaxy that was lensed.", nullable=True),
        Column("brickname", _S, "Brick.", nullable=True),
        Column("ra_deg", _D, "Right ascension.", "deg", nullable=True),
        Column("dec_deg", _D, "Declination.", "deg", nullable=True),
        Column("cell", _L, "HEALPix cell, NSIDE 64, nested.", nullable=True),
        Column("reject", _S, "Why there is no arc; null where there is.", nullable=True, one_of=REJECTS),
        Column("faults", _S, "Names of the checks that the row breaks, joined by spaces.", nullable=True),
        Column("schema_faults", _S, "Promises of the table that it breaks, joined by '; '.", nullable=True),
        Column("residual_sigmas", _F, "Largest departure from the declared arc.", "sigma", nullable=True),
        Column("arc_snr_found", _F, "arc_snr as the pixels have it.", nullable=True),
        Column("arc_snr_mf_found", _F, "arc_snr_mf as the pixels have it.", nullable=True),
        *_per_band(
            "x_offset", _F, "Light centroid of the control minus the declared centre", "pix", nullable=True
        ),
        *_per_band(
            "y_offset", _F, "Light centroid of the control minus the declared centre", "pix", nullable=True
        ),
        *_per_band("light", _F, "Flux of the control within 8 px", "nmgy", nullable=True),
        *_per_band("sigma", _F, "Noise of a pixel in the corners", "nmgy", nullable=True),
        *_per_band("flux", _F, "Host flux of the catalogue", "nmgy", nullable=True),
        Column("signature_a", _L, "First half of the control's 128-bit signature.", nullable=True),
        Column("signature_b", _L, "Second half.", nullable=True),
    ),
)

SPLITS = Table(
    name="splits",
    version=1,
    doc="Which split each row belongs to, and whether its split uses it. Rows as in the dataset it splits.",
    key="row_id",
    columns=(
        Column("row_id", _S, "task_id or target_id of the row."),
        Column("target_id", _S, "Survey object."),
        Column("host_id", _S, "Galaxy."),
        Column("group", _S, "What a split never cuts."),
        Column("kind", _S, "Kind of target.", one_of=KINDS),
        Column("split", _S, "Where the row belongs.", one_of=SPLITS_NAMES),
        Column(
            "reject",
            _S,
            "Why its split does not use it (for instance the recorded S/N floor).",
            nullable=True,
            one_of=REJECTS,
        ),
    ),
)

SCORES = Table(
    name="scores",
    version=2,
    doc="What a checkpoint says of each stamp: full, core-masked and control views.",
    key="row_id",
    columns=(
        Column("row_id", _S, "task_id or target_id of the row."),
        Column("target_id", _S, "Survey object."),
        Column("host_id", _S, "Galaxy."),
        Column("group", _S, "What a split never cuts."),
        Column("kind", _S, "Kind of target.", one_of=KINDS),
        Column("category", _S, "Class of a contaminant.", nullable=True, one_of=CATEGORIES),
        Column("name", _S, "Published name.", nullable=True),
        Column("host_domain", _S, "What the galaxy's pixels are.", one_of=DOMAINS),
        Column("arc_domain", _S, "What the arc is; null where there is none.", nullable=True, one_of=DOMAINS),
        Column(
            "score",
            _D,
            "Probability at the training prevalence, full view.",
            nullable=True,
            at_least=0,
            at_most=1,
        ),
        Column(
            "score_core_masked",
            _D,
            "The same with r<5 px set to zero after normalisation.",
            nullable=True,
            at_least=0,
            at_most=1,
        ),
        Column("score_ctrl", _D, "The same on the untouched control.", nullable=True, at_least=0, at_most=1),
        Column("score_ctrl_core_masked", _D, "Control, core masked.", nullable=True, at_least=0, at_most=1),
        Column("theta_e_arcsec", _F, "Einstein radius.", "arcsec", nullable=True),
        Column("arc_snr", _F, "Peak per-pixel S/N in r.", nullable=True),
        Column("arc_snr_mf", _F, "Matched-filter S/N.", nullable=True),
        Column("kappa_r5", _F, "Core share of the arc flux.", nullable=True),
        Column("psf_fwhm_arcsec", _F, "PSF FWHM, r band.", "arcsec", nullable=True),
        Column("psfdepth_r", _F, "PSF depth as inverse variance.", "1/nmgy^2", nullable=True),
        Column("reject", _S, "Why there is no score; null when there is.", nullable=True, one_of=REJECTS),
    ),
)

ANCHORS = Table(
    name="anchors",
    version=2,
    doc="Known lenses, as published; one row per system.",
    key="name",
    columns=(
        Column("name", _S, "Published name."),
        Column("ra_deg", _D, "Right ascension.", "deg", at_least=0, at_most=360),
        Column("dec_deg", _D, "Declination.", "deg", at_least=-90, at_most=90),
        Column("theta_e_arcsec", _F, "Einstein radius.", "arcsec", nullable=True, at_least=0),
        Column("z_lens", _F, "Deflector redshift.", nullable=True, at_least=0),
        Column("z_source", _F, "Source redshift.", nullable=True, at_least=0),
        Column("sigma_v_kms", _F, "Velocity dispersion of the deflector.", "km/s", nullable=True, at_least=0),
        Column("grade", _S, "Grade as the table gives it.", nullable=True),
        Column("evidence", _S, "What the claim rests on.", one_of=EVIDENCE),
        Column("channel", _S, "How it was found.", one_of=CHANNELS),
        Column("ref", _S, "Publication that the table names for it.", nullable=True),
        Column("also", _S, "Other names of the same system, joined by ';'.", nullable=True),
        Column("source", _S, "Tables it was read from, with their checksums."),
        *_TRACTOR_IDENTITY,
        Column("match_arcsec", _F, "Distance to the survey source.", "arcsec", nullable=True, at_least=0),
        Column("type", _S, "Tractor type of the survey source.", nullable=True),
        *_per_band("flux", _F, "Flux of the survey source", "nmgy", nullable=True),
        Column("host_domain", _S, "real or mock.", one_of=DOMAINS),
        Column("arc_domain", _S, "real or mock.", one_of=DOMAINS),
    ),
)

CONTAMINANTS = Table(
    name="contaminants",
    version=2,
    doc="Look-alikes by class.",
    key="name",
    columns=(
        Column("name", _S, "Name or target id."),
        Column("ra_deg", _D, "Right ascension.", "deg", at_least=0, at_most=360),
        Column("dec_deg", _D, "Declination.", "deg", at_least=-90, at_most=90),
        Column("category", _S, "Class.", one_of=CATEGORIES),
        Column(
            "size_arcsec",
            _F,
            "Apparent diameter where the table gives it.",
            "arcsec",
            nullable=True,
            at_least=0,
        ),
        Column("source", _S, "Table it was read from, with its checksum."),
        Column("host_domain", _S, "real or mock.", one_of=DOMAINS),
    ),
)

FINDINGS = Table(
    name="findings",
    version=1,
    doc="What checks found over whole datasets: one row for each check.",
    key="name",
    columns=(
        Column("name", _S, "The check's name."),
        Column("status", _S, "What became of it.", one_of=tuple(Status)),
        Column("value", _D, "What was measured; null where it could not be.", nullable=True),
        Column("bound", _S, "What it must be."),
        Column("n", _L, "Over how many rows or values.", nullable=True, at_least=0),
        Column("decides", pa.bool_(), "Whether a verdict may rest on it."),
        Column("detail", _S, "In words.", nullable=True),
        Column("examples", _S, "The first offenders, joined by ', '.", nullable=True),
    ),
)

HOUSE_TABLES = (
    BRICKS,
    TARGETS,
    STAMPS,
    PAIRED_STAMPS,
    HARD_NEGATIVES,
    PAIR_AUDIT,
    SPLITS,
    SCORES,
    ANCHORS,
    CONTAMINANTS,
    FINDINGS,
)
