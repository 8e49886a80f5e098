"""Hard negatives: an arc's light put where no lens would put it, before the PSF and the noise.

A network learns what an arc looks like from what is nearly one. The brief's negative HN0 moves an arc's
pixels after the PSF, so its texture gives it away (`stamps.measure.azimuthal_shuffle`). Here the light is
moved in the sky, on cells of half a pixel, and then seen by the same PSF, with photon noise of its own:

    HN1   cells shuffled within rings one pixel wide, all bands alike: speckled rings
    HN2   azimuthal phases drawn anew, the same at all radii: a ring of blobs
    HN3   every image turned by 90 degrees about its own middle: radial streaks
    HN4   every image replaced by its source, unlensed: companions of the same light
    HN5   every image turned by 180 degrees about its own middle: arcs that bend away from the deflector

An image is a region of light above 5 % of the brightest cell. One that goes around the deflector by more than
120 degrees is cut into pieces of about 90: a full ring turned about its own middle would still be a ring.
Flux is kept, except for what a turn moves off the stamp.

Images that the seeing hardly resolves are what they were after a turn: no negative at all. `likeness`, the
correlation of the moved light with the arc as the PSF shows both, tells these rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import ndimage

from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.tables import HARD_NEGATIVES, SKY_KINDS, SkyKind, Table
from darkhaloscope.injection.inject import RENDERER, Inject, ReadyPair, arc_task
from darkhaloscope.injection.render import Arc, ArcTask, cell_of
from darkhaloscope.stamps.measure import arc_snr_mf

Light = NDArray[np.float32]
"""(layer, cell rows, cell columns)."""

_BRIGHT = 0.05  # share of the brightest cell that belongs to an image
_FAINTEST = 0.02  # share of the light below which a region is not an image of its own
_WIDEST_DEG, _PIECE_DEG = 120, 90
_BINS = 36  # of 10 degrees: where around the deflector an image has light
_ANGLES = 512  # of the polar grid, one third of a cell at 15 px
_ROUNDS = 10  # between the amplitudes that are kept and light that is nowhere negative
_NO_LENS = 1e-6  # Einstein radius that moves no ray by a thousandth of a cell [arcsec]


@dataclass(frozen=True)
class Place:
    """The middle of the deflector on the cells (column, row)."""

    x: float
    y: float

    @classmethod
    def of(cls, task: ArcTask) -> "Place":
        """Of the task's lens."""
        frame, lens = task.frame, task.lens
        scale = frame.pixel_scale_arcsec
        return cls(cell_of(frame.x_center_pix + lens.x / scale), cell_of(frame.y_center_pix + lens.y / scale))

    def polar(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Radius [cell] and angle [rad] of each cell."""
        dx, dy = np.arange(shape[-1]) - self.x, np.arange(shape[-2])[:, None] - self.y
        return np.hypot(dx, dy), np.arctan2(dy, np.broadcast_to(dx, (shape[-2], shape[-1])))


def shuffled_in_rings(light: Light, place: Place, rng: np.random.Generator) -> Light:
    """HN1: cells permuted within rings one pixel wide, by one permutation for all layers."""
    radius, _ = place.polar(light.shape)
    ring = (radius / 2.0).astype(int).ravel()
    order = np.argsort(ring, kind="stable")
    mixed = np.lexsort((rng.random(ring.size), ring))
    flat = light.reshape(len(light), -1)
    out = np.empty_like(flat)
    out[:, order] = flat[:, mixed]
    return out.reshape(light.shape)


def phases_drawn_anew(light: Light, place: Place, rng: np.random.Generator) -> Light:
    """HN2: azimuthal Fourier amplitudes kept, phases random, the same at all radii and in all layers.

    Light with such phases would be negative somewhere: a few rounds (Gerchberg & Saxton 1972) go back and
    forth between the amplitudes and light that is not. Each layer keeps its flux.
    """
    total = light.sum(axis=0, dtype=np.float64)
    radius, angle = place.polar(light.shape)
    radii = np.arange(0.0, radius.max() + 1.0)
    around = 2.0 * np.pi * np.arange(_ANGLES) / _ANGLES
    rows = place.y + radii[:, None] * np.sin(around)
    columns = place.x + radii[:, None] * np.cos(around)
    polar = ndimage.map_coordinates(total, [rows, columns], order=1)
    spectrum = np.fft.rfft(polar, axis=1)
    amplitude = np.abs(spectrum)
    turn = np.exp(2j * np.pi * rng.random(spectrum.shape[1]))
    turn[0] = 1.0
    ring = np.fft.irfft(spectrum * turn, _ANGLES, axis=1)
    for _ in range(_ROUNDS):
        found = np.fft.rfft(np.maximum(ring, 0.0), axis=1)
        ring = np.fft.irfft(amplitude * np.exp(1j * np.angle(found)), _ANGLES, axis=1)
    at = [radius, (angle % (2.0 * np.pi)) * (_ANGLES / (2.0 * np.pi))]
    wrapped = np.concatenate([ring, ring[:, :1]], axis=1)
    made = ndimage.map_coordinates(np.maximum(wrapped, 0.0), at, order=1)
    share = light.sum(axis=(1, 2), dtype=np.float64) / max(made.sum(), np.finfo(float).tiny)
    return np.asarray(share[:, None, None] * made, dtype=light.dtype)


def images_of(total: NDArray[np.floating[Any]], place: Place) -> list[NDArray[np.intp]]:
    """Flat cells of each image, all cells given to the image nearest to them."""
    bright = total > _BRIGHT * total.max()
    label, n = ndimage.label(bright, np.ones((3, 3)))
    flux = ndimage.sum_labels(total, label, np.arange(1, n + 1))
    _, angle = place.polar(total.shape)
    pieces = np.zeros(total.shape, dtype=int)
    for image in 1 + np.flatnonzero(flux >= _FAINTEST * total.sum()):
        mine = label == image
        pieces[mine] = pieces.max() + 1 + _sector(angle[mine])
    nearest = ndimage.distance_transform_edt(pieces == 0, return_distances=False, return_indices=True)
    pieces = pieces[tuple(nearest)].ravel()
    return [np.flatnonzero(pieces == piece) for piece in np.unique(pieces)]


def _sector(angle: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which piece each cell of an image belongs to, by its angle about the deflector."""
    occupied = np.bincount((np.degrees(angle) % 360.0 / (360 / _BINS)).astype(int) % _BINS, minlength=_BINS)
    taken = np.flatnonzero(occupied)
    span = len(taken) * (360 / _BINS)
    if span <= _WIDEST_DEG:
        return np.zeros(len(angle), dtype=np.intp)
    gaps = np.diff(np.append(taken, taken[0] + _BINS))
    start = taken[(int(gaps.argmax()) + 1) % len(taken)] * (360 / _BINS)
    pieces = round(span / _PIECE_DEG)
    along = (np.degrees(angle) - start) % 360.0
    return np.asarray(np.minimum(along * pieces / span, pieces - 1), dtype=np.intp)


def _middle(total: NDArray[np.floating[Any]], cells: NDArray[np.intp]) -> tuple[int, int]:
    """Cell of the light's centroid: row, column."""
    rows, columns = np.divmod(cells, total.shape[1])
    weight = total.ravel()[cells]
    share = weight / weight.sum()
    return round(float(share @ rows)), round(float(share @ columns))


def images_turned(light: Light, place: Place, quarters: int) -> Light:
    """HN3 (one quarter) and HN5 (two): every image turned about its own middle, exactly, cell by cell."""
    total = light.sum(axis=0)
    out = np.zeros_like(light)
    for cells in images_of(total, place):
        row, column = _middle(total, cells)
        dy, dx = np.divmod(cells, light.shape[2])
        dy, dx = dy - row, dx - column
        for _ in range(quarters):
            dy, dx = dx, -dy
        there_y, there_x = row + dy, column + dx
        on = (there_y >= 0) & (there_y < light.shape[1]) & (there_x >= 0) & (there_x < light.shape[2])
        source = light.reshape(len(light), -1)[:, cells[on]]
        out[:, there_y[on], there_x[on]] += source
    return out


def images_unlensed(light: Light, place: Place, source: Light, at: tuple[float, float]) -> Light:
    """HN4: every image replaced by its source as it is without a lens, of the image's flux.

    source   the unlensed source's light on the same cells, its middle at cell `at` (column, row)
    """
    total = light.sum(axis=0)
    whole = np.maximum(source.sum(axis=(1, 2), dtype=np.float64), np.finfo(float).tiny)
    out = np.zeros_like(light)
    for cells in images_of(total, place):
        row, column = _middle(total, cells)
        flux = light.reshape(len(light), -1)[:, cells].sum(axis=1, dtype=np.float64)
        moved = _moved(source, row - round(at[1]), column - round(at[0]))
        out += ((flux / whole)[:, None, None] * moved).astype(light.dtype)
    return out


def _moved(light: Light, down: int, right: int) -> Light:
    """Light moved by whole cells; what leaves the cells is lost."""
    out = np.zeros_like(light)
    height, width = light.shape[1:]
    to_y, to_x = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
    of_y, of_x = slice(max(-down, 0), height - max(down, 0)), slice(max(-right, 0), width - max(right, 0))
    out[:, to_y, to_x] = light[:, of_y, of_x]
    return out


def reshaped(light: Light, task: ArcTask, kind: str, rng: np.random.Generator) -> Light:
    """An arc's light on cells as the hard negative `kind`."""
    if not light.max() > 0:  # nothing fell on the stamp: there is nothing to move
        return light
    place = Place.of(task)
    makers: dict[str, Callable[[], Light]] = {
        "HN1": lambda: shuffled_in_rings(light, place, rng),
        "HN2": lambda: phases_drawn_anew(light, place, rng),
        "HN3": lambda: images_turned(light, place, 1),
        "HN4": lambda: images_unlensed(light, place, *_unlensed(task)),
        "HN5": lambda: images_turned(light, place, 2),
    }
    return makers[kind]()


def _unlensed(task: ArcTask) -> tuple[Light, tuple[float, float]]:
    """A task's source without its lens, and the cell (column, row) of its middle."""
    lens, shape, frame = task.lens, task.source.parts[0].shape, task.frame
    plain = replace(lens, theta_e=_NO_LENS, gamma1=0.0, gamma2=0.0)
    scale = frame.pixel_scale_arcsec
    at = cell_of(frame.x_center_pix + shape.x / scale), cell_of(frame.y_center_pix + shape.y / scale)
    return RENDERER.light(replace(task, lens=plain)), at


@dataclass(frozen=True, eq=False)
class _Moved(Arc):
    likeness: float | None


def _likeness(moved: NDArray[np.float64], arc: NDArray[np.float64]) -> float | None:
    """Correlation of two lights over all pixels and bands; None where one of them is empty."""
    both = np.stack([moved.ravel(), arc.ravel()])
    if not both.any(axis=1).all():
        return None
    return float(np.atleast_2d(np.corrcoef(both))[0, 1])


def _moved_arc(pair: ReadyPair, moved: Arc, arc: Arc) -> _Moved:
    """Moved light of the arc's own flux, where a recipe scales arcs to an S/N too."""
    scale = 1.0
    if pair.truth.target_snr is not None:
        bands = np.broadcast_to(np.asarray(pair.imaging.flux_scale), len(arc.image))[:, None, None]
        scale = pair.truth.target_snr / float(arc_snr_mf(arc.image * bands, pair.control.invvar))
    return _Moved(scale * moved.image, scale * moved.flux_nmgy, _likeness(moved.image, arc.image))


class InjectHardNegatives(Inject):
    """One hard negative for each pair that `Inject` of the same settings makes: STAMPS to HARD_NEGATIVES.

    Rows follow those of the pairs, one by one: the same host, arc, imaging and flux, the light reshaped.

    negatives   kinds to make; which of them a task gets is drawn from (seed, task_id)
    """

    writes: ClassVar[Table] = HARD_NEGATIVES
    photons: ClassVar[str] = "hard/photons"

    job: Literal["inject_hard_negatives"] = "inject_hard_negatives"  # type: ignore[assignment]
    negatives: tuple[SkyKind, ...] = SKY_KINDS

    def kind_of(self, task: str) -> str:
        """The kind that a task gets."""
        return self.negatives[int(stream(self.seed, "hard/kind", task).integers(len(self.negatives)))]

    def run(self, batch: pa.Table) -> pa.Table:
        """One row for each draw of each host, in order."""
        rows = self.pairs_of(batch)
        for row in rows:
            row["negative_kind"] = self.kind_of(row["task_id"])
        names = set(HARD_NEGATIVES.schema.names)
        kept = [{name: value for name, value in row.items() if name in names} for row in rows]
        return HARD_NEGATIVES.conform(kept) if kept else HARD_NEGATIVES.schema.empty_table()

    def _finished(self, pair: ReadyPair, arc: Arc) -> dict[str, Any]:
        if not isinstance(arc, _Moved):
            return super()._finished(pair, arc)
        plain = replace(
            pair, truth=replace(pair.truth, target_snr=None)
        )  # the arc's scale is in the light already
        return super()._finished(plain, arc) | {"likeness": arc.likeness}

    def _arcs(self, lit: Sequence[ReadyPair]) -> Sequence[Arc]:
        tasks = [arc_task(pair.control, pair.truth, pair.psf) for pair in lit]

        def reshape(k: int, light: Light) -> Light:
            name = lit[k].task
            kind = self.kind_of(name)
            return reshaped(light, tasks[k], kind, stream(self.seed, f"hard/{kind}", name))

        moved = RENDERER.render(tasks, reshape=reshape)
        return [
            _moved_arc(pair, new, arc)
            for pair, new, arc in zip(lit, moved, RENDERER.render(tasks), strict=True)
        ]
