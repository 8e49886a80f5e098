"""A finder whose selection function is known: injections, and what it finds of them."""

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from darkhaloscope.contracts.measured import HostDomain
from darkhaloscope.evaluation.recovery import Recovery

QUANTILES = norm.ppf((np.arange(200) + 0.5) / 200)


def truth(facts):
    """The finder's logit: rises with S/N, turns with theta_E over the seeing, deeper imaging helps."""
    return (
        -1.2
        + 2.2 * np.log(facts["arc_snr_mf"] / 12)
        - 1.2 * (facts["theta_e_over_fwhm"] - 1.2) ** 2
        + 0.5 * (facts["depth_r_mag"] - 23.8)
    )


def share(facts, cell_sd=0.0):
    """The probability of being found, over cells that differ by a normal logit."""
    return expit(truth(facts)[:, None] + cell_sd * QUANTILES).mean(axis=1)


def injections(rng, *, cells, per_cell=12, cell_sd=0.4, per_host=1, theta=None, host_sd=0.0):
    """Arcs in hosts of sky cells; each cell, and each host, is a little easier or harder than the last."""
    n = cells * per_cell
    cell, host = np.repeat(np.arange(cells), per_cell), np.arange(n) // per_host
    theta_e = rng.uniform(0.5, 2.5, n) if theta is None else theta(rng, n)
    magnitude = 26.0 + np.log10(rng.uniform(1e-2, 1.0, n)) / 0.3
    fwhm = rng.normal(1.2, 0.08, n)
    snr = 9.0 * 10 ** (-0.2 * (magnitude - 25.0)) * (1.2 / fwhm) * np.exp(rng.normal(0, 0.3, n))
    facts = {
        "theta_e_arcsec": theta_e,
        "arc_snr_mf": snr * theta_e**0.3,
        "theta_e_over_fwhm": theta_e / fwhm,
        "psf_fwhm_arcsec": fwhm,
        "depth_r_mag": rng.normal(23.8, 0.3, n),
        "source_mag_r": magnitude,
        "host_mag_r": rng.normal(19.5, 0.8, n),
    }
    logit = truth(facts) + cell_sd * rng.normal(size=cells)[cell] + host_sd * rng.normal(size=n)[host]
    return Recovery(
        rng.random(n) < expit(logit),
        np.array([f"h{i}" for i in host]),
        np.array([f"cell:{i}" for i in cell]),
        np.ones(n),
        facts,
        HostDomain.SIM,
    )
