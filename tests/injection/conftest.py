"""Simple hosts for injection tests: a smooth galaxy, a Moffat PSF, noise as the survey states it."""

import numpy as np
import pyarrow as pa
import pytest

from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.tables import STAMPS
from darkhaloscope.stamps.stamp import Stamp
from darkhaloscope.survey.noise import correlated_noise
from darkhaloscope.survey.profiles import paint_sersic
from darkhaloscope.survey.psf import convolve, moffat_kernel, n_eff
from darkhaloscope.survey.release import gain_from_noise

BANDS = "grz"
SIGMA_W = {"g": 0.0023 / 0.893, "r": 0.0033 / 0.893, "z": 0.0100 / 0.893}
COLOUR = {"g": 1.72, "r": 0.0, "z": -1.24}
FWHM = {"g": 1.29, "r": 1.18, "z": 1.11}


def make_host_row(index=0, seed=1, *, size=64, scatter=True, **changes):
    """One row of STAMPS: a deflector at the middle of the survey's priors, or scattered about it."""
    rng = stream(seed, "test/host", str(index))
    c, depth, seeing, r_mag = rng.standard_normal(4) if scatter else np.zeros(4)
    centre = (size - 1) / 2 + rng.uniform(-0.5, 0.5, 2)
    q, phi = float(np.clip(0.78 + 0.1 * c, 0.4, 1.0)), float(rng.uniform(0, np.pi))
    r_mag = 20.0 + 1.1 * r_mag
    image, invvar, psf, row = [], [], [], {}
    for band in BANDS:
        flux = 10 ** (0.4 * (22.5 - r_mag - COLOUR[band]))
        fwhm = FWHM[band] * np.exp(0.12 * seeing)
        sigma = SIGMA_W[band] * np.exp(0.28 * depth)
        kernel = moffat_kernel(fwhm / 1.06, 3.0, pixel_scale=0.262)
        light = paint_sersic(
            (size, size), x_pix=centre[0], y_pix=centre[1], pixel_scale=0.262, flux=flux,
            R_sersic=0.9, n_sersic=4.0, q=q, phi=phi,
        )  # fmt: skip
        light = convolve(light, kernel)
        gain = float(gain_from_noise(sigma, band=band, n_exposures=5))
        variance = sigma**2 + np.maximum(light, 0) / gain
        image.append(light + correlated_noise(np.sqrt(variance), rng))
        invvar.append(1 / variance)
        psf.append(kernel)
        row |= {
            f"flux_{band}": flux, f"psfsize_{band}": fwhm, f"nexp_{band}": 5,
            f"psfdepth_{band}": 1 / (sigma**2 * n_eff(kernel)),
        }  # fmt: skip
    stamp = Stamp(
        image=np.asarray(image, np.float32),
        invvar=np.asarray(invvar, np.float32),
        mask=np.zeros((size, size), np.int32),
        psf=np.asarray(psf, np.float32),
        x_center_pix=centre[0],
        y_center_pix=centre[1],
        pixel_scale_arcsec=0.262,
    )
    row |= stamp.to_row() | {
        "target_id": f"host-{index:05d}", "host_id": f"host-{index:05d}", "kind": "lrg", "host_domain": "sim",
        "release": "test", "brickname": "0000p000", "ra_deg": 10.0, "dec_deg": -5.0,
        "cell": 7, "group": "cell:7",
        "z": float(np.clip(0.55 + 0.15 * c, 0.16, 0.94)), "sigma_v_kms": 235.0, "type": "SER",
        "light_q": q, "light_phi_rad": phi, "psf_source": "model", "noise_source": "model",
    }  # fmt: skip
    return row | changes


@pytest.fixture(scope="session")
def host_row():
    return make_host_row


@pytest.fixture(scope="session")
def hosts():
    """A table of n scattered hosts, made once for the session."""
    made = {}

    def table(n=4, **changes) -> pa.Table:
        for i in range(n):
            if i not in made:
                made[i] = make_host_row(i)
        return STAMPS.conform([made[i] | changes for i in range(n)])

    return table
