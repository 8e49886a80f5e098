"""The jobs that put arcs into stamps: `Inject` makes pairs, `MakeAnchors` makes mock lenses.

A pair is the same galaxy twice: the control is the survey's blob, byte for byte, and the stamp is
``float32(control + arc + the arc's own photon noise)`` within the arc's footprint. Nothing else differs. A
row that cannot carry an arc keeps its place with a reject code and without pixels.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from darkhaloscope.contracts.config import Frozen, fingerprint, tagged
from darkhaloscope.contracts.errors import naming
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.tables import PAIRED_STAMPS, STAMPS, Table
from darkhaloscope.injection.draw import Host, Truth, draw
from darkhaloscope.injection.imaging import add_to, shot_noise
from darkhaloscope.injection.lens import ellipticity_from_axis
from darkhaloscope.injection.nuisance import Imaging, apply_nuisances, arc_psf, draw_nuisances
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.injection.render import Arc, ArcTask, Frame, Renderer, Response
from darkhaloscope.stamps.measure import (
    arc_footprint,
    arc_snr_bands,
    arc_snr_mf,
    arc_snr_mf_bands,
    arc_snr_sum_bands,
    core_flux_share,
    outer_mask,
    radius_map,
)
from darkhaloscope.stamps.stamp import (
    Stamp,
    decode_mask,
    decode_planes,
    decode_stamp,
    encode_planes,
)
from darkhaloscope.survey.psf import Kernels
from darkhaloscope.survey.release import (
    BANDS,
    GAIN_HIGHEST,
    GAIN_LOWEST,
    GAIN_UNUSUAL,
    MASK_BITS,
    PASSES,
    gain_from_noise,
    to_magnitude,
)

FloatArray = npt.NDArray[np.float64]
Row = Mapping[str, Any]

RENDERER = Renderer()
"""The jobs' renderer: NumPy, on a core of their own."""

_CARRIED = tuple(
    name
    for name in STAMPS.narrow
    if name in PAIRED_STAMPS.narrow and name not in ("arc_domain", "theta_e_arcsec", "reject")
)
"""Facts of the host that a pair carries on."""

_BLOBS = ("stamp_npz", "invvar_npz", "mask_npz", "psf_npz")
_DRAWN_FROM = (
    *("arc_domain", "z", "sigma_v_kms", "light_q", "light_phi_rad"),
    *(f"{stem}_{band}" for stem in ("psfsize", "nexp") for band in BANDS),
)
_BAD_PIXEL = sum(
    bit for name, bit in MASK_BITS.items() if name.startswith(("SATUR_", "ALLMASK_")) or name == "BAILOUT"
)


class Usability(Frozen):
    """When a host's pixels are too damaged to carry an arc."""

    radius_arcsec: float = tagged(5.0, "A", "where arcs of the default grid lie", "arcsec", gt=0.0)
    masked_share: float = tagged(0.10, "A", "of the pixels within that radius, in any band", ge=0.0, le=1.0)


@dataclass(frozen=True)
class Injected:
    """A stamp with an arc in it, and what was measured on the way.

    stamp    float32 (band, y, x), control + arc + shot noise [nmgy]
    invvar   float32, the arc's photons included
    arc      float32, noiseless [nmgy], 0 outside its footprint
    gain     effective gain per band [e-/nmgy]
    scale    what the source's intrinsic flux was multiplied by: 1 unless an S/N was aimed at, 0 for a sham
    flux_nmgy       lensed flux per band, after that scale
    left_out        share per band of the arc's light on the stamp that lies outside its footprint
    magnification   lensed over intrinsic flux in r, whatever the scale
    peak_snr, sum_snr, snr_mf   S/N per band before the arc's own photons: see `stamps.measure`
    """

    stamp: npt.NDArray[np.float32]
    invvar: npt.NDArray[np.float32]
    arc: npt.NDArray[np.float32]
    gain: FloatArray
    scale: float
    flux_nmgy: FloatArray
    left_out: FloatArray
    magnification: float
    peak_snr: FloatArray
    sum_snr: FloatArray
    snr_mf: FloatArray

    @property
    def snr_mf_total(self) -> float:
        """Matched-filter S/N, bands in quadrature."""
        return float(np.sqrt(np.sum(self.snr_mf**2)))


def arc_task(control: Stamp, truth: Truth, psf: Response) -> ArcTask:
    """What the renderer needs to know of one arc."""
    return ArcTask(truth.lens, truth.source, _frame(control), psf)


def _frame(stamp: Stamp) -> Frame:
    height, width = stamp.image.shape[1:]
    return Frame((height, width), stamp.x_center_pix, stamp.y_center_pix, stamp.pixel_scale_arcsec)


def inject_arc(
    control: Stamp, truth: Truth, gain: FloatArray, rng: np.random.Generator, *, sham: bool = False
) -> Injected:
    """Render one arc through a stamp's PSF and add it; arguments as `add_arc`."""
    psf = RENDERER.respond(Kernels.pixelised(control.psf), _frame(control).shape)
    return add_arc(control, truth, RENDERER.render([arc_task(control, truth, psf)])[0], gain, rng, sham=sham)


def add_arc(
    control: Stamp,
    truth: Truth,
    unit: Arc,
    gain: FloatArray,
    rng: np.random.Generator,
    *,
    sham: bool = False,
    flux_scale: npt.ArrayLike = 1.0,
) -> Injected:
    """Add a rendered arc to a stamp as if the survey had recorded it.

    unit         the arc at its drawn flux
    gain         effective gain per band [e-/nmgy]; infinite adds no photon noise
    rng          stream of the photon noise
    sham         run everything at zero flux: the stamp comes out as the control, bit for bit
    flux_scale   factor per band between the sky's flux and this exposure's, as its zero-point has it
    """
    seen = unit.image * np.broadcast_to(np.asarray(flux_scale), len(BANDS))[:, None, None]
    scale = 0.0 if sham else 1.0
    if truth.target_snr is not None:
        scale *= truth.target_snr / float(arc_snr_mf(seen, control.invvar))
    whole = scale * seen
    footprint = arc_footprint(whole, control.invvar)
    arc = np.where(footprint, whole, 0.0)
    noise = shot_noise(arc, gain, rng)
    # Photons add variance, white-equivalent like the rest: 1/w + a/G. A masked pixel (w = 0) stays masked.
    weight = control.invvar.astype(np.float64)
    photons = np.maximum(arc, 0.0) / gain[:, None, None]
    r = BANDS.index("r")
    return Injected(
        stamp=add_to(control.image, arc + noise, footprint),
        invvar=(weight / (1.0 + weight * photons)).astype(np.float32),
        arc=arc.astype(np.float32),
        gain=gain,
        scale=scale,
        flux_nmgy=scale * unit.flux_nmgy,
        left_out=_share_left_out(whole, arc),
        magnification=float(unit.flux_nmgy[r] / truth.source.flux_nmgy[r]),
        peak_snr=arc_snr_bands(arc, control.invvar),
        sum_snr=arc_snr_sum_bands(arc, control.invvar),
        snr_mf=arc_snr_mf_bands(arc, control.invvar),
    )


def _share_left_out(whole: FloatArray, kept: FloatArray) -> FloatArray:
    total = whole.sum(axis=(1, 2))
    lost = total - kept.sum(axis=(1, 2))
    return np.asarray(np.divide(lost, total, out=np.zeros(len(BANDS)), where=total > 0.0))


def host_gain(stamp: Stamp, row: Row) -> FloatArray:
    """Effective gain of the coadd under a stamp, per band [e-/nmgy], from its own blank-sky noise.

    The median inverse variance beyond 20 px stands for blank sky. An unknown number of exposures counts as
    the nominal survey's; it moves the gain by a few percent, through the read noise only.
    """
    blank = outer_mask(stamp.invvar.shape, stamp.x_center_pix, stamp.y_center_pix)
    gains = []
    for plane, band in zip(stamp.invvar, BANDS, strict=True):
        weight = plane[blank & (plane > 0.0)]
        exposures = row[f"nexp_{band}"] or PASSES
        sigma_w = 1.0 / np.sqrt(np.median(weight)) if weight.size else np.inf
        gain = gain_from_noise(
            sigma_w, band=band, n_exposures=exposures, pixel_scale=stamp.pixel_scale_arcsec
        )
        gains.append(float(gain))
    return np.array(gains)


def _open(row: Row, usability: Usability) -> tuple[Stamp, FloatArray] | str:
    """The stamp of a row and its gain, or the code of why no arc can go in."""
    where = f"target {row['target_id']}"
    if row["reject"]:
        return str(row["reject"])
    image, bandset = decode_stamp(row["stamp_npz"], where=where, allow_missing=True)
    if len(bandset) < len(BANDS):
        return "missing_band"
    if not np.isfinite(image).all():
        return "not_finite"
    stamp = Stamp(
        image=image,
        invvar=decode_planes(row["invvar_npz"], "invvar", where=where, require_finite=True),
        mask=decode_mask(row["mask_npz"], where=where),
        psf=decode_planes(row["psf_npz"], "psf", where=where, require_finite=True),
        x_center_pix=float(row["x_center_pix"]),
        y_center_pix=float(row["y_center_pix"]),
        pixel_scale_arcsec=float(row["pixel_scale_arcsec"]),
        where=where,
    )
    radius = radius_map(image.shape, stamp.x_center_pix, stamp.y_center_pix)
    near = radius * stamp.pixel_scale_arcsec < usability.radius_arcsec
    bad = (stamp.mask & _BAD_PIXEL != 0) | (stamp.invvar <= 0.0).any(axis=0)
    if bad[near].mean() > usability.masked_share:
        return "host_masked"
    gain = host_gain(stamp, row)
    if not np.all((gain >= GAIN_LOWEST) & (gain <= GAIN_HIGHEST)):
        return "gain_out_of_bounds"
    if gain.max() > GAIN_UNUSUAL:
        warnings.warn(f"gains above {GAIN_UNUSUAL:g} e-/nmgy: only very deep fields have them", stacklevel=2)
    return stamp, gain


@dataclass(frozen=True, eq=False)
class ReadyPair:
    """A task that will get its arc: everything known before light is rendered.

    control        what the arc is added to, as this pair's imaging recorded it
    control_blob   its pixels as they are stored
    """

    task: str
    row: dict[str, Any]
    control: Stamp
    control_blob: bytes
    gain: FloatArray
    truth: Truth
    imaging: Imaging
    psf: Response


class Inject(Job):
    """Pairs of a host with and without an arc: STAMPS to PAIRED_STAMPS.

    recipe           how arcs are made
    seed             the experiment's; a task's draw depends on (seed, task_id) alone
    draws_per_host   arcs per host; a task is "<target_id>#<draw>"
    sham             zero flux through the whole pipeline, for gates that must find nothing
    kinds            which targets are hosts; others, and real or mock lenses, are left out
    source_shares    part of a catalogue of real galaxies for each group of hosts, so that no galaxy is
                     lensed in two splits; empty: the whole catalogue for all
    """

    reads: ClassVar[Table] = STAMPS
    writes: ClassVar[Table] = PAIRED_STAMPS
    columns: ClassVar[tuple[str, ...] | None] = (*_CARRIED, *_DRAWN_FROM, *_BLOBS, "reject")

    job: Literal["inject"] = "inject"
    recipe: Recipe = Recipe()
    seed: int
    draws_per_host: int = Field(default=1, ge=1)
    sham: bool = False
    kinds: tuple[str, ...] = ("lrg",)
    usability: Usability = Usability()
    source_shares: dict[str, tuple[float, float]] = Field(default_factory=dict)

    photons: ClassVar[str] = "injection/photons"  # purpose of the stream that the arc's electrons come from

    def run(self, batch: pa.Table) -> pa.Table:
        """One row for each draw of each host, in order."""
        rows = self.pairs_of(batch)
        return PAIRED_STAMPS.conform(rows) if rows else PAIRED_STAMPS.schema.empty_table()

    def pairs_of(self, batch: pa.Table) -> list[dict[str, Any]]:
        """The rows of a batch's pairs, before they are made to fit a table."""
        made: list[ReadyPair | dict[str, Any]] = []
        recipe_hash = fingerprint(self.recipe)
        for row in batch.to_pylist():
            if row["kind"] in self.kinds and row["arc_domain"] is None:
                with naming(target_id=row["target_id"]):
                    made += self._host(row, recipe_hash)
        lit = [pair for pair in made if isinstance(pair, ReadyPair)]
        arcs = iter(self._arcs(lit))
        return [self._finished(pair, next(arcs)) if isinstance(pair, ReadyPair) else pair for pair in made]

    def tasks_of(self, target_id: str) -> list[str]:
        """The tasks of one host."""
        return [f"{target_id}#{k}" for k in range(self.draws_per_host)]

    def _arcs(self, lit: Sequence[ReadyPair]) -> Sequence[Arc]:
        """The light of each pair: what a job changes that puts something else in an arc's place."""
        return RENDERER.render([arc_task(p.control, p.truth, p.psf) for p in lit])

    def _host(self, row: Row, recipe_hash: str) -> Iterator[ReadyPair | dict[str, Any]]:
        """The tasks of one host: ready for light, or finished rows with the code of why there is none."""
        tasks = self.tasks_of(row["target_id"])
        if not tasks:
            return
        opened = _open(row, self.usability)
        blank = self._blank(row) | {"recipe_hash": recipe_hash}
        psf = None if isinstance(opened, str) else _respond(opened[0].psf, opened[0])
        for task in tasks:
            pair = opened if isinstance(opened, str) else self._task(row, task, *opened, psf)
            if isinstance(pair, str):
                yield blank | {"task_id": task, "reject": pair}
            else:
                yield replace(pair, row=blank | {"task_id": task} | pair.row)

    def _task(self, row: Row, task: str, stamp: Stamp, gain: FloatArray, psf: Any) -> ReadyPair | str:
        """Draw one task's arc and imaging; or the code of why there is none."""
        share = self.source_shares[row["group"]] if self.source_shares else (0.0, 1.0)
        truth = draw(Host.from_row(row), self.recipe, seed=self.seed, task=task, share=share)
        if isinstance(truth, str):
            return truth
        if self.recipe.imaging is None:
            return ReadyPair(task, {}, stamp, row["stamp_npz"], gain, truth, Imaging.none(), psf)
        imaging = draw_nuisances(
            self.recipe.imaging,
            seed=self.seed,
            task=task,
            nexp=tuple(row[f"nexp_{band}"] or PASSES for band in BANDS),
            psf_fwhm_arcsec=tuple(row[f"psfsize_{band}"] for band in BANDS),
            shape=_frame(stamp).shape,
        )
        control = apply_nuisances(stamp, imaging, where=f"task {task}")
        if isinstance(control, str):
            return control
        psf = _respond(arc_psf(stamp.psf, imaging), stamp, shift=imaging.shift_pix)
        blob, suffered = encode_planes("image", control.image), {"nuisances": imaging.flags or None}
        return ReadyPair(task, suffered, control, blob, gain, truth, imaging, psf)

    def _blank(self, row: Row) -> dict[str, Any]:
        """A row of PAIRED_STAMPS before anything is drawn."""
        return {name: row[name] for name in _CARRIED} | {
            "arc_domain": None,
            "recipe": self.recipe.kind,
            "lineage": self.recipe.lineage,
            "theta_e_prior": self.recipe.theta_e_prior,
            "flux_mode": "sham" if self.sham else self.recipe.flux_mode,
            "source_model": "none",
            "psf_fwhm_arcsec": row["psfsize_r"],
            "weight": 0.0,
        }

    def _finished(self, pair: ReadyPair, arc: Arc) -> dict[str, Any]:
        """The row of a pair whose arc has been rendered."""
        rng = stream(self.seed, self.photons, pair.task)
        done = add_arc(
            pair.control, pair.truth, arc, pair.gain, rng, sham=self.sham, flux_scale=pair.imaging.flux_scale
        )
        row = pair.row | truth_columns(pair.truth) | measured_columns(done, pair.control)
        floor = self.recipe.snr_floor
        if floor is not None and not self.sham and done.snr_mf_total < floor:
            return row | {"reject": "below_snr_floor"}
        return row | {
            "arc_domain": None if self.sham else ArcDomain.SIM.value,
            "weight": 0.0 if self.sham or pair.truth.target_snr is not None else pair.truth.weight,
            "stamp_npz": encode_planes("image", done.stamp),
            "ctrl_stamp_npz": pair.control_blob,
            "invvar_npz": encode_planes("invvar", done.invvar),
            "arc_npz": encode_planes("arc", done.arc),
        }


class InjectTasks(Inject):
    """Pairs of some tasks of `Inject` alone: STAMPS to PAIRED_STAMPS.

    tasks   the task_ids that are made; hosts without any have no row
    """

    job: Literal["inject_tasks"] = "inject_tasks"  # type: ignore[assignment]
    tasks: tuple[str, ...]

    def tasks_of(self, target_id: str) -> list[str]:
        """Those of the host's tasks that are asked for."""
        return [task for task in super().tasks_of(target_id) if task in self.tasks]


def _respond(psf: npt.NDArray[Any], stamp: Stamp, shift: npt.ArrayLike | None = None) -> Response:
    return RENDERER.respond(Kernels.pixelised(psf), _frame(stamp).shape, shift_pix=shift)


def truth_columns(truth: Truth) -> dict[str, Any]:
    """What an arc was made of, under lenstronomy's names."""
    lens, shape = truth.lens, truth.morphology
    e1, e2 = ellipticity_from_axis(lens.q, lens.phi)
    s1, s2 = (None, None) if shape is None else ellipticity_from_axis(shape.q, shape.phi)
    x, y = truth.position
    return {
        "theta_e_arcsec": lens.theta_e,
        "q": lens.q,
        "phi_rad": lens.phi,
        "e1": e1,
        "e2": e2,
        "gamma": lens.gamma,
        "gamma1": lens.gamma1,
        "gamma2": lens.gamma2,
        "center_x": lens.x,
        "center_y": lens.y,
        "z_lens": truth.z_lens,
        "z_source": truth.z_source,
        "source_model": truth.source.model,
        "source_id": truth.source_id,
        "R_sersic_arcsec": truth.size_arcsec,
        "n_sersic": None if shape is None else shape.n_sersic,
        "source_e1": s1,
        "source_e2": s2,
        "source_x_arcsec": x,
        "source_y_arcsec": y,
        "beta_arcsec": float(np.hypot(x - lens.x, y - lens.y)),
        "caustic_area_arcsec2": truth.caustic_area_arcsec2,
        "n_images": truth.n_images,
        **{f"source_mag_{band}": mag for band, mag in zip(BANDS, truth.source_mag, strict=True)},
    }


def measured_columns(done: Injected, control: Stamp) -> dict[str, Any]:
    """What was measured on an injected arc.

    source_mag is intrinsic and lensed_mag what shines on the stamp: their flux ratio is the magnification,
    times the scale of an S/N-targeted injection.
    """
    kappa_r5, kappa_box = core_flux_share(done.arc, control.x_center_pix, control.y_center_pix)
    lensed = to_magnitude(done.flux_nmgy)
    return {
        **{f"lensed_mag_{band}": _known(mag) for band, mag in zip(BANDS, lensed, strict=True)},
        "flux_scale": done.scale,
        **_by_band("flux_left_out", done.left_out),
        "magnification": done.magnification,
        "arc_snr": float(done.peak_snr[BANDS.index("r")]),
        "arc_snr_sum": float(np.sqrt(np.sum(done.sum_snr**2))),
        "arc_snr_mf": done.snr_mf_total,
        **_by_band("arc_snr", done.peak_snr),
        **_by_band("arc_snr_sum", done.sum_snr),
        **_by_band("arc_snr_mf", done.snr_mf),
        "kappa_r5": _known(kappa_r5),
        "kappa_box": _known(kappa_box),
        **_by_band("gain", done.gain),
    }


def _by_band(stem: str, values: FloatArray) -> dict[str, float]:
    return {f"{stem}_{band}": float(value) for band, value in zip(BANDS, values, strict=True)}


def _known(value: npt.ArrayLike) -> float | None:
    number = float(np.asarray(value))
    return number if np.isfinite(number) else None


class MakeAnchors(Job):
    """Give mock lenses their arc: STAMPS to STAMPS.

    Simulated rows of kind "lens" without an arc get one that a survey would have discovered, from streams
    that no training arc shares; they come out with arc_domain "nature": made to play nature's part, never
    real. All other rows pass through unchanged.

    snr_floor       least arc_snr_mf: known lenses are the bright end of what exists
    theta_e_floor   least Einstein radius [arcsec]
    attempts        draws per anchor before it is rejected as "draw_exhausted"
    source_share    part of a catalogue of real galaxies that sources come from: that of the test split
    """

    reads: ClassVar[Table] = STAMPS
    writes: ClassVar[Table] = STAMPS

    job: Literal["make_anchors"] = "make_anchors"
    recipe: Recipe = Recipe()
    seed: int
    snr_floor: float = tagged(20.0, "A", "known arcs are bright: a third of the draws", ge=0.0)
    theta_e_floor: float = tagged(0.5, "S", "the protocol's smallest anchor", "arcsec", ge=0.0)
    attempts: int = tagged(50, "C", "a draw passes the floor in one case of three", ge=1)
    usability: Usability = Usability()
    source_share: tuple[float, float] = (0.0, 1.0)

    def run(self, batch: pa.Table) -> pa.Table:
        """The same rows, those that wait for an anchor's arc with it."""
        rows = batch.to_pylist()
        for row in rows:
            if row["kind"] == "lens" and row["host_domain"] == HostDomain.SIM and row["arc_domain"] is None:
                with naming(target_id=row["target_id"]):
                    row.update(self._anchor(row))
        return STAMPS.conform(rows) if rows else STAMPS.schema.empty_table()

    def _anchor(self, row: Row) -> dict[str, Any]:
        opened = _open(row, self.usability)
        if isinstance(opened, str):
            return {"reject": opened}
        stamp, gain = opened
        host = Host.from_row(row)
        for attempt in range(self.attempts):
            task = f"{row['target_id']}#{attempt}"
            truth = draw(
                host, self.recipe, seed=self.seed, task=task, purpose="anchors", share=self.source_share
            )
            if isinstance(truth, str) or truth.lens.theta_e < self.theta_e_floor:
                continue
            done = inject_arc(stamp, truth, gain, stream(self.seed, "anchors/photons", task))
            if done.snr_mf_total >= self.snr_floor:
                return {
                    "arc_domain": ArcDomain.NATURE.value,
                    "theta_e_arcsec": truth.lens.theta_e,
                    "stamp_npz": encode_planes("image", done.stamp),
                    "invvar_npz": encode_planes("invvar", done.invvar),
                }
        return {"reject": "draw_exhausted"}
