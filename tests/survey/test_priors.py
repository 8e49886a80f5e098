"""The priors: each number has a tag, each number does something, and draws follow what is declared."""

import numpy as np
import pytest
from scipy import stats

from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.errors import ConfigError
from darkhaloscope.survey.distributions import Counts, LogNormal, Normal, Rayleigh, Uniform
from darkhaloscope.survey.populations import Galaxy, Star
from darkhaloscope.survey.priors import SkyPriors, describe
from darkhaloscope.survey.sky import draw_target, plan_bricks

BRICK = {"brickname": "0591m305", "ra_deg": 59.1, "dec_deg": -30.5, "release": "synthetic"}
GRID = np.linspace(-6, 6, 25)


def leaves(model, path=()):
    """Path of every field that is not itself a section."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        extra = field.json_schema_extra
        if isinstance(value, Frozen) and not (isinstance(extra, dict) and "tag" in extra):
            yield from leaves(value, (*path, name))
        elif name != "domain":
            yield (*path, name), value, extra


def test_every_number_of_the_sky_has_a_tag_a_basis_and_a_place():
    for path, _, extra in leaves(SkyPriors()):
        assert isinstance(extra, dict), path
        assert extra["tag"] in {"M", "S", "C", "A", "K"}, path
        assert extra["basis"], path
    rows = describe(SkyPriors())
    assert len(rows) == len(list(leaves(SkyPriors())))
    assert {"deflectors.z", "contaminants.spike.r", "noise.sigma_pix"} <= {row["path"] for row in rows}


def replaced(model, path, value):
    name, *rest = path
    new = value if not rest else replaced(getattr(model, name), rest, value)
    return model.model_copy(update={name: new})


def variants(value):
    """Values that differ in one number of a field each."""
    match value:
        case Normal(mean=m, sd=s):
            changes = {"mean": m + 0.5 * s, "sd": 0.5 * s, "low": m, "high": m}
        case LogNormal(median=m, sigma=s):
            changes = {"median": 1.2 * m, "sigma": 0.5 * s, "low": m, "high": m}
        case Uniform(low=a, high=b):
            changes = {"low": 0.5 * (a + b), "high": 0.5 * (a + b)}
        case Counts(slope=s, bright=a, faint=b):
            changes = {"slope": 0.5 * s, "bright": a + 1, "faint": b - 1}
        case Rayleigh(scale=s):
            changes = {"scale": 2 * s, "high": s}
        case tuple():
            return [(*value[:k], value[k] * 1.1, *value[k + 1 :]) for k in range(len(value))]
        case int():
            return [value + 2]
        case _:
            return [0.5 * value if abs(value) <= 1 else 1.15 * value]
    return [value.model_copy(update={k: v}) for k, v in changes.items()]


KINDS = {"discs": ("disc", None), "ring": ("contaminant", "ring"), "spiral": ("contaminant", "spiral")}
KINDS |= {"merger": ("contaminant", "merger"), "spike": ("contaminant", "spike")}


def described(priors, section):
    """Everything about a few dozen targets that this section of the priors can touch, piece by piece."""
    if section in {"footprint", "anchors", "discs"}:
        yield repr(plan_bricks(5, 40, 40, priors=priors).to_pydict())
    kind, category = KINDS.get(section, ("lrg", None))
    for k in range(90):
        target = draw_target(5, f"t{k}", kind, category, brick=BRICK, priors=priors)
        scene = target.scene
        seen = [
            target.row,
            target.full_well_e,
            scene.glare,
            scene.psf,
            scene.noise,
            scene.galaxies,
            scene.stars,
        ]
        for feature in scene.features:
            seen += [feature.flux, feature.ridge, feature.shape(GRID[None, :], GRID[:, None])]
        yield repr(seen)


@pytest.mark.slow
def test_every_number_of_the_sky_does_something():
    plain = SkyPriors()
    base, idle = {}, []
    for path, value, _ in leaves(plain):
        section = path[1] if path[0] == "contaminants" else path[0]
        if section not in base:
            base[section] = list(described(plain, section))
        for variant in variants(value):
            found = described(replaced(plain, path, variant), section)
            # Stops at the first piece that differs.
            if all(old == new for old, new in zip(base[section], found, strict=True)):
                idle.append((".".join(path), variant))
    assert not idle


def sample(kind, n=500, priors=None):
    priors = priors or SkyPriors()
    return [draw_target(9, f"s{k}", kind, None, brick=BRICK, priors=priors) for k in range(n)]


def counts_cdf(prior):
    def cdf(m):
        low, high = 10 ** (prior.slope * prior.bright), 10 ** (prior.slope * prior.faint)
        return (10 ** (prior.slope * np.asarray(m)) - low) / (high - low)

    return cdf


def truncated(prior, shift=0.0):
    a, b = (prior.low - prior.mean - shift) / prior.sd, (prior.high - prior.mean - shift) / prior.sd
    return stats.truncnorm(a, b, loc=prior.mean + shift, scale=prior.sd).cdf


def test_draws_follow_the_declared_distributions_and_not_a_shifted_one():
    priors = SkyPriors()
    discs, hosts = sample("disc"), sample("lrg")
    magnitudes = [22.5 - 2.5 * np.log10(t.row["flux_r"]) for t in discs]
    companions = [g for t in hosts for g in t.scene.galaxies if g.dx != 0.0]
    faint = [22.5 - 2.5 * np.log10(g.flux[1]) for g in companions]
    lognormal = priors.discs.radius
    log_radius = Normal(
        mean=np.log(lognormal.median),
        sd=lognormal.sigma,
        low=np.log(lognormal.low),
        high=np.log(lognormal.high),
    )
    cases = [
        ([t.row["z"] for t in discs], truncated(priors.discs.z), truncated(priors.discs.z, 0.06)),
        (
            magnitudes,
            counts_cdf(priors.discs.r),
            counts_cdf(priors.discs.r.model_copy(update={"slope": 0.2})),
        ),
        (np.log([t.row["shape_r"] for t in discs]), truncated(log_radius), truncated(log_radius, 0.18)),
        (
            [t.row["sersic"] for t in hosts],
            truncated(priors.deflectors.sersic_n),
            truncated(priors.deflectors.sersic_n, 0.4),
        ),
        (
            [t.row["light_q"] for t in hosts],
            truncated(priors.deflectors.q),
            truncated(priors.deflectors.q, 0.06),
        ),
        (
            faint,
            counts_cdf(priors.companions.r),
            counts_cdf(priors.companions.r.model_copy(update={"slope": 0.5})),
        ),
    ]
    for values, right, wrong in cases:
        assert stats.kstest(values, right).pvalue > 1e-3
        assert stats.kstest(values, wrong).pvalue < 1e-3


def test_companions_and_stars_have_their_density():
    hosts, priors = sample("lrg"), SkyPriors()
    area = ((64 * 0.262 + 4.0) ** 2 - np.pi * 2.0**2) / 3600
    n = sum(isinstance(g, Galaxy) and g.dx != 0.0 for t in hosts for g in t.scene.galaxies)
    assert n == pytest.approx(500 * area * priors.companions.per_arcmin2, rel=4 / np.sqrt(n))
    stars = sum(isinstance(s, Star) for t in hosts for s in t.scene.stars)
    expected = 500 * (64 * 0.262 / 60) ** 2 * priors.stars.per_arcmin2
    assert stars == pytest.approx(expected, abs=4 * np.sqrt(expected))
    near = [np.hypot(g.dx, g.dy) for t in hosts for g in t.scene.galaxies if g.dx != 0.0]
    assert min(near) >= 2.0


def test_bands_share_the_declared_part_of_their_scatter():
    hosts, priors = sample("lrg", 800), SkyPriors()
    size = np.log([t.scene.psf.size_arcsec for t in hosts])
    depth = np.log([t.scene.noise.sigma_pix for t in hosts])
    assert np.median(size, axis=0) == pytest.approx(np.log(priors.psf.size_arcsec), abs=0.02)
    assert np.corrcoef(size.T)[0, 1] == pytest.approx(0.6, abs=0.09)
    assert np.corrcoef(depth.T)[1, 2] == pytest.approx(0.7, abs=0.08)
    assert depth.std(axis=0) == pytest.approx(0.28, abs=0.03)


def test_a_range_that_leaves_nothing_is_an_error_not_a_loop():
    with pytest.raises(ConfigError, match="next to no probability"):
        Normal(mean=0.0, sd=1.0, low=50.0, high=51.0).draw(np.random.default_rng(1))
    with pytest.raises(ConfigError, match="next to no probability"):
        Rayleigh(scale=1.0, high=1e-6).draw(np.random.default_rng(1))
    narrow = replaced(SkyPriors(), ("deflectors", "r_range"), Uniform(low=2.0, high=2.1))
    with pytest.raises(ConfigError, match="next to nothing"):
        draw_target(1, "t", "lrg", None, brick=BRICK, priors=narrow)
