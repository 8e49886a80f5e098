"""The checks of a pair, one row at a time, as one writes them with NumPy: the peer of `benchmarks.verify`."""

import io
from typing import Any, NamedTuple

import numpy as np

BLOBS = {"stamp_npz": "image", "ctrl_stamp_npz": "image", "arc_npz": "arc", "invvar_npz": "invvar"}
SHAPE = (3, 64, 64)
MIDDLE = np.arange(64) - 31.5
APERTURE = np.hypot(MIDDLE, MIDDLE[:, None]) < 8.0


class Look(NamedTuple):
    """Names of the checks that a row breaks, and numbers measured on it."""

    faults: set[str]
    numbers: dict[str, float]


def load(blob: bytes, prefix: str) -> np.ndarray:
    """Planes by numpy.load."""
    with np.load(io.BytesIO(blob), allow_pickle=False) as planes:
        return np.stack([planes[f"{prefix}_{band}"] for band in "grz"])


def looked_at(row: dict[str, Any]) -> Look:
    """Everything that is checked on one row."""
    try:
        stamp, control, arc, invvar = (load(row[name], prefix) for name, prefix in BLOBS.items())
    except Exception:  # noqa: BLE001 - whatever a torn archive makes NumPy raise
        return Look({"pair_decodes"}, {})
    if any(cube.shape != SHAPE for cube in (stamp, control, arc, invvar)):
        return Look({"pair_shape"}, {})
    if not all(np.isfinite(cube).all() for cube in (stamp, control, arc, invvar)):
        return Look({"pair_finite"}, {})
    if min(stamp.var(axis=(1, 2)).min(), control.var(axis=(1, 2)).min()) < 1e-10:
        return Look({"pair_variance"}, {})
    faults = set()
    if max(np.abs(stamp).max(), np.abs(control).max()) > 1e6:
        faults.add("pair_range")
    box = control[:, 22:42, 22:42]
    if ((box == box.max(axis=(1, 2), keepdims=True)).sum(axis=(1, 2)) >= 4).any():
        faults.add("pair_clipped")
    if ((control == 0) & (invvar > 0)).sum() >= 4:
        faults.add("pair_blank")
    numbers = _galaxy(row, control) | _signature(control[1], invvar[1])
    return Look(faults | _arc(row, stamp, control, arc, invvar, numbers), numbers)


def _galaxy(row: dict[str, Any], control: np.ndarray) -> dict[str, float]:
    corners = np.concatenate(
        [
            control[:, y, x].reshape(3, -1)
            for y in (slice(8), slice(-8, None))
            for x in (slice(8), slice(-8, None))
        ],
        axis=1,
    )
    sky = control - np.median(corners, axis=1)[:, None, None]
    numbers = {f"light_{band}": plane[APERTURE].sum() for band, plane in zip("grz", sky, strict=True)}
    x0, y0 = row["x_center_pix"], row["y_center_pix"]
    dx, dy = np.meshgrid(np.arange(24, 40) - x0, np.arange(24, 40) - y0)
    window = np.exp(-0.5 * (dx**2 + dy**2) / 4.0)
    for band, plane in zip("grz", sky, strict=True):
        light = plane[24:40, 24:40] * window
        total = light.sum()
        if total > 0:
            for axis, d in (("x", dx), ("y", dy)):
                first = (light * d).sum() / total
                second = (light * d**2).sum() / total - first**2
                numbers[f"{axis}_offset_{band}"] = first / max(1 - second / 4.0, 0.1)
    return numbers


def _signature(plane: np.ndarray, invvar: np.ndarray) -> dict[str, float]:
    from darkhaloscope.dataset.signatures import _directions  # noqa: PLC0415 - the same random directions

    sigmas = plane * np.sqrt(invvar)
    sigmas[np.abs(sigmas) >= 3] = 0
    blocks = np.clip(sigmas.reshape(16, 4, 16, 4).sum(axis=(1, 3)), -8, 8)
    np.packbits(blocks.ravel() @ _directions(64) > 0)
    return {}


def _arc(  # noqa: PLR0917 - a row's arrays
    row: dict[str, Any], stamp: np.ndarray, control: np.ndarray, arc: np.ndarray, invvar: np.ndarray,
    numbers: dict[str, float],
) -> set[str]:  # fmt: skip
    faults = set()
    identical = np.array_equal(stamp, control)
    weight = np.sqrt(np.maximum(invvar, 0))
    numbers["residual_sigmas"] = (np.abs(stamp - control - arc) * weight).max()
    if identical:
        faults.add("pair_identical")
    elif numbers["residual_sigmas"] > 8:
        faults.add("pair_residual")
    if (stamp != control)[arc == 0].any():
        faults.add("pair_control_identity")
    snr = arc * weight
    if ((snr != 0) & (snr < 0.99e-3)).any():
        faults.add("pair_footprint")
    for band, flux in zip("grz", arc.sum(axis=(1, 2)), strict=True):
        if not 0.4 < max(flux, 1e-30) / 10 ** (-0.4 * (row[f"lensed_mag_{band}"] - 22.5)) < 1.1:
            faults.add("pair_arc_flux")
    gain = np.array([row[f"gain_{band}"] for band in "grz"])[:, None, None]
    square = snr**2 / (1 - np.maximum(snr, 0) * weight / gain)
    numbers["arc_snr_found"], numbers["arc_snr_mf_found"] = np.sqrt(square[1].max()), np.sqrt(square.sum())
    for name in ("arc_snr", "arc_snr_mf"):
        declared = row[name]
        if declared is None or abs(numbers[f"{name}_found"] - declared) > 0.01 * max(declared, 1e-3):
            faults.add(f"pair_{name}")
    strata = [row[name] for name in ("theta_e_arcsec", "arc_snr", "arc_snr_mf", "psf_fwhm_arcsec")]
    if any(value is None or not value > 0 for value in strata) or row["kappa_r5"] is None:
        faults.add("pair_strata")
    return faults
