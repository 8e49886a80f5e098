"""A made-up piece of sky in the Legacy Surveys' own layout: bricks of coadds, compressed as the survey's are.

python -m benchmarks.mirror FOLDER [--bricks N] [--side PIXELS]

Images and inverse variances are Rice-compressed floats in tiles of 100 × 100 pixels with subtractive dither,
counts and mask bits H-compressed integers, PSF sizes gzipped floats. Sources are round Gaussians whose
pixel-averaged light is exact, so that a centre can be checked to a thousandth of a pixel.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from scipy.special import erf

from darkhaloscope.contracts.random import stream
from darkhaloscope.survey.brick_grid import Bricks, brick_of
from darkhaloscope.survey.release import PIXEL_SCALE_ARCSEC

SIDE = 3600
SIGMA_NMGY: Mapping[str, float] = {"g": 0.0028, "r": 0.0042, "i": 0.008, "z": 0.0125}
FWHM_ARCSEC: Mapping[str, float] = {"g": 1.29, "r": 1.18, "i": 1.15, "z": 1.11}
TILE = (100, 100)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a brick: files left out, rows of the image without exposure, masked columns."""

    without: Sequence[str] = ()
    empty_rows: Mapping[str, slice] = field(default_factory=dict)
    mask: tuple[slice, slice, int] | None = None
    drversio: int | None = None


def brick_wcs(ra_deg: float, dec_deg: float, side: int = SIDE) -> WCS:
    """The survey's tangent plane of a brick: its centre in the middle, east to the left."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra_deg, dec_deg]
    wcs.wcs.crpix = [0.5 * side + 0.5] * 2
    step = PIXEL_SCALE_ARCSEC / 3600.0
    wcs.wcs.cd = [[-step, 0.0], [0.0, step]]
    wcs.wcs.set()
    return wcs


def write_brick(
    root: Path,
    ra_deg: float,
    dec_deg: float,
    *,
    region: str = "south",
    drversio: int = 10000,
    bands: str = "grz",
    side: int = SIDE,
    targets: int = 0,
    flux_nmgy: float = 100.0,
    seed: int = 1,
    suffix: str = ".fits.fz",
    noise: bool = True,
    fault: Fault = Fault(),
) -> tuple[str, np.ndarray, np.ndarray]:
    """Write the brick at a position; returns its name, and the positions of its sources [deg].

    Sources lie in the brick's primary area where that is smaller than the image, else 40 pixels inside.
    """
    brick = brick_of(ra_deg, dec_deg)
    name, wcs = str(brick.name[0]), brick_wcs(float(brick.ra_deg[0]), float(brick.dec_deg[0]), side)
    rng = stream(seed, "mirror", name)
    inside = min(side - 80, round(0.25 * 3600.0 / PIXEL_SCALE_ARCSEC) - 4)
    x, y = 0.5 * (side - 1) + inside * (rng.random((2, targets)) - 0.5)
    ra, dec = wcs.pixel_to_world_values(x, y)
    folder = root / region / "coadd" / name[:3] / name
    folder.mkdir(parents=True, exist_ok=True)
    header = _header(wcs, brick, drversio if fault.drversio is None else fault.drversio)
    scene = _Scene(side, x, y, flux_nmgy, noise)
    for kind, band, plane in _planes(rng, scene, bands, fault):
        stem = f"legacysurvey-{name}-{kind}" + (f"-{band}" if band else "")
        if stem.split("-", 2)[2] not in fault.without:
            _write(folder / f"{stem}{suffix}", (kind, band, plane), header, seed)
    return name, np.asarray(ra), np.asarray(dec)


Plane = tuple[str, str, np.ndarray]


def _planes(rng: np.random.Generator, scene: "_Scene", bands: str, fault: Fault) -> Iterator[Plane]:
    """Kind, band and pixels of every coadd of a brick."""
    shape = (scene.side, scene.side)
    for band in bands:
        sigma = SIGMA_NMGY[band]
        image = scene.light(band)
        if scene.noise:
            image += rng.normal(0.0, sigma, shape).astype("f4")
        invvar = (rng.normal(1.0, 0.02, shape) / sigma**2).astype("f4")
        counts = np.full(shape, 3, dtype=np.int16)
        if band in fault.empty_rows:
            for plane in (image, invvar, counts):
                plane[fault.empty_rows[band]] = 0
        yield "image", band, image
        yield "invvar", band, invvar
        yield "nexp", band, counts
        yield "psfsize", band, np.full(shape, FWHM_ARCSEC[band], dtype="f4")
    maskbits = np.zeros(shape, dtype=np.int32)
    if fault.mask is not None:
        maskbits[fault.mask[0], fault.mask[1]] = fault.mask[2]
    yield "maskbits", "", maskbits


@dataclass(frozen=True, eq=False)
class _Scene:
    """Equal round sources on an empty sky."""

    side: int
    x: np.ndarray
    y: np.ndarray
    flux_nmgy: float
    noise: bool

    def light(self, band: str) -> np.ndarray:
        image = np.zeros((self.side, self.side), "f4")
        sigma = FWHM_ARCSEC[band] / PIXEL_SCALE_ARCSEC / 2.3548
        for x, y in zip(self.x, self.y, strict=True):
            _add_source(image, x, y, sigma, self.flux_nmgy)
        return image


def _add_source(image: np.ndarray, x: float, y: float, sigma: float, flux: float) -> None:
    half = int(np.ceil(7.0 * sigma))
    x0, y0 = round(x), round(y)
    rows = slice(max(y0 - half, 0), min(y0 + half + 1, image.shape[0]))
    columns = slice(max(x0 - half, 0), min(x0 + half + 1, image.shape[1]))
    profile = [_shares(np.arange(s.start, s.stop), c, sigma) for s, c in ((rows, y), (columns, x))]
    image[rows, columns] += flux * np.outer(*profile)


def _shares(pixels: np.ndarray, centre: float, sigma: float) -> np.ndarray:
    edges = (np.append(pixels, pixels[-1] + 1) - 0.5 - centre) / (np.sqrt(2.0) * sigma)
    return 0.5 * np.diff(erf(edges))


def _header(wcs: WCS, brick: Bricks, drversio: int) -> fits.Header:
    header = wcs.to_header()
    for key in [k for k in header if k.startswith(("PC", "CDELT", "CUNIT"))]:
        del header[key]
    for key, value in zip(("CD1_1", "CD1_2", "CD2_1", "CD2_2"), wcs.wcs.cd.ravel(), strict=True):
        header[key] = float(value)
    header["BRICK"], header["BRICKID"] = str(brick.name[0]), int(brick.brickid[0])
    header["DRVERSIO"] = drversio
    return header


def _write(path: Path, coadd: Plane, header: fits.Header, seed: int) -> None:
    kind, band, plane = coadd
    header = header.copy()
    if band:
        header["BAND"] = band
    header["IMTYPE"] = kind
    units = {"image": "nanomaggy", "invvar": "1/nanomaggy^2", "psfsize": "arcsec"}
    if kind in units:
        header["BUNIT"] = units[kind]
    if path.name.endswith(".fz"):
        unit = fits.CompImageHDU(plane, header, tile_shape=TILE, **_compression(kind, seed))
        fits.HDUList([fits.PrimaryHDU(), unit]).writeto(path, overwrite=True)
    else:
        fits.PrimaryHDU(plane, header).writeto(path, overwrite=True)


def _compression(kind: str, seed: int) -> dict[str, object]:
    if kind in ("image", "invvar"):
        dither = {"quantize_method": 2, "dither_seed": seed}
        return {"compression_type": "RICE_1", "quantize_level": 16.0, **dither}
    if kind == "psfsize":
        return {"compression_type": "GZIP_1", "quantize_level": 0.0}
    return {"compression_type": "HCOMPRESS_1"}


def write_mirror(root: Path, bricks: int, *, targets: int, side: int = SIDE, seed: int = 1) -> list[tuple]:
    """Bricks side by side along declination -30; a list of (name, ra, dec)."""
    return [
        write_brick(root, 40.0 + 0.29 * k, -30.0, targets=targets, side=side, seed=seed)
        for k in range(bricks)
    ]


def main() -> None:
    """Write a mirror."""
    parser = argparse.ArgumentParser(description="Write a made-up mirror of coadds.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bricks", type=int, default=20)
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--targets", type=int, default=500)
    args = parser.parse_args()
    lines = ["ra,dec,brickname"]
    for name, ra, dec in write_mirror(args.folder, args.bricks, targets=args.targets, side=args.side):
        lines += [f"{a:.8f},{d:.8f},{name}" for a, d in zip(ra, dec, strict=True)]
    (args.folder / "targets.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
