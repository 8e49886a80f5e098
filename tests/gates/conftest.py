import functools

import numpy as np
import pytest

from darkhaloscope.contracts.protocol import load_protocol
from darkhaloscope.gates.arrays import PairArrays
from darkhaloscope.survey.painting import paint_target
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.sky import draw_target, plan_bricks

SEED = 20


@pytest.fixture(scope="session")
def protocol():
    """Two repeats instead of ten: the tests ask what is found, not how narrow its interval is."""
    return load_protocol(overrides=["leakage_probe.repeats=2"])


@pytest.fixture(scope="session")
def hosts():
    """600 deflectors of the synthetic sky: pixels, white-equivalent sigma, centres."""
    priors = SkyPriors()
    brick = plan_bricks(SEED, 1, 0, priors=priors, anchors=0).to_pylist()[0]
    names = [f"{brick['brickname']}-lrg-{i:04d}" for i in range(600)]
    painted = [
        paint_target(SEED, draw_target(SEED, name, "lrg", None, brick=brick, priors=priors)) for name in names
    ]
    sigma = np.stack([1 / np.sqrt(np.maximum(c.invvar, 1e-6)) for c in painted])
    return {
        "names": np.array(names),
        "image": np.stack([c.image for c in painted]).astype(np.float32),
        "sigma": np.median(sigma[:, :, :8, :8], axis=(2, 3)).astype(np.float32),
        "x": np.array([c.x_center_pix for c in painted]),
        "y": np.array([c.y_center_pix for c in painted]),
    }


def radii(hosts, rows=slice(None)):
    lines, columns = np.mgrid[:64, :64]
    return np.hypot(columns - hosts["x"][rows, None, None], lines - hosts["y"][rows, None, None])


def paired(hosts, stamps=None, n=600, **known):
    image = hosts["image"][:n]
    return PairArrays.of(
        image if stamps is None else stamps[:n].astype(np.float32), image, hosts["names"][:n],
        keys=hosts["names"][:n], x_center=hosts["x"][:n], y_center=hosts["y"][:n], **known,
    )  # fmt: skip


@pytest.fixture(scope="session")
def pairs_of(hosts):
    """Pairs of the first n hosts from changed stamps."""
    return functools.partial(paired, hosts)


@pytest.fixture(scope="session")
def sham(hosts):
    return paired(hosts)


@pytest.fixture(scope="session")
def bright_core(hosts):
    """Planted: positives' cores, r < 5 px, brighter by a fifth."""
    gain = np.where(radii(hosts) < 5.0, 1.2, 1.0)[:, None]
    return paired(hosts, hosts["image"] * gain)


@pytest.fixture(scope="session")
def watermark(hosts):
    """Planted: one pixel of the core brighter by two sigma of the sky, in every band."""
    stamps = hosts["image"].copy()
    stamps[:, :, 33, 30] += 2 * hosts["sigma"]
    return paired(hosts, stamps)


@pytest.fixture(scope="session")
def arcs(hosts):
    """Toy arcs: half rings of random radius and angle around each host, with made-up truth columns."""
    n = len(hosts["names"])
    rng = np.random.default_rng(5)
    radius_pix, angle = rng.uniform(2.0, 9.5, n), rng.uniform(0, 2 * np.pi, n)
    lines, columns = np.mgrid[:64, :64]
    around = np.arctan2(lines - hosts["y"][:, None, None], columns - hosts["x"][:, None, None])
    ring = np.exp(-0.5 * ((radii(hosts) - radius_pix[:, None, None]) / 1.8) ** 2)
    ring *= np.clip(np.cos(around - angle[:, None, None]), 0, None)
    arc = (ring[:, None] * 2.5 * hosts["sigma"][:, :, None, None]).astype(np.float32)
    core = (radii(hosts) < 5.0)[:, None]
    snr = np.sqrt((arc**2 / hosts["sigma"][:, :, None, None] ** 2).sum(axis=(1, 2, 3)))
    snr_core = np.sqrt(((arc * core) ** 2 / hosts["sigma"][:, :, None, None] ** 2).sum(axis=(1, 2, 3)))
    kappa = (arc * core)[:, 1].sum(axis=(1, 2)) / arc[:, 1].sum(axis=(1, 2))
    return paired(
        hosts, hosts["image"] + arc, kappa=kappa, kappa_box=kappa, theta_e_arcsec=radius_pix * 0.26,
        arc_snr_mf=snr, arc_snr_mf_core=snr_core,
    )  # fmt: skip
