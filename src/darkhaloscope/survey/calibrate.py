"""What a user's own cutouts say about their noise, their sky and their artefacts.

The numbers that `injection.nuisance` randomises are assumed until somebody measures them: `calibrate_files`
does, and `Calibration.to_yaml` writes what it found as a section of an experiment file, each rate with the
files and the number of stamps behind it. What cannot be measured is NOT_EVALUATED and says why.

**Stamps.** Rates are per stamp. A cutout is divided into tiles of about a stamp's size, and a tile is what is
counted; for cosmic rays, whose number goes with the area, as so many stamps as it is large. Intervals are
95 %: of shares Jeffreys', of everything else percentiles over resampled cutouts (over tiles where there are
fewer than `FEWEST` cutouts: then neighbours are taken as independent).

Images are (band, y, x), bands g r z, in nmgy; positions 0-based; sigma_pix is the rms of blank pixels.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.stats import Estimate, binomial, clustered_binomial, upper_bound_no_hits
from darkhaloscope.survey.cutouts import read_real_pixels
from darkhaloscope.survey.noise import pixel_rms_ratio
from darkhaloscope.survey.photometry import (
    MAD_TO_STD,
    blank_pixels,
    blank_sigma_w,
    invvar_from_blank,
)
from darkhaloscope.survey.psf import measure_fwhm
from darkhaloscope.survey.release import BANDS, MASK_BITS, PIXEL_SCALE_ARCSEC

Numbers = NDArray[np.float64]
Bool = NDArray[np.bool_]

STAMP_PIX = 64
"""Side of the stamp that rates are given for [pix]."""

FEWEST = 8
"""Cutouts, or tiles, below which there is no interval."""

LAGS: tuple[tuple[str, int, int], ...] = (
    *((f"x{k}", 0, k) for k in (1, 2, 3)),
    *((f"y{k}", k, 0) for k in (1, 2, 3)),
    ("d11", 1, 1),
)
"""Name, lag in y and lag in x of the autocorrelations measured."""

SHARPEST_PSF_PIX = 2.8
"""FWHM below which a star may be as sharp as a cosmic ray's track [pix]."""

_FEWEST_BLANK = 200
_BRIGHT_SIGMA = 4.5  # of the smoothed band itself
_CLIP_SIGMA = 4.0  # beyond it: what is left of sources, which would correlate over any lag
_CHECKER_PIX = 8  # side of the squares that are dealt in turn to two halves of the blank pixels
_DEAD_SHARE = 0.10  # a cutout with more dead pixels says nothing of its noise
_LINE_SHARE = 0.90
_WHOLE_SHARE = 0.99
_N_BOOT = 400
_MOST_AT_ONCE = 500_000  # numbers resampled together: 4 MB

_LOCAL_PIX = 21  # side of the square in which the noise is compared with what was expected
_RAY_PIXEL_SIGMA = 2.5
_RAY_PEAK_SIGMA = 4.5
_RAY_FEWEST_PIX = 3
_RAY_FLANKS = 0.30  # flanks over ridge: 0 to .2 for a track of one or two pixels
_PSF_FLANKS = 0.45  # .5 and more for the sharpest PSF
_RAY_SURE_SIGMA = 3.0  # by which the flanks must be darker than a PSF's
_RAY_OTHER_SIGMA = 3.0
_RAY_OTHER_SHARE = 0.1

TRACK_LENGTH_PIX = (3.0, 25.0)
TRACK_PEAK_SIGMA = (5.0, 50.0)
"""Tracks whose rate is given: lengths uniform, peaks log-uniform, as `injection.nuisance` draws them."""

_MOST_PLANTED = 400
_EIGHT = np.ones((3, 3), dtype=np.bool_)
_AROUND = (np.indices((9, 9)).sum(axis=0) % 2 == 0)[None]  # every other pixel of 9 x 9 does, in half the time


class HasPixels(Protocol):
    """What can be measured: a stamp, `Patch`, `survey.cutouts.RealPixels`. `mask` and `psf` are optional."""

    @property
    def image(self) -> NDArray[Any]:
        """(band, y, x) [nmgy]."""

    @property
    def invvar(self) -> NDArray[Any] | None:
        """White-equivalent inverse variance [1/nmgy^2], shaped like image."""

    @property
    def pixel_scale_arcsec(self) -> float:
        """[arcsec/pix]."""

    @property
    def where(self) -> str:
        """What an error calls it."""


@dataclass(frozen=True, eq=False)
class Patch:
    """Pixels of one's own: image [nmgy], invvar [1/nmgy^2], mask bits (y, x)."""

    image: NDArray[Any]
    invvar: NDArray[Any] | None = None
    mask: NDArray[Any] | None = None
    pixel_scale_arcsec: float = PIXEL_SCALE_ARCSEC
    where: str = "patch"


class Quantity(Frozen):
    """One measured number with its 95 % interval; or none, and why."""

    name: str
    what: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = ""
    method: str = ""
    status: Status = Status.NOT_EVALUATED
    detail: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name}: {self.status} (n={self.n}): {self.detail}"
        unit = f" {self.unit}" if self.unit else ""
        between = "no interval" if self.low is None else f"[{self.low:.3g}, {self.high:.3g}]"
        tail = f": {self.detail}" if self.detail else ""
        return f"{self.name} = {self.value:.4g}{unit} {between} (n={self.n}){tail}"


class FileRead(Frozen):
    """A file that was measured."""

    name: str
    sha256: str
    n_cutouts: int


class Calibration(Frozen):
    """Everything measured on a set of cutouts.

    n_stamps    tiles of about stamp_pix on a side that rates are counted in
    """

    files: tuple[FileRead, ...] = ()
    n_cutouts: int
    n_stamps: int
    stamp_pix: int
    quantities: tuple[Quantity, ...]

    def __getitem__(self, name: str) -> Quantity:
        """A quantity by name. DataError for a name that is not there."""
        for quantity in self.quantities:
            if quantity.name == name:
                return quantity
        have = ", ".join(q.name for q in self.quantities)
        raise DataError("calibration", f"holds no '{name}'", f"has {have}")

    def __str__(self) -> str:
        return "\n".join([self.source, *map(str, self.quantities)])

    @property
    def source(self) -> str:
        """What was measured, in one line: files with their hashes, cutouts, stamps."""
        named = [f"{f.name} sha256:{f.sha256[:16]}" for f in self.files[:3]] or ["arrays in memory"]
        if len(self.files) > len(named):
            every = hashlib.sha256("".join(f.sha256 for f in self.files).encode()).hexdigest()
            named.append(f"{len(self.files) - len(named)} more (sha256 of all hashes: {every[:16]})")
        return f"{', '.join(named)}: {self.n_cutouts} cutouts, {self.n_stamps} stamps of {self.stamp_pix} pix"

    def to_yaml(self) -> str:
        """A section of an experiment file: what was measured in place of what was assumed.

        A rate of which no case was found is written as a comment with its upper bound: where the default lies
        below the bound, these cutouts do not speak against it.
        """
        imaging, silent = self._imaging()
        lines = ["# Measured by `dhs survey calibrate` on the files named below.", f"# {self.source}"]
        lines += [f"#   {f.name} sha256:{f.sha256} ({f.n_cutouts} cutouts)" for f in self.files]
        lines += [f"# {quantity}" for quantity in self.quantities]
        body = yaml.safe_dump({"recipe": {"imaging": imaging}}, sort_keys=False, width=100_000)
        kept = [f"    # {line}" for line in silent]
        return "\n".join([*lines, body.rstrip("\n"), *kept]) + "\n"

    def _imaging(self) -> tuple[dict[str, Any], list[str]]:
        """Fields of `injection.nuisance.Nuisances` that were measured, and a line for each that was not."""
        found: dict[str, Any] = {}
        silent = []
        ratio, scatter = self["noise_ratio"], self["noise_ratio_scatter"]
        if ratio.value is not None and scatter.value is not None:
            mean, sd = ratio.value, scatter.value
            reach = max(5.0 * sd, 0.01)
            found["noise_ratio"] = {
                "mean": _short(mean),
                "sd": _short(sd),
                "low": _short(mean - reach),
                "high": _short(mean + reach),
            }
        for name in ("sky_offset", "sky_gradient"):
            value = self[name].value
            if value is not None:
                found[name] = _short(value)
        for quantity in self.quantities:
            field = _RATE_FIELDS.get(quantity.name)
            if field is None:
                continue
            if quantity.value:
                between = f"95 % interval {quantity.low:.3g} to {quantity.high:.3g}"
                measured = f"{quantity.detail}, {between}; {self.source}"
                found[field] = {"per_stamp": _short(quantity.value), "measured": measured}
            elif quantity.value is None:
                silent.append(f"{field}: {quantity.status}: {quantity.detail}")
            else:
                silent.append(f"{field}: {quantity.detail}")
        return found, silent


_RATE_FIELDS = {
    "cosmic_ray_rate": "cosmic_ray_rate",
    "trail_rate": "trail_rate",
    "saturated_rate": "star_rate",
    "strip_rate": "strip_rate",
    "missing_band_rate": "missing_band_rate",
}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def calibrate_files(
    paths: Sequence[Path | str], pixel_scale: float | None = None, *, stamp_pix: int = STAMP_PIX
) -> Calibration:
    """Measure the cutouts in files (see `survey.cutouts` for their formats).

    pixel_scale   [arcsec/pix], for files that do not say; by default the survey's

    Raises DataError naming the file for one that cannot be read: none is left out in silence.
    """
    files: list[FileRead] = []

    def read() -> Iterator[HasPixels]:
        for path in map(Path, paths):
            n = 0
            for cutout in read_real_pixels(path, pixel_scale=pixel_scale):
                n += 1
                yield cutout
            files.append(FileRead(name=path.name, sha256=_sha256(path), n_cutouts=n))

    found = measure_cutouts(read(), stamp_pix=stamp_pix)
    return found.model_copy(update={"files": tuple(files)})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure_cutouts(cutouts: Iterable[HasPixels], *, stamp_pix: int = STAMP_PIX) -> Calibration:
    """Measure noise, sky and artefacts of cutouts; one is held in memory at a time.

    stamp_pix   side of the stamp that rates are given for [pix]

    Raises DataError where there is no cutout, or one whose arrays do not fit together.
    """
    tiles = [tile for k, cutout in enumerate(cutouts) for tile in _tiles(cutout, k, stamp_pix)]
    if not tiles:
        raise DataError("calibration", "there is no cutout to measure")
    quantities = (
        *_correlations(tiles),
        *_noise(tiles),
        *_band_correlations(tiles),
        *_backgrounds(tiles),
        *_rates(tiles),
    )
    return Calibration(
        n_cutouts=len({tile.cutout for tile in tiles}),
        n_stamps=len(tiles),
        stamp_pix=stamp_pix,
        quantities=quantities,
    )


@dataclass(frozen=True, eq=False)
class _Noise:
    """What the blank pixels of a tile say, per band.

    products   (band, lag) mean product of pixels a lag apart, unit variance
    rms        (band,) [nmgy]
    ratio      (half, band) sigma_pix/sigma_w of either half of the pixels; None without invvar
    cross      correlation of the pairs of bands
    offset     (half, band) median [sigma_pix]
    slope      (half, band, 2) along x and y, across a stamp [sigma_pix]
    """

    products: Numbers
    rms: Numbers
    ratio: Numbers | None
    cross: Numbers
    offset: Numbers
    slope: Numbers


@dataclass(frozen=True, eq=False)
class _Tile:
    """One tile of a cutout: its noise if it has any blank sky, and what was found on it.

    stamps      its area over a stamp's
    rays        per band: tracks found; None where none were looked for
    planted     whether a track put there on purpose was found again; None where there was none
    saturated   None without mask bits
    strip, missing    a band has a dead column or row; a band is dead all over
    """

    cutout: int
    stamps: float
    noise: _Noise | None
    rays: tuple[int, ...] | None
    planted: bool | None
    no_rays_because: str
    saturated: bool | None
    strip: bool
    missing: bool
    knows_losses: bool


def _tiles(cutout: HasPixels, number: int, stamp_pix: int) -> list[_Tile]:
    image, invvar, mask = _checked(cutout)
    dead = _dead(image, invvar, mask)
    cuts = [
        (slice(a, b), slice(c, d))
        for a, b in _spans(image.shape[1], stamp_pix)
        for c, d in _spans(image.shape[2], stamp_pix)
    ]
    noises: list[_Noise | None] = [None] * len(cuts)
    rays: list[tuple[int, ...] | None] = [None] * len(cuts)
    planted: list[bool | None] = [None] * len(cuts)
    why = "too many pixels are dead"
    if dead.mean(axis=(1, 2)).max() <= _DEAD_SHARE:
        usable = np.where(dead, 0.0, image)
        # A cutout may be of blank sky, where there is no galaxy to find: the middle will do.
        middle = 0.5 * (image.shape[2] - 1), 0.5 * (image.shape[1] - 1)
        blank = blank_pixels(usable, *middle, cutout.pixel_scale_arcsec)
        seen = _blank_by_the_others(usable, middle, cutout.pixel_scale_arcsec) & ~dead
        noises = [_tile_noise(image, invvar, seen, cut, stamp_pix) for cut in cuts]
        sigma, why = _expected_noise(cutout, usable, invvar, blank)
        if sigma is not None:
            off = dead if mask is None else dead | ((mask & _SATURATED) != 0)
            found = find_tracks(usable, sigma, off)
            rays = [tuple(_count(points, cut) for points in found) for cut in cuts]
            if number * len(cuts) < _MOST_PLANTED:
                planted = [*_found_again(usable, sigma, off, cuts, f"cutout {number}")]
    return [
        _Tile(
            cutout=number,
            stamps=dead[0][cut].size / stamp_pix**2,
            noise=noises[k],
            rays=rays[k],
            planted=planted[k],
            no_rays_because=why,
            saturated=None if mask is None else bool((mask[cut] & _SATURATED).any()),
            strip=_has_strip(dead[:, *cut]),
            missing=bool((dead[:, *cut].mean(axis=(1, 2)) >= _WHOLE_SHARE).any()),
            knows_losses=invvar is not None or mask is not None,
        )
        for k, cut in enumerate(cuts)
    ]


_SATURATED = sum(MASK_BITS[f"SATUR_{band.upper()}"] for band in BANDS)


def _checked(cutout: HasPixels) -> tuple[Numbers, Numbers | None, NDArray[Any] | None]:
    image = np.asarray(cutout.image, dtype=np.float64)
    if image.ndim != 3 or image.shape[0] != len(BANDS):
        raise DataError(cutout.where, f"has an image of shape {image.shape}", "needed: (3, y, x), g r z")
    invvar = None if cutout.invvar is None else np.asarray(cutout.invvar, dtype=np.float64)
    mask: NDArray[Any] | None = getattr(cutout, "mask", None)
    for name, array, shape in (("invvar", invvar, image.shape), ("mask", mask, image.shape[1:])):
        if array is not None and array.shape != shape:
            raise DataError(cutout.where, f"has {name} {array.shape} for an image {image.shape}")
    return image, invvar, mask


def _dead(image: Numbers, invvar: Numbers | None, mask: NDArray[Any] | None) -> Bool:
    """Pixels without a value: not finite, exactly zero, of no weight, or masked in their band."""
    dead = ~np.isfinite(image) | (image == 0.0)
    if invvar is not None:
        dead |= ~(invvar > 0.0)
    if mask is not None:
        for b, band in enumerate(BANDS):
            dead[b] |= (mask & MASK_BITS[f"ALLMASK_{band.upper()}"]) != 0
    return np.asarray(dead)


def _spans(length: int, stamp_pix: int) -> list[tuple[int, int]]:
    """First and last pixel of tiles of about a stamp's size."""
    edges = np.linspace(0, length, max(round(length / stamp_pix), 1) + 1).round().astype(int)
    return [(int(a), int(b)) for a, b in pairwise(edges)]


def _has_strip(dead: Bool) -> bool:
    """Whether a band has a dead column or row and is not dead all over."""
    for plane in dead:
        if plane.mean() >= _WHOLE_SHARE:
            continue
        if any((plane.mean(axis=axis) >= _LINE_SHARE).any() for axis in (0, 1)):
            return True
    return False


def _count(points: NDArray[np.intp], cut: tuple[slice, slice]) -> int:
    """Points (n, 2) as (y, x) that lie in a tile."""
    inside = [(points[:, k] >= s.start) & (points[:, k] < s.stop) for k, s in enumerate(cut)]
    return int((inside[0] & inside[1]).sum())


def _robust_rms(values: Numbers) -> float:
    return MAD_TO_STD * float(np.median(np.abs(values - np.median(values))))


def _blank_by_the_others(image: Numbers, middle: tuple[float, float], scale: float) -> Bool:
    """Blank pixels of each band, (band, y, x): where the other bands show nothing, and it nothing bright.

    Left to choose its own blank pixels, a band drops the highest of its noise and what is beside it: that
    would lower every correlation by .01.
    """
    blank = np.empty(image.shape, dtype=np.bool_)
    for b, plane in enumerate(image):
        dark = blank_pixels(np.delete(image, b, axis=0), *middle, scale)
        smooth = ndimage.gaussian_filter(plane, 1.5)
        level, sigma = float(np.median(smooth[dark])), _robust_rms(smooth[dark])
        blank[b] = dark & ~ndimage.binary_dilation(smooth > level + _BRIGHT_SIGMA * sigma, iterations=2)
    return blank


def _tile_noise(
    image: Numbers, invvar: Numbers | None, blank: Bool, cut: tuple[slice, slice], stamp_pix: int
) -> _Noise | None:
    """The noise of a tile; None where too few of its pixels are blank."""
    rows, columns = np.indices(blank[0][cut].shape)
    halves = (rows // _CHECKER_PIX + columns // _CHECKER_PIX) % 2
    unit, keep, rms = [], [], []
    for plane, dark in zip(image[:, *cut], blank[:, *cut], strict=True):
        if min((dark & (halves == h)).sum() for h in (0, 1)) < _FEWEST_BLANK // 2:
            return None
        level, sigma = float(np.median(plane[dark])), _robust_rms(plane[dark])
        if sigma <= 0.0:
            return None
        unit.append((plane - level) / sigma)
        keep.append(dark & (np.abs(unit[-1]) < _CLIP_SIGMA))
        rms.append(sigma * float(unit[-1][keep[-1]].std()))
    fields = np.where(keep, unit, 0.0)
    parts = [[kept & (halves == h) for kept in keep] for h in (0, 1)]
    raw = image[:, *cut]
    slopes = [[_slopes(raw[b], p, stamp_pix) / rms[b] for b, p in enumerate(part)] for part in parts]
    return _Noise(
        products=np.array([_products(f, k) for f, k in zip(fields, keep, strict=True)]),
        rms=np.array(rms),
        ratio=None if invvar is None else np.array([_ratios(raw, invvar[:, *cut], part) for part in parts]),
        cross=np.array([_product(fields[a], fields[b], keep[a] & keep[b]) for a, b in _PAIRS]),
        offset=np.array([[np.median(raw[b][p]) / rms[b] for b, p in enumerate(part)] for part in parts]),
        slope=np.array(slopes),
    )


_PAIRS = tuple(combinations(range(len(BANDS)), 2))


def _products(field: Numbers, keep: Bool) -> list[float]:
    """Autocorrelation at each lag."""
    height, width = field.shape
    mean = field.sum() / keep.sum()
    variance = float(((field - mean)[keep] ** 2).mean())
    found = []
    for _, dy, dx in LAGS:
        both = keep[: height - dy, : width - dx] & keep[dy:, dx:]
        a, b = field[: height - dy, : width - dx][both] - mean, field[dy:, dx:][both] - mean
        found.append(float((a * b).mean()) / variance)
    return found


def _product(one: Numbers, other: Numbers, both: Bool) -> float:
    return float(np.corrcoef(one[both], other[both])[0, 1])


def _ratios(image: Numbers, invvar: Numbers, parts: Sequence[Bool]) -> list[float]:
    """Rms of blank pixels in units of 1/sqrt(invvar), per band."""
    return [
        float(np.std((plane[p] - np.median(plane[p])) * np.sqrt(weight[p])))
        for plane, weight, p in zip(image, invvar, parts, strict=True)
    ]


def _slopes(plane: Numbers, part: Bool, stamp_pix: int) -> Numbers:
    """Slopes along x and y of the plane through some pixels, across a stamp [unit of the image]."""
    y, x = np.nonzero(part)
    design = np.stack([np.ones(len(x)), (x - x.mean()) / stamp_pix, (y - y.mean()) / stamp_pix], axis=1)
    solution = np.linalg.lstsq(design, plane[part], rcond=None)[0]
    return np.asarray(solution[1:])


def _expected_noise(
    cutout: HasPixels, image: Numbers, invvar: Numbers | None, blank: Bool
) -> tuple[Numbers | None, str]:
    """Rms expected of each pixel [nmgy], in which tracks can be looked for; or None and why they cannot."""
    psf = getattr(cutout, "psf", None)
    if psf is not None and min(measure_fwhm(kernel, 1.0) for kernel in psf) < SHARPEST_PSF_PIX:
        return None, f"the PSF is sharper than {SHARPEST_PSF_PIX} pixels: stars would look like tracks"
    sigma_w = blank_sigma_w(image, blank)
    if not np.all(sigma_w > 0.0):
        return None, "blank pixels have no noise"
    weight = invvar_from_blank(image, sigma_w, cutout.pixel_scale_arcsec) if invvar is None else invvar
    with np.errstate(divide="ignore"):
        return pixel_rms_ratio() / np.sqrt(np.maximum(weight, 0.0)), ""


def find_tracks(image: NDArray[Any], sigma_pix: NDArray[Any], dead: Bool) -> list[NDArray[np.intp]]:
    """Features that no sky has made: in one band only, and sharper than any PSF.

    image, sigma_pix   (band, y, x) [nmgy]
    dead               pixels near which nothing is looked for, (band, y, x)

    A candidate is three or more pixels that touch, each above 2.5 sigma over the median of its 9 x 9 pixels
    and one above 4.5; sigma is what was given or what the surroundings show, whichever is larger. It is a
    track if the other bands are dark there and it falls off on both sides at once: across its brightest pair
    of pixels, less than .3 of their light lies beside them, and less than a PSF's by 3 sigma. A PSF of FWHM
    2.8 pixels or more has half of it there (the contrast of van Dokkum 2001, made for tracks that resampling
    has left one or two pixels wide).

    Returns for each band the brightest pixels (n, 2) as (y, x).
    """
    height = _height(image, sigma_pix)
    near_dead = ndimage.binary_dilation(dead, structure=np.ones((1, 5, 5), dtype=np.bool_))
    found = []
    for b in range(len(BANDS)):
        lit = (height[b] > _RAY_PIXEL_SIGMA) & ~near_dead[b]
        labels, n = ndimage.label(lit, structure=_EIGHT)
        others = np.delete(height, b, axis=0)
        groups = _candidates(height[b], labels, n)
        tracks = [g for g in groups if _is_dark(others, height[b], g) and _is_sharp(height[b], g)]
        peaks = [g[np.argmax(height[b][g[:, 0], g[:, 1]])] for g in tracks]
        found.append(np.array(peaks, dtype=np.intp).reshape(-1, 2))
    return found


def _height(image: NDArray[Any], sigma_pix: NDArray[Any]) -> Numbers:
    """Pixels over the median of their surroundings, in units of the noise expected or seen there."""
    level = ndimage.median_filter(np.asarray(image, dtype=np.float64), footprint=_AROUND, mode="nearest")
    height = (image - level) / sigma_pix
    clipped = np.minimum(np.abs(height), 4.0)
    seen = ndimage.uniform_filter(clipped, size=(1, _LOCAL_PIX, _LOCAL_PIX), mode="nearest")
    # The mean of |h| of normal noise is .798 sigma, .786 when clipped there.
    return np.asarray(height / np.maximum(seen / 0.798, 1.0))


def _candidates(height: Numbers, labels: NDArray[Any], n: int) -> Iterator[NDArray[np.intp]]:
    """Pixels (m, 2) of each group that is large and bright enough."""
    if n == 0:
        return
    numbers = np.arange(1, n + 1)
    size = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    peak = ndimage.maximum(height, labels, numbers)
    boxes = ndimage.find_objects(labels)
    for k in numbers[(size >= _RAY_FEWEST_PIX) & (peak >= _RAY_PEAK_SIGMA)]:
        box = boxes[k - 1]
        yield np.argwhere(labels[box] == k) + [side.start for side in box]


def _is_dark(others: Numbers, height: Numbers, group: NDArray[np.intp]) -> bool:
    """Whether no other band shows the group: neither by its own noise nor by a tenth of the group's light."""
    y, x = group.T
    bound = max(_RAY_OTHER_SIGMA / np.sqrt(len(group)), _RAY_OTHER_SHARE * float(height[y, x].mean()))
    return bool((others[:, y, x].mean(axis=1) < bound).all())


def _is_sharp(height: Numbers, group: NDArray[np.intp]) -> bool:
    """Whether the light beside the ridge is dark, across one of the axes."""
    return _drops(height, group) or _drops(height.T, group[:, ::-1])


def _drops(height: Numbers, group: NDArray[np.intp]) -> bool:
    """Whether there is less light beside the brightest pair of pixels than any PSF puts there.

    Across y, summed over the columns of the group.
    """
    ridge, flank, columns = 0.0, 0.0, 0
    for x in np.unique(group[:, 1]):
        rows = group[group[:, 1] == x, 0]
        top = int(rows[np.argmax(height[rows, x])])
        if not 2 <= top < len(height) - 2:
            continue
        low = top if height[top + 1, x] > height[top - 1, x] else top - 1
        ridge += height[low, x] + height[low + 1, x]
        flank += height[low - 1, x] + height[low + 2, x]
        columns += 1
    noise = np.sqrt(2.0 * columns * (1.0 + _PSF_FLANKS**2))
    return bool(flank < _RAY_FLANKS * ridge and _PSF_FLANKS * ridge - flank > _RAY_SURE_SIGMA * noise)


def _found_again(
    image: Numbers, sigma: Numbers, dead: Bool, cuts: Sequence[tuple[slice, slice]], name: str
) -> Iterator[bool]:
    """Whether tracks planted on a cutout, one in a band of each tile, are found."""
    rng = stream(0, "survey/calibrate/planted", name)
    lit, planted = image.copy(), []
    for cut in cuts:
        b = int(rng.integers(len(BANDS)))
        cover = np.zeros(image.shape[1:])
        cover[cut] = track_cover(
            cover[cut].shape,
            x=rng.uniform(0.0, cover[cut].shape[1] - 1.0),
            y=rng.uniform(0.0, cover[cut].shape[0] - 1.0),
            angle=rng.uniform(0.0, np.pi),
            length_pix=rng.uniform(*TRACK_LENGTH_PIX),
        )
        peak = np.exp(rng.uniform(*np.log(TRACK_PEAK_SIGMA)))
        lit[b] += peak * float(np.median(sigma[b][np.isfinite(sigma[b])])) * cover
        planted.append((b, cover > 0.0))
    found = find_tracks(lit, sigma, dead)
    for b, where in planted:
        yield bool(where[found[b][:, 0], found[b][:, 1]].any())


def track_cover(shape: tuple[int, ...], *, x: float, y: float, angle: float, length_pix: float) -> Numbers:
    """A cosmic ray's track (y, x), brightest pixel 1: a line a pixel wide, anti-aliased, before any PSF."""
    dx, dy = np.arange(shape[1])[None, :] - x, np.arange(shape[0])[:, None] - y
    along = np.cos(angle) * dx + np.sin(angle) * dy
    across = np.cos(angle) * dy - np.sin(angle) * dx
    share = np.maximum(1.0 - np.hypot(np.maximum(np.abs(along) - 0.5 * length_pix, 0.0), across), 0.0)
    return np.asarray(share / share.max())


# From tiles to quantities


Statistic = Callable[[Numbers], Numbers]
"""Of samples (draw, row, …), one number for each draw."""


def _resampled(
    tiles: Sequence[_Tile], values: Numbers, statistic: Statistic, name: str
) -> tuple[float, float | None, float | None, str]:
    """(value, low, high, method) of a statistic of one row per tile, over resampled cutouts or tiles."""
    value = float(statistic(values[None])[0])
    _, owner = np.unique([tile.cutout for tile in tiles], return_inverse=True)
    by_cutout = int(owner.max()) + 1 >= FEWEST
    owner = owner if by_cutout else np.arange(len(tiles))
    m = int(owner.max()) + 1
    if m < FEWEST:
        return value, None, None, f"too few for an interval (fewer than {FEWEST} stamps)"
    chosen = stream(0, "survey/calibrate", name).integers(0, m, (_N_BOOT, m))
    draws = np.concatenate([statistic(values[rows]) for rows in _rows_of(chosen, owner, values.size)])
    low, high = np.percentile(draws, [2.5, 97.5])
    over = "cutouts" if by_cutout else "tiles, taken as independent"
    return value, float(low), float(high), f"bootstrap over {over}"


def _rows_of(chosen: NDArray[np.intp], owner: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    """Rows (draw, row) of the members chosen (draw, member): many draws at once where each has one row."""
    if len(owner) > chosen.shape[1]:
        members = [np.flatnonzero(owner == k) for k in range(chosen.shape[1])]
        for draw in chosen:
            yield np.concatenate([members[k] for k in draw])[None]
        return
    place = np.argsort(owner)
    step = max(_MOST_AT_ONCE // size, 1)
    for start in range(0, len(chosen), step):
        yield place[chosen[start : start + step]]


def _quantity(
    tiles: Sequence[_Tile],
    values: ArrayLike,
    statistic: Statistic,
    *,
    name: str,
    what: str,
    unit: str = "",
    detail: str = "",
) -> Quantity:
    value, low, high, method = _resampled(tiles, np.asarray(values), statistic, name)
    return Quantity(
        name=name,
        what=what,
        value=float(value),
        low=low,
        high=high,
        n=len(tiles),
        unit=unit,
        method=method,
        status=Status.PASS,
        detail=detail,
    )


def _mean(values: Numbers) -> Numbers:
    return np.asarray(values.mean(axis=1))


def _median(values: Numbers) -> Numbers:
    return np.asarray(np.median(values, axis=1))


def _true_scatter(values: Numbers) -> Numbers:
    """Scatter of (draw, row, half, …) that both halves of the pixels share: the noise of each is its own."""
    off = values - values.mean(axis=1, keepdims=True)
    draws, n = values.shape[:2]
    common = (off[:, :, 0] * off[:, :, 1]).reshape(draws, -1).mean(axis=1) * n / (n - 1)
    return np.asarray(np.sqrt(np.maximum(common, 0.0)))


_NO_BLANK = f"no stamp has {_FEWEST_BLANK} blank pixels"


def _with_noise(tiles: Sequence[_Tile]) -> tuple[list[_Tile], list[_Noise]]:
    chosen = [(tile, tile.noise) for tile in tiles if tile.noise is not None]
    return [tile for tile, _ in chosen], [noise for _, noise in chosen]


def _correlations(tiles: Sequence[_Tile]) -> list[Quantity]:
    quiet, noise = _with_noise(tiles)
    found = []
    for b, band in enumerate(BANDS):
        for k, (lag, dy, dx) in enumerate(LAGS):
            name = f"acf_{band}_{lag}"
            what = f"noise autocorrelation in {band}, {dx} pixels along x and {dy} along y"
            if not quiet:
                found.append(Quantity(name=name, what=what, detail=_NO_BLANK))
                continue
            values = [n.products[b, k] for n in noise]
            found.append(_quantity(quiet, values, _mean, name=name, what=what))
    return found


def _noise(tiles: Sequence[_Tile]) -> list[Quantity]:
    quiet, noise = _with_noise(tiles)
    weighed = [(tile, n.ratio) for tile, n in zip(quiet, noise, strict=True) if n.ratio is not None]
    found = []
    for b, band in enumerate(BANDS):
        name, what = f"sigma_pix_{band}", f"median over stamps of the rms of blank pixels in {band}"
        if not quiet:
            found.append(Quantity(name=name, what=what, detail=_NO_BLANK))
            continue
        values = [n.rms[b] for n in noise]
        found.append(_quantity(quiet, values, _median, name=name, what=what, unit="nmgy"))
    why = "the files hold no inverse variance" if quiet else _NO_BLANK
    names = [f"noise_ratio_{band}" for band in BANDS] + ["noise_ratio", "noise_ratio_scatter"]
    whats = [f"sigma_pix/sigma_w in {band}" for band in BANDS]
    whats += ["sigma_pix/sigma_w, all bands", "scatter of sigma_pix/sigma_w between stamps and bands"]
    if not weighed:
        return found + [Quantity(name=n, what=w, detail=why) for n, w in zip(names, whats, strict=True)]
    owners, ratios = [tile for tile, _ in weighed], np.array([ratio for _, ratio in weighed])
    for b in range(len(BANDS)):
        values = ratios[:, :, b].mean(axis=1)
        found.append(_quantity(owners, values, _mean, name=names[b], what=whats[b]))
    found.append(_quantity(owners, ratios.mean(axis=(1, 2)), _mean, name=names[-2], what=whats[-2]))
    if len(owners) < FEWEST:
        short = f"{len(owners)} stamps have an inverse variance, {FEWEST} are needed"
        return [*found, Quantity(name=names[-1], what=whats[-1], n=len(owners), detail=short)]
    return [*found, _quantity(owners, ratios, _spread_of_ratios, name=names[-1], what=whats[-1])]


def _spread_of_ratios(ratios: Numbers) -> Numbers:
    """Scatter of (draw, row, half, band) about the mean of all, between bands too, common to both halves."""
    off = ratios - ratios.mean(axis=(1, 2, 3), keepdims=True)
    return np.asarray(np.sqrt(np.maximum((off[:, :, 0] * off[:, :, 1]).mean(axis=(1, 2)), 0.0)))


def _band_correlations(tiles: Sequence[_Tile]) -> list[Quantity]:
    quiet, noise = _with_noise(tiles)
    found = []
    for k, (a, b) in enumerate(_PAIRS):
        name = f"band_correlation_{BANDS[a]}{BANDS[b]}"
        what = f"correlation of blank pixels between {BANDS[a]} and {BANDS[b]}"
        if quiet:
            found.append(_quantity(quiet, [n.cross[k] for n in noise], _mean, name=name, what=what))
        else:
            found.append(Quantity(name=name, what=what, detail=_NO_BLANK))
    return found


def _backgrounds(tiles: Sequence[_Tile]) -> list[Quantity]:
    quiet, noise = _with_noise(tiles)
    found = []
    whats = {
        "sky_offset": "scatter between stamps of the median of blank pixels",
        "sky_gradient": "scatter between stamps of the slope of blank pixels, across a stamp, each axis",
    }
    for name, what in whats.items():
        arrays = [n.offset if name == "sky_offset" else n.slope for n in noise]
        for tail, bands in (*((f"_{band}", [b]) for b, band in enumerate(BANDS)), ("", [0, 1, 2])):
            label = what + (f", {BANDS[bands[0]]}" if tail else ", all bands")
            if len(quiet) < FEWEST:
                short = f"{len(quiet)} stamps have blank sky, {FEWEST} are needed for a scatter"
                found.append(Quantity(name=name + tail, what=label, n=len(quiet), detail=short))
                continue
            values = np.array(arrays)[:, :, bands]
            found.append(
                _quantity(
                    quiet, values, _true_scatter, name=name + tail, what=label, unit="sigma_pix",
                    detail="noise taken out by two halves of the pixels",
                )
            )  # fmt: skip
    return found


def _rates(tiles: Sequence[_Tile]) -> list[Quantity]:
    groups = [tile.cutout for tile in tiles]
    masked = [tile for tile in tiles if tile.saturated is not None]
    losses = "" if all(t.knows_losses for t in tiles) else "; only zeros and NaN can be seen without a mask"
    found = [*_ray_rates(tiles), _trails()]
    what = "stamps with saturated pixels: a bright star on or beside them"
    if masked:
        lit = [bool(tile.saturated) for tile in masked]
        share = clustered_binomial(lit, [tile.cutout for tile in masked])
        found.append(_rate(share, sum(lit), "saturated_rate", what, "stamps"))
    else:
        found.append(Quantity(name="saturated_rate", what=what, detail="there are no mask bits"))
    for name, what, hits in (
        ("strip_rate", "stamps with a dead column or row in a band", [tile.strip for tile in tiles]),
        ("missing_band_rate", "stamps with a band that is dead all over", [tile.missing for tile in tiles]),
    ):
        found.append(_rate(clustered_binomial(hits, groups), sum(hits), name, what, f"stamps{losses}"))
    return found


def _trails() -> Quantity:
    why = (
        "a trail of 2 to 10 sigma per pixel is not told from an edge-on disc or a spike on so small an image"
    )
    return Quantity(name="trail_rate", what="stamps crossed by a satellite's trail", detail=why)


def _ray_rates(tiles: Sequence[_Tile]) -> list[Quantity]:
    """Tracks per stamp, band by band, and per stamp and band for all of them together.

    The share that the search finds is measured with tracks planted on the same cutouts, and n is multiplied
    by it.
    """
    searched = [tile.rays for tile in tiles if tile.rays is not None]
    planted = [tile.planted for tile in tiles if tile.planted is not None]
    what = "stamps with a feature sharper than the PSF in one band: a cosmic ray that survived"
    names = [*(f"cosmic_ray_rate_{band}" for band in BANDS), "cosmic_ray_rate"]
    again = (
        "tracks planted on the cutouts that the search finds: lengths and peaks as the nuisances draw them"
    )
    if not searched or not any(planted):
        why = "the search finds no planted track" if searched else tiles[0].no_rays_because
        return [
            Quantity(name=n, what=w, detail=why)
            for n, w in zip([*names, _AGAIN], [what] * 4 + [again], strict=True)
        ]
    share = _rate(binomial(sum(planted), len(planted)), sum(planted), _AGAIN, again, "planted tracks")
    efficiency = sum(planted) / len(planted)
    hits = np.array(searched) > 0
    stamps = efficiency * sum(tile.stamps for tile in tiles if tile.rays is not None)
    found = []
    for name, column in zip(names, (*hits.T, hits.ravel()), strict=True):
        k, n = int(column.sum()), stamps * column.size / len(hits)
        of = "stamps" if name != names[-1] else "stamps times bands"
        of += f" ({len(hits)} tiles, {efficiency:.0%} of planted tracks found)"
        found.append(_rate(binomial(k, max(n, k)), k, name, what, of, trials=n))
    return [*found, share.model_copy(update={"unit": ""})]


_AGAIN = "cosmic_ray_efficiency"


def _rate(share: Estimate, k: int, name: str, what: str, of: str, *, trials: float | None = None) -> Quantity:
    """A rate with its interval; with no case found, the bound that n stamps give: about 3/n.

    trials   effective number, where it is not that of the rows

    With no case, rows of one cutout say nothing of how alike they are: each cutout then counts once.
    """
    rows = share.n if k or share.n_clusters is None else share.n_clusters
    n = float(rows) if trials is None else trials
    of = of if k or share.n_clusters is None else of.replace("stamps", "cutouts", 1)
    low, high, method = share.low, share.high, share.method
    detail = f"{k} of {n:.4g} {of}"
    if k == 0:
        low, high = 0.0, upper_bound_no_hits(int(n))
        method = "upper bound for none found"
        detail = f"none in {n:.4g} {of}: 95 % upper bound 3/{n:.4g} = {min(3.0 / n, 1.0):.2g}"
    return Quantity(
        name=name,
        what=what,
        value=share.value,
        low=low,
        high=high,
        n=round(n),
        unit="1/stamp",
        method=method,
        status=Status.PASS,
        detail=detail,
    )
