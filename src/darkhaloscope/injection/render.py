"""From lenses and sources to the light on the pixels of stamps: ray-tracing, integration, PSF.

**Where the pixel is counted.** A survey PSF is effective: a kernel pixel holds the response of a whole pixel
to a point, so an arc on the stamp is its surface brightness convolved with that kernel and read at pixel
centres. Averaging over pixels first and convolving then counts the pixel twice and costs 4 % of the peak.
Here light is laid on cells of half a pixel with the weights of a quadratic spline, about where it really
comes from within the cell: a compact source keeps its place to a thousandth of a pixel. The kernel is
applied in the Fourier domain, divided by the transform of the spline: the pixel is counted once, in the
kernel, and the cells not at all.

**How light is integrated.** Every part of every source is an integral of its own over the image plane,
refined where its rays fall near its light and nowhere else. It begins with squares of four pixels. A square
is thrown out if no ray in it can reach the part; it is integrated with the four points of the Gauss rule if
that rule's expected error is below `TOLERANCE` of the source's flux (squares of more than a pixel only where
the PSF also hides the pattern of their points); else it is quartered. Uniform supersampling would need a
factor of 30 and more for a compact source.

Everything up to the image is written against the Python array API: a renderer made for PyTorch runs the same
code on a GPU. Stamps are rendered together, yet what comes out for one does not depend on its company: rays
are elementwise, sums run in the order of a stamp's own squares, transforms are stamp by stamp.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace
from scipy import fft as scipy_fft

from darkhaloscope.injection.lens import ISOTHERMAL, Array, Lens, aligned, stretch_bound, trace
from darkhaloscope.injection.source import Source, Stack, stacked
from darkhaloscope.survey.psf import Kernels

FloatArray = npt.NDArray[np.float64]

CELLS_PER_PIXEL = 2
MARGIN_PIX = 4
"""Light up to this far outside the stamp is rendered too: the PSF scatters it in."""

TOLERANCE = 3e-3
"""Expected error of one square, in units of the source's intrinsic flux, above which it is quartered."""

COARSEST_PIX = 4
DEEPEST = 10
"""Quarterings of the coarsest square: 1.05 arcsec over 2^10 is 1 mas, below any source's core."""

_RIPPLE = {4.0: 0.1, 2.0: 0.003}
"""Share of the light in squares of this size [pix] that a PSF lets through of the pattern of their points."""

STAMPS_AT_ONCE = 32
"""Stamps rendered together: their rays fit a core's cache. A GPU wants thousands."""

_GAUSS = 0.5 / math.sqrt(3.0)
_FOUR = ((-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0))
_SPREAD = 1.15 * math.sqrt(3.0)
"""From the farthest Gauss point's distance to the square's corner, with something for the mapping's bend."""


@dataclass(frozen=True)
class Frame:
    """The pixels of a stamp and where its target lies on them.

    shape                        (n_y, n_x) [pix]
    x_center_pix, y_center_pix   0-based position of the target, pixel centres at integers
    pixel_scale_arcsec           [arcsec/pix]
    """

    shape: tuple[int, int]
    x_center_pix: float
    y_center_pix: float
    pixel_scale_arcsec: float


@dataclass(frozen=True, eq=False)
class Response:
    """A set of kernels ready for use: what it does to light on the cells of stamps of one shape.

    spectrum       (band, rows, columns), complex; of the pixel grid, or of the cell grid if oversampled
    grid           length of the transforms in pixels (y, x)
    oversampling   of the kernels, 1 or `CELLS_PER_PIXEL`
    """

    spectrum: Array
    grid: tuple[int, int]
    oversampling: int


@dataclass(frozen=True)
class ArcTask:
    """What one arc is made of.

    lens, source   in arcsec relative to the stamp's target
    frame          the stamp's pixels
    psf            its effective kernels, made ready by `Renderer.respond`: once for all arcs under one PSF
    """

    lens: Lens
    source: Source
    frame: Frame
    psf: Response


@dataclass(frozen=True, eq=False)
class Arc:
    """A rendered arc.

    image            noiseless and PSF-convolved [nmgy/pix], (band, y, x)
    flux_nmgy        lensed flux that fell on the stamp and its margin, per band
    """

    image: npt.NDArray[np.float64]
    flux_nmgy: FloatArray


@dataclass(frozen=True, eq=False)
class Component:
    """Shapes of one kind among the sources of a batch.

    stamp   (p,) which stamp each belongs to
    shape   the p shapes, stacked
    flux    (p, band) intrinsic flux of each [nmgy]
    """

    stamp: Array
    shape: Stack
    flux: Array


@dataclass(frozen=True, eq=False)
class ArcBatch:
    """Arcs as arrays: n stamps of one shape, pixel scale and kind of PSF.

    lens         fields of shape (n,); `gamma` the number 2.0 if all are isothermal
    x_center_pix, y_center_pix   (n,)
    components   the sources' parts, by kind; every stamp has at least one part
    layers       1 if every stamp has exactly one part, else the number of bands
    response     spectra (m, band, rows, columns) of m PSFs
    psf          (n,) which of them a stamp has
    """

    shape: tuple[int, int]
    pixel_scale_arcsec: float
    lens: Lens
    x_center_pix: Array
    y_center_pix: Array
    components: tuple[Component, ...]
    layers: int
    response: Response
    psf: Array

    def __len__(self) -> int:
        return int(self.x_center_pix.shape[0])


Reshape = Callable[[int, Array], Array]
"""Number of a task and its light on cells (layer, rows, columns), see `cell_of`, to other light on them."""


def cell_of(position_pix: float) -> float:
    """Where a pixel position lies on the cells that light is collected on, 0-based with integer centres."""
    return CELLS_PER_PIXEL * (position_pix + 0.5 + MARGIN_PIX) + 0.5


@dataclass(frozen=True)
class Renderer:
    """Renders arcs in batches.

    xp, dtype        array namespace and real type of the rays: single precision moves a pixel by 2e-6 of
                     the peak
    device           where that namespace shall work, e.g. "cuda"
    stamps_at_once   how many stamps share one batch
    tolerance        see `TOLERANCE`

    Transforms are taken in single precision: 1e-7 of the peak. For the accuracy that this reaches, and how it
    was measured, see docs/performance.md.
    """

    xp: Any = np
    dtype: Any = np.float32
    device: Any = None
    stamps_at_once: int = STAMPS_AT_ONCE
    tolerance: float = TOLERANCE

    def render(self, tasks: Sequence[ArcTask], *, reshape: Reshape | None = None) -> list[Arc]:
        """The arcs of tasks, in their order; stamps of all shapes and PSFs may be mixed.

        reshape   what is done to a task's light before the PSF sees it; of the same total, or the flux that
                  is told is no longer that of the image
        """
        _keep_freed_memory()
        arcs: dict[int, Arc] = {}
        for members in _alike(tasks, self.stamps_at_once):
            batch = self.batch([tasks[k] for k in members])
            light = self.collect(batch)
            if reshape is not None:
                light = self.xp.stack([reshape(k, seen) for k, seen in zip(members, light, strict=True)])
            images, flux = self.observe(light, batch)
            for k, image, f in zip(members, _to_numpy(images), _to_numpy(flux), strict=True):
                arcs[k] = Arc(image.astype(np.float64), f.astype(np.float64))
        return [arcs[k] for k in range(len(tasks))]

    def light(self, task: ArcTask) -> Array:
        """A task's light on cells, as `render` hands it to `reshape`."""
        return self.collect(self.batch([task]))[0]

    def batch(self, tasks: Sequence[ArcTask]) -> ArcBatch:
        """Tasks that are alike (see `_alike`) as arrays."""
        first = tasks[0]
        isothermal = first.lens.gamma == ISOTHERMAL
        names = [f.name for f in fields(Lens) if not (isothermal and f.name == "gamma")]
        table = np.array([[getattr(t.lens, name) for name in names] for t in tasks], dtype=np.float64)
        lens = Lens(**{name: self._array(column) for name, column in zip(names, table.T, strict=True)})
        owner = [k for k, task in enumerate(tasks) for _ in task.source.parts]
        parts = [part for task in tasks for part in task.source.parts]
        flux = np.array([part.flux_nmgy for part in parts], dtype=np.float64)
        responses = list({id(t.psf): t.psf for t in tasks}.values())
        place = {id(response): k for k, response in enumerate(responses)}
        spectra = [response.spectrum for response in responses]
        return ArcBatch(
            shape=first.frame.shape,
            pixel_scale_arcsec=first.frame.pixel_scale_arcsec,
            lens=lens,
            x_center_pix=self._array([t.frame.x_center_pix for t in tasks]),
            y_center_pix=self._array([t.frame.y_center_pix for t in tasks]),
            components=tuple(
                Component(
                    stamp=self._index(np.array(owner)[members]),
                    shape=stack.on(self.xp, self.dtype, self.device),
                    flux=self._array(flux[members]),
                )
                for members, stack in stacked([part.shape for part in parts])
            ),
            layers=1 if len(parts) == len(tasks) else flux.shape[1],
            response=replace(responses[0], spectrum=self.xp.stack(spectra)),
            psf=self._index(np.array([place[id(t.psf)] for t in tasks])),
        )

    def respond(
        self, psf: Kernels, shape: tuple[int, int], *, shift_pix: npt.ArrayLike | None = None
    ) -> Response:
        """Kernels made ready for stamps of a shape (n_y, n_x).

        shift_pix   (band, 2): how far (x, y) each band's exposures are out of place [pix]
        """
        if psf.oversampling not in (1, CELLS_PER_PIXEL):
            message = f"kernels have {psf.oversampling} samples per pixel, can use 1 or {CELLS_PER_PIXEL}"
            raise ValueError(message)
        half = psf.samples.shape[-1] // (2 * psf.oversampling)
        rows, columns = (scipy_fft.next_fast_len(n + MARGIN_PIX + half, real=True) for n in shape)
        length = (psf.oversampling * rows, psf.oversampling * columns)
        transform = scipy_fft.rfft2(np.asarray(psf.samples, dtype=np.float64), s=length)
        spectrum = transform * _transfer(rows, columns, psf.samples.shape[-1] // 2, psf.oversampling)
        if shift_pix is not None:
            spectrum *= _moved(np.asarray(shift_pix, dtype=np.float64), rows, columns, psf.oversampling)
        return Response(self._array(spectrum, self._complex), (rows, columns), psf.oversampling)

    def run(self, batch: ArcBatch) -> tuple[Array, Array]:
        """Images (n, band, y, x) in single precision [nmgy/pix] and lensed fluxes (n, band) [nmgy]."""
        return self.observe(self.collect(batch), batch)

    def observe(self, light: Array, batch: ArcBatch) -> tuple[Array, Array]:
        """What `run` gives, of light on cells as `collect` lays it."""
        total = self.xp.sum(self.xp.astype(light, self.dtype), axis=(2, 3))
        images = self._observe(light, batch)
        if batch.layers > 1:
            return images, total
        flux = self._in_order(batch)
        return images * self.xp.astype(flux, self._single)[:, :, None, None], total * flux

    def collect(self, batch: ArcBatch) -> Array:
        """Light near each cell of each stamp: (n, layer, cell rows, cell columns), single precision.

        One layer of unit flux where a source is one part: lensing conserves surface brightness, so it sums to
        the magnification. One layer for each band [nmgy] where sources have several parts. Light is spread
        over 3 x 3 cells by the weights of a quadratic spline, which `_transfer` takes out again.
        """
        canvas = _Canvas.of(batch.shape)
        where, what = [], []
        for component in batch.components:
            part, cell, weight = self._integrate(component, batch, canvas)
            start = (canvas.padded_size * batch.layers * component.stamp)[part] + cell
            for layer in range(batch.layers):
                where.append(start + canvas.padded_size * layer)
                what.append(weight if batch.layers == 1 else weight * component.flux[part, layer])
        sums = self.xp.bincount(
            self.xp.concat(where) if len(where) > 1 else where[0],
            weights=self.xp.concat(what) if len(what) > 1 else what[0],
            minlength=len(batch) * batch.layers * canvas.padded_size,
        )
        shape = (len(batch), batch.layers, canvas.rows + 2, canvas.columns + 2)
        return self.xp.astype(self.xp.reshape(sums, shape), self._single)

    def _in_order(self, batch: ArcBatch) -> Array:
        """Fluxes (n, band) of stamps that have one part each."""
        order = self.xp.concat([c.stamp for c in batch.components])
        return self.xp.concat([c.flux for c in batch.components])[self.xp.argsort(order)]

    def _integrate(
        self, component: Component, batch: ArcBatch, canvas: "_Canvas"
    ) -> tuple[Array, Array, Array]:
        """Light of the parts, laid on cells: part, padded cell and share of the part's flux, (m,) each."""
        xp, scale, view = self.xp, batch.pixel_scale_arcsec, _View.of(self.xp, batch, component)
        stack = view.shape
        limit = self.tolerance / _largest_share(xp, component, batch)
        part, u, v = self._coarse(len(component.stamp), canvas)
        size, parts, cells, weights = float(COARSEST_PIX), [], [], []
        for level in range(DEEPEST + 1):
            side = size * scale
            if size > 1.0:
                bound = view.reach(u, v, part, side)
                s, t = stack.local(*trace(*view.position(u, v, part), view.lens(part)), part)
                near = _where(xp, s * s + t * t < (stack.extent[part] + bound) ** 2)
                part, u, v, bound = part[near], u[near], v[near], bound[near]
            nodes = [xp.stack([w - size * _GAUSS, w + size * _GAUSS]) for w in (u, v)]
            s, t = stack.local(
                *trace(*view.position(nodes[0], nodes[1][:, None], part), view.lens(part)), part
            )
            ms, mt = _mean_of_four(s), _mean_of_four(t)
            reach = _SPREAD * xp.sqrt(_largest_of_four((s - ms) ** 2 + (t - mt) ** 2))
            if size > 1.0:
                reach = xp.maximum(reach, bound)
            lit = ms * ms + mt * mt < (stack.extent[part] + reach) ** 2
            error = stack.sampling_error(ms, mt, reach, part, _RIPPLE.get(size, 0.0))
            split = lit & (error * side**2 > limit[part])
            keep = _where(xp, lit & ~split if level < DEEPEST else lit)
            mine = part[keep]
            seen = stack.brightness(_taken_last(xp, s, keep), _taken_last(xp, t, keep), mine)
            nodes = [_taken_last(xp, w, keep) for w in nodes]
            cell, weight = self._laid(canvas, nodes[0], nodes[1], seen * (0.25 * side**2), size)
            parts.append(xp.tile(mine, (cell.shape[0] // mine.shape[0],)) if mine.shape[0] else mine)
            cells.append(cell)
            weights.append(weight)
            again = _where(xp, split)
            if level == DEEPEST or not again.shape[0]:
                break
            part, u, v = self._quartered(part[again], u[again], v[again], size)
            size *= 0.5
        return xp.concat(parts), xp.concat(cells), xp.concat(weights)

    def _coarse(self, n_parts: int, canvas: "_Canvas") -> tuple[Array, Array, Array]:
        """The coarsest squares of every part: part and middle (u, v) [pix], each (m,)."""
        xp = self.xp
        part = xp.arange(n_parts, device=self.device)
        u, v = self._array(canvas.coarse_u), self._array(canvas.coarse_v)
        return xp.repeat(part, u.shape[0]), xp.tile(u, (n_parts,)), xp.tile(v, (n_parts,))

    def _quartered(self, part: Array, u: Array, v: Array, size: float) -> tuple[Array, Array, Array]:
        """The quarters of squares."""
        xp = self.xp
        step = 0.25 * size
        wide = xp.stack([u + a * step for a, _ in _FOUR], axis=1)
        high = xp.stack([v + b * step for _, b in _FOUR], axis=1)
        return xp.repeat(part, 4), xp.reshape(wide, (-1,)), xp.reshape(high, (-1,))

    def _laid(self, canvas: "_Canvas", u: Array, v: Array, light: Array, size: float) -> tuple[Array, Array]:
        """Squares' light laid on cells: padded cells and what each gets, (k n,), all squares k times over.

        u, v    the two columns and the two rows of a square's points [pix], (2, n)
        light   of its four points (2, 2, n), rows first

        A point's light goes to 3 x 3 cells. The points of a square no larger than a cell share these; those
        of
        a square of two cells share 4 x 4, with the same weights in every square; others are laid one by one.
        """
        xp, width, cells = self.xp, canvas.columns + 2, CELLS_PER_PIXEL * size
        if cells == 2.0:
            first = self._spline(v[0])[0] * width + self._spline(u[0])[0]
            mixed = self._array(_pair_weights()) @ xp.reshape(light, (4, -1))
            return xp.reshape(first + canvas.steps(xp, 4), (-1,)), xp.reshape(mixed, (-1,))
        (column, across), (row, along) = self._spline(u), self._spline(v)
        if cells < 2.0:
            rows = across[:, 0, None] * light[:, 0] + across[:, 1, None] * light[:, 1]
            weight = along[:, 0, None] * rows[:, 0] + along[:, 1, None] * rows[:, 1]
            first = row[0] * width + column[0]
        else:
            weight = along[:, None, :, None] * across[None, :, None] * light
            first = xp.reshape(row[:, None] * width + column, (-1,))
        return xp.reshape(first + canvas.steps(xp, 3), (-1,)), xp.reshape(weight, (-1,))

    def _spline(self, position: Array) -> tuple[Array, Array]:
        """First of the three padded cells that a position [pix] is laid on, and their weights (3, ...)."""
        t = CELLS_PER_PIXEL * position + CELLS_PER_PIXEL * (0.5 + MARGIN_PIX)
        first = self.xp.floor(t)
        d = t - first
        low = 0.5 - d * (1.0 - 0.5 * d)
        high = 0.5 * d * d
        return self.xp.astype(first, self.xp.int64), self.xp.stack([low, 1.0 - low - high, high])

    def _observe(self, light: Array, batch: ArcBatch) -> Array:
        """Apply the kernels to light in cells and read the result at the pixel centres: (n, band, y, x).

        Linear: the transform is long enough that nothing wraps onto the stamp. NumPy does one stamp after
        the other: its complex products round differently with a loop's length, and so with a stamp's company.
        """
        spectra, grid = batch.response.spectrum[batch.psf], batch.response.grid
        if self.xp is not np:
            return self._seen(light, spectra, grid, batch.shape)
        each = zip(light, spectra, strict=True)
        return np.stack([self._seen(layers, spectrum, grid, batch.shape) for layers, spectrum in each])

    def _seen(self, light: Array, spectrum: Array, grid: tuple[int, int], shape: tuple[int, int]) -> Array:
        """(..., layer, cell rows, cell columns) and (..., band, rows, columns) to (..., band, y, x)."""
        rows, columns = grid
        wide = self._fft("rfft", light, CELLS_PER_PIXEL * columns, axis=-1)
        oversampled = spectrum.shape[-2] > rows
        if not oversampled:  # such a kernel knows no frequency above the pixels' own
            wide = wide[..., : columns // 2 + 1]
        fine = self._fft("fft", wide, CELLS_PER_PIXEL * rows, axis=-2)
        if not oversampled:
            top, bottom = (rows + 1) // 2, rows // 2
            fine = self.xp.concat([fine[..., :top, :], fine[..., fine.shape[-2] - bottom :, :]], axis=-2)
        product = fine * spectrum
        if oversampled:
            product = _folded(self.xp, product, rows, columns)
        lines = self._fft("ifft", product, rows, axis=-2)[..., : shape[0], :]
        return self._fft("irfft", lines, columns, axis=-1)[..., : shape[1]]

    def _fft(self, name: str, values: Array, length: int, *, axis: int) -> Array:
        """SciPy's transforms keep single precision and are faster than NumPy's."""
        home = scipy_fft if self.xp is np else self.xp.fft
        return getattr(home, name)(values, length, axis)

    @property
    def _single(self) -> Any:
        return self.xp.float32

    @property
    def _complex(self) -> Any:
        return self.xp.complex64

    def _array(self, values: Any, dtype: Any = None) -> Array:
        return self.xp.asarray(values, dtype=dtype or self.dtype, device=self.device)

    def _index(self, values: npt.NDArray[Any]) -> Array:
        return self.xp.asarray(values, dtype=self.xp.int64, device=self.device)


def render_arc(lens: Lens, source: Source, frame: Frame, psf: npt.ArrayLike | Kernels) -> Arc:
    """One arc, noiseless: light of a lensed source on a stamp, as the survey would record it.

    lens, source   in arcsec relative to the stamp's target
    psf            `Kernels`, or (band, k, k) effective kernels sampled at the stamp's pixels
    """
    kernels = psf if isinstance(psf, Kernels) else Kernels.pixelised(np.asarray(psf))
    renderer = Renderer()
    return renderer.render([ArcTask(lens, source, frame, renderer.respond(kernels, frame.shape))])[0]


@dataclass(frozen=True)
class _Canvas:
    """The cells of a stamp with its margin, filled up to whole squares of the coarsest kind.

    rows, columns   without the ring that the spline's tails need
    coarse_u, coarse_v   middles of the coarsest squares [pix]
    """

    rows: int
    columns: int
    coarse_u: FloatArray
    coarse_v: FloatArray

    @classmethod
    @lru_cache(maxsize=16)
    def of(cls, shape: tuple[int, int]) -> "_Canvas":
        height, width = (-(-(n + 2 * MARGIN_PIX) // COARSEST_PIX) for n in shape)
        v, u = (COARSEST_PIX * (np.arange(n) + 0.5) - 0.5 - MARGIN_PIX for n in (height, width))
        cells = CELLS_PER_PIXEL * COARSEST_PIX
        return cls(cells * height, cells * width, np.tile(u, height), np.repeat(v, width))

    def steps(self, xp: Any, side: int) -> Array:
        """From the first of side x side cells to each of them, in the padded grid, (side^2, 1)."""
        along = xp.arange(side)
        return xp.reshape((self.columns + 2) * along[:, None] + along, (-1, 1))

    @property
    def padded_size(self) -> int:
        """Cells of one layer, with a ring of one for the spline's tails."""
        return (self.rows + 2) * (self.columns + 2)


@dataclass(frozen=True, eq=False)
class _View:
    """A component's parts, each in the frame of its own lens: centred there, x along the major axis.

    shape            the parts, seen in those frames
    lenses           one for each part
    cos, sin         a step of one pixel along u is (cos, -sin), along v (sin, cos) [arcsec]
    x0, y0           where pixel (0, 0) is [arcsec]
    """

    shape: Stack
    lenses: Lens
    cos: Array
    sin: Array
    x0: Array
    y0: Array

    @classmethod
    def of(cls, xp: Any, batch: ArcBatch, component: Component) -> "_View":
        stamp, scale = component.stamp, batch.pixel_scale_arcsec
        lens = _taken(batch.lens, stamp)
        cos, sin = scale * xp.cos(lens.phi), scale * xp.sin(lens.phi)
        # Of the lens's centre, in pixels.
        u, v = batch.x_center_pix[stamp] + lens.x / scale, batch.y_center_pix[stamp] + lens.y / scale
        return cls(
            shape=component.shape.seen_from(lens.x, lens.y, lens.phi),
            lenses=aligned(lens),
            cos=cos,
            sin=sin,
            x0=-(cos * u + sin * v),
            y0=sin * u - cos * v,
        )

    def position(self, u: Array, v: Array, part: Array) -> tuple[Array, Array]:
        """Image-plane positions [arcsec] of pixels (u, v), for the parts (m,) on their last axis."""
        cos, sin = self.cos[part], self.sin[part]
        return (cos * u + self.x0[part]) + sin * v, (self.y0[part] - sin * u) + cos * v

    def lens(self, part: Array) -> Lens:
        """The lens of each part."""
        return _taken(self.lenses, part)

    def reach(self, u: Array, v: Array, part: Array, side: float) -> Array:
        """How far [local unit] the corners of squares of a side [arcsec] may land from their middles."""
        around = math.sqrt(2.0) * side  # the square is turned in the lens's frame
        grown = stretch_bound(*self.position(u, v, part), around, self.lens(part))
        return math.sqrt(0.5) * side * grown / self.shape.unit[part]


@lru_cache(maxsize=1)
def _pair_weights() -> FloatArray:
    """What each of 4 x 4 cells gets of the four points of a square of 2 x 2 cells: (16, 4)."""
    offset = CELLS_PER_PIXEL * (0.5 / CELLS_PER_PIXEL - _GAUSS)  # of a point from its cell's middle
    spline = 0.5 * (0.5 - offset) ** 2, 0.75 - offset**2, 0.5 * (0.5 + offset) ** 2
    low, high = np.array([*spline, 0.0]), np.array([0.0, *spline[::-1]])
    taps = np.stack([low, high], axis=1)
    return np.asarray(np.einsum("jv,iu->jivu", taps, taps).reshape(16, 4))


def _where(xp: Any, mask: Array) -> Array:
    return xp.nonzero(mask)[0]


def _taken_last(xp: Any, values: Array, index: Array) -> Array:
    return xp.take(values, index, axis=-1)


def _largest_of_four(values: Array) -> Array:
    xp = array_namespace(values)
    return xp.maximum(xp.maximum(values[0, 0], values[0, 1]), xp.maximum(values[1, 0], values[1, 1]))


def _mean_of_four(values: Array) -> Array:
    return 0.25 * (values[0, 0] + values[0, 1] + values[1, 0] + values[1, 1])


def _taken(lens: Lens, index: Array) -> Lens:
    values = {f.name: getattr(lens, f.name) for f in fields(Lens)}
    return Lens(**{name: v if isinstance(v, float) else v[index] for name, v in values.items()})


def _largest_share(xp: Any, component: Component, batch: ArcBatch) -> Array:
    """Largest share of each part in its source's flux in any band, at least a thousandth."""
    if batch.layers == 1:
        return xp.ones_like(component.flux[:, 0])
    total = sum(_summed(xp, c.flux, c.stamp, len(batch)) for c in batch.components)
    safe = xp.where(total > 0.0, total, xp.ones_like(total))
    share = xp.max(component.flux / safe[component.stamp], axis=1)
    return xp.where(share > 1e-3, share, xp.full_like(share, 1e-3))


def _summed(xp: Any, flux: Array, stamp: Array, n: int) -> Array:
    bands = [xp.bincount(stamp, weights=flux[:, b], minlength=n) for b in range(flux.shape[1])]
    return xp.stack(bands, axis=1)


def _folded(xp: Any, spectrum: Array, rows: int, columns: int) -> Array:
    """Spectrum of every second sample: high frequencies fold onto low ones. (..., y, x) half-planes."""
    folded = spectrum[..., :rows, :] + spectrum[..., rows:, :]
    width = columns // 2 + 1
    low, high = folded[..., :width], folded[..., columns - width + 1 :]
    mirrored = xp.flip(high, axis=-1)
    turned = xp.concat([mirrored[..., :1, :], xp.flip(mirrored[..., 1:, :], axis=-2)], axis=-2)
    return (low + xp.conj(turned)) * (1.0 / CELLS_PER_PIXEL**2)


@lru_cache(maxsize=32)
def _transfer(rows: int, columns: int, middle: int, oversampling: int) -> npt.NDArray[np.complex128]:
    """What turns a kernel's transform into the response of a pixel centre to light laid on cells.

    It moves the kernel's middle sample and the first cell (of the padded grid) to the origin, and divides by
    the transform of the quadratic spline, the cube of a cell's. The highest frequency, whose phase an even
    transform does not know, is left out; no survey PSF reaches it.
    """
    first = MARGIN_PIX + 0.25 + 1.0 / CELLS_PER_PIXEL  # of the first padded cell, in pixels before pixel 0
    sides = []
    for n, frequencies in ((rows, np.fft.fftfreq), (columns, np.fft.rfftfreq)):
        frequency = frequencies(oversampling * n, 1.0 / oversampling)
        phase = np.exp(2j * np.pi * frequency * (middle / oversampling + first))
        known = 2 * np.abs(frequency) * n < oversampling * n - 0.5
        sides.append(np.where(known, phase / np.sinc(frequency / CELLS_PER_PIXEL) ** 3, 0.0))
    return np.asarray(sides[0][:, None] * sides[1][None, :])


def _moved(shift: FloatArray, rows: int, columns: int, oversampling: int) -> npt.NDArray[np.complex128]:
    """Phases that move an image by (x, y) pixels in each band: (band, rows, columns)."""
    fy = np.fft.fftfreq(oversampling * rows, 1.0 / oversampling)
    fx = np.fft.rfftfreq(oversampling * columns, 1.0 / oversampling)
    turns = shift[:, 1, None, None] * fy[:, None] + shift[:, 0, None, None] * fx
    return np.asarray(np.exp(-2j * np.pi * turns))


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Let the C library keep what rays' temporaries free, once per process.

    glibc gives blocks beyond a threshold back to the system at once and faults them in again page by page, a
    third of the time spent here. The threshold rises to the largest block ever freed (at most 32 MiB): one
    such block, never touched, does it. Elsewhere this does nothing.
    """
    del [np.empty(31 * 2**20, dtype=np.uint8)][0]


def _alike(tasks: Sequence[ArcTask], at_once: int) -> Iterator[list[int]]:
    """Numbers of tasks that can share a batch, at most `at_once` together.

    Alike are tasks of the same stamp shape, pixel scale and kind of PSF, isothermal or not, of one part or
    of several: what is done for a stamp depends on the stamp, never on its company.
    """
    groups: dict[Any, list[int]] = {}
    for k, task in enumerate(tasks):
        frame, psf = task.frame, task.psf
        kind = (task.lens.gamma == ISOTHERMAL, len(task.source.parts) == 1)
        key = (frame.shape, frame.pixel_scale_arcsec, psf.grid, psf.oversampling, kind)
        groups.setdefault(key, []).append(k)
    for members in groups.values():
        for start in range(0, len(members), at_once):
            yield members[start : start + at_once]


def _to_numpy(values: Array) -> npt.NDArray[Any]:
    return np.asarray(values if isinstance(values, np.ndarray) else values.cpu())
