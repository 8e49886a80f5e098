"""The population of lenses: against integrals of the formula, against the page of priors, and as weights.

Everything the module tabulates is computed here once more with astropy's distances and scipy's integrals.
"""

import math
import subprocess
import sys

import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import integrate, stats

from darkhaloscope.contracts.config import fingerprint
from darkhaloscope.contracts.random import stream
from darkhaloscope.injection.population import (
    Population,
    VelocityDispersionFunction,
    comoving_distance,
    effective_sample_size,
    theta_e_sis,
)
from darkhaloscope.survey.distributions import normal, uniform
from darkhaloscope.survey.priors import Cosmology, Deflectors, SkyPriors

FLAT = FlatLambdaCDM(H0=70.0, Om0=0.3)
SIS = 4.0 * math.pi * (1000.0 / 299792.458) ** 2 * 206264.806
N_DRAWS = 20_000


def population(**dispersions):
    return Population(dispersions=VelocityDispersionFunction(**dispersions))


def draws(model, z_source, n=N_DRAWS, seed=3):
    """Redshift, dispersion, theta_E of n lenses: (3, n)."""
    rng = np.random.default_rng(seed)
    made = (model.draw(rng, z_source) for _ in range(n))
    return np.array([(d.z_lens, d.sigma_v_kms, d.theta_e_arcsec) for d in made]).T


class Formula:
    """p(z, sigma) as it is written down, on a grid of its own: Simpson's rule, astropy's distances."""

    def __init__(self, z_source, *, evolution=0.0, b=2.67, power=2.0):
        end = min(1.2, z_source)
        self.z = np.linspace(0.0, end, 301)
        chi = FLAT.comoving_distance(self.z).value
        self.ratio = np.clip(1.0 - chi / FLAT.comoving_distance(z_source).value, 0.0, 1.0)
        volume = FLAT.differential_comoving_volume(self.z).value
        self.p_z = self.unit(volume * (1.0 + self.z) ** evolution * self.ratio**power, self.z)
        self.sigma = np.linspace(100.0, 400.0, 601)
        s = self.sigma / 161.0
        self.p_sigma = self.unit(s ** (2.32 - 1.0 + 2.0 * power) * np.exp(-(s**b)), self.sigma)

    @staticmethod
    def unit(values, nodes):
        return values / integrate.simpson(values, x=nodes)

    def cdf_z(self, z):
        return np.interp(z, self.z, integrate.cumulative_simpson(self.p_z, x=self.z, initial=0.0))

    def cdf_sigma(self, sigma):
        share = integrate.cumulative_simpson(self.p_sigma, x=self.sigma, initial=0.0)
        return np.interp(sigma, self.sigma, share)

    def cdf_theta(self, theta, scatter=0.10):
        nodes = np.geomspace(0.02, 12.0, 200)
        # At the source's own redshift theta_E is zero, and so is what is counted.
        log_ratio = np.log(np.maximum(self.ratio, 1e-12))
        shift = np.log(SIS * (self.sigma / 1000.0) ** 2)
        share = np.empty(len(nodes))
        for k, value in enumerate(np.log(nodes)):
            below = stats.norm.cdf((value - shift[None, ::4] - log_ratio[:, None]) / scatter)
            of_z = integrate.simpson(below * self.p_sigma[::4], x=self.sigma[::4], axis=1)
            share[k] = integrate.simpson(of_z * self.p_z, x=self.z)
        return np.interp(theta, nodes, share)


@pytest.fixture(scope="module")
def formulas():
    made = {}

    def formula(z_source, **changes):
        key = (z_source, *sorted(changes.items()))
        return made.setdefault(key, Formula(z_source, **changes))

    return formula


# The page of priors, section 5.


@pytest.mark.parametrize(
    ("z_source", "evolution", "theta_e", "above", "z_lens"),
    [
        (1.5, 0.0, 0.61, (0.61, 0.21), 0.58),
        (2.0, 0.0, 0.66, (0.68, 0.24), 0.67),
        (1.5, -2.5, 0.71, (0.70, 0.285), 0.47),
        (2.0, -2.5, 0.76, (0.75, 0.31), 0.525),
    ],
)
def test_the_population_is_that_of_the_page(z_source, evolution, theta_e, above, z_lens):
    z, sigma, theta = draws(population(evolution=evolution), z_source)
    assert np.median(theta) == pytest.approx(theta_e, rel=0.02)
    assert [(theta > 0.5).mean(), (theta > 1.0).mean()] == pytest.approx(above, abs=0.015)
    assert 1.09 < np.quantile(theta, 0.84) < 1.34
    assert np.median(sigma) == pytest.approx(212.0, rel=0.01)
    assert np.median(z) == pytest.approx(z_lens, rel=0.03)


# Draws against the formula.


@pytest.mark.parametrize("z_source", [0.7, 1.5, 3.0])
@pytest.mark.parametrize("evolution", [0.0, -2.5])
def test_draws_follow_the_formula(formulas, z_source, evolution):
    z, sigma, theta = draws(population(evolution=evolution), z_source, seed=11)
    right = formulas(z_source, evolution=evolution)
    assert stats.kstest(z, right.cdf_z).pvalue > 0.01
    assert stats.kstest(sigma, right.cdf_sigma).pvalue > 0.01
    assert stats.kstest(theta, right.cdf_theta).pvalue > 0.01
    assert abs(stats.spearmanr(z, sigma).statistic) < 4.0 / math.sqrt(N_DRAWS)
    assert z.max() < min(z_source, 1.2)
    assert sigma.min() >= 100.0
    assert sigma.max() <= 400.0


def test_draws_do_not_follow_a_wrong_formula(formulas):
    z, sigma, theta = draws(population(), 1.5, seed=11)
    for wrong in (formulas(1.5, b=3.0), formulas(1.5, power=0.0)):
        assert stats.kstest(sigma, wrong.cdf_sigma).pvalue < 1e-6
        assert stats.kstest(theta, wrong.cdf_theta).pvalue < 1e-6
    for wrong in (formulas(1.5, power=0.0), formulas(1.5, evolution=-2.5), formulas(2.0)):
        assert stats.kstest(z, wrong.cdf_z).pvalue < 1e-6
        assert stats.kstest(theta, wrong.cdf_theta).pvalue < 1e-6
    other = draws(population(beta=3.0), 1.5, seed=11)
    assert stats.kstest(other[1], formulas(1.5).cdf_sigma).pvalue < 1e-6
    assert stats.kstest(other[1], formulas(1.5, b=3.0).cdf_sigma).pvalue > 0.01


@given(z_source=st.floats(0.3, 1.2), share=st.floats(0.01, 0.99))
def test_lenses_of_a_constant_density_halve_the_distance_to_their_source(z_source, share):
    # chi^2 (1 - chi/chi_s)^2: a Beta(3, 3) distribution of chi/chi_s, whatever the source.
    z = population()._in_front(z_source).quantile(share)
    chi = comoving_distance([z, z_source], Cosmology())
    assert chi[0] / chi[1] == pytest.approx(stats.beta(3, 3).ppf(share), abs=1e-3)


def test_the_density_is_the_derivative_of_the_distribution(formulas):
    edges, theta = np.geomspace(0.05, 3.0, 25), np.geomspace(0.01, 12.0, 2000)
    for z_source, evolution in ((0.7, 0.0), (1.5, -2.5), (3.0, 0.0)):
        model, right = population(evolution=evolution), formulas(z_source, evolution=evolution)
        p = model.density(theta, z_source)
        share = integrate.cumulative_simpson(p * theta, x=np.log(theta), initial=0.0)
        assert share[-1] == pytest.approx(1.0, abs=1e-3)
        assert np.allclose(np.interp(edges, theta, share), right.cdf_theta(edges), atol=1e-3)
        assert np.allclose(np.exp(model.log_density(theta, z_source)), p, rtol=1e-12)
    assert np.array_equal(model.density([0.0, -1.0, 50.0], 1.5), [0.0, 0.0, 0.0])
    assert np.array_equal(model.log_density([0.0, -1.0, 50.0], 1.5), [-np.inf] * 3)


def test_scattered_theta_e_is_where_the_density_says(formulas):
    tight = Population(theta_e_scatter=0.02)
    theta = draws(tight, 1.5)[2]
    assert stats.kstest(theta, lambda t: formulas(1.5).cdf_theta(t, scatter=0.02)).pvalue > 0.01
    # 0.10 against 0.02 changes the distribution too little for this many draws, 0.5 does not.
    assert stats.kstest(theta, lambda t: formulas(1.5).cdf_theta(t, scatter=0.5)).pvalue < 1e-6


# Distances and dispersions.


def distance_ratio(cosmology, z_lens, z_source):
    """D_ls / D_s of angular diameter distances: Hogg (1999), eq. 19, flat."""
    behind = cosmology.comoving_transverse_distance(z_source) - cosmology.comoving_transverse_distance(z_lens)
    return (behind / (1.0 + z_source) / cosmology.angular_diameter_distance(z_source)).value


def test_theta_e_is_that_of_an_isothermal_sphere_at_astropys_distances():
    z_lens, z_source = np.array([0.1, 0.3, 0.55, 0.9]), np.array([0.6, 2.0, 1.5, 4.0])
    expected = SIS * 0.235**2 * distance_ratio(FLAT, z_lens, z_source)
    assert theta_e_sis(235.0, z_lens, z_source) == pytest.approx(expected, rel=1e-5)
    assert round(SIS, 2) == 28.84
    assert theta_e_sis(1000.0, 0.0, 1.0) == pytest.approx(SIS, rel=1e-6)
    expected = SIS * distance_ratio(FlatLambdaCDM(H0=70.0, Om0=0.5), 0.5, 1.5)
    dense = Cosmology(matter_density=0.5)
    assert theta_e_sis(1000.0, 0.5, 1.5, dense) == pytest.approx(expected, rel=1e-5)
    assert theta_e_sis(1000.0, 0.5, 1.5) != pytest.approx(expected, rel=1e-2)


@given(sigma=st.floats(50.0, 500.0), z_lens=st.floats(0.0, 3.0), z_source=st.floats(0.0, 5.0))
def test_theta_e_grows_with_dispersion_and_with_the_room_behind_the_lens(sigma, z_lens, z_source):
    theta_e = float(theta_e_sis(sigma, z_lens, z_source))
    assume(abs(z_source - z_lens) > 1e-6)
    assert (theta_e > 0.0) == (z_source > z_lens)
    assert theta_e_sis(2.0 * sigma, z_lens, z_source) == pytest.approx(4.0 * theta_e)
    assert theta_e_sis(sigma, z_lens, z_source + 0.1) >= theta_e
    assert theta_e_sis(sigma, z_lens + 0.1, z_source) <= theta_e


def test_a_redshift_without_a_distance_is_refused():
    for z in (-0.1, 10.5, float("nan")):
        with pytest.raises(ValueError, match="outside"):
            theta_e_sis(200.0, 0.5, z)
        with pytest.raises(ValueError, match="no lens is drawn"):
            Population().draw(np.random.default_rng(1), z)
    with pytest.raises(ValueError, match="no lens is drawn"):
        Population().density(1.0, 0.0)


def test_the_dispersion_function_is_the_published_one():
    prior = VelocityDispersionFunction()
    # At sigma*, by hand: 8e-3 * .343 * exp(-1) * 2.67 / Gamma(2.32 / 2.67) / 161.
    by_hand = 8e-3 * 0.7**3 * math.exp(-1) * 2.67 / math.gamma(2.32 / 2.67) / 161.0
    assert prior.density(161.0, 0.3, 70.0) == pytest.approx(by_hand, rel=1e-12)
    assert np.array_equal(prior.density([99.0, 401.0, 200.0], [0.1, 0.1, 1.3], 70.0), [0.0, 0.0, 0.0])
    fewer = VelocityDispersionFunction(evolution=-2.5)
    ratio = fewer.density(200.0, 1.0, 70.0) / prior.density(200.0, 1.0, 70.0)
    assert ratio == pytest.approx(2.0**-2.5)
    everything = VelocityDispersionFunction(sigma_kms=uniform(1.0, 1000.0))
    # Published: phi* is the integral over all sigma.
    number = integrate.quad(everything.density, 1.0, 1000.0, args=(0.0, 100.0))[0]
    assert number == pytest.approx(8e-3, rel=1e-3)
    fourth = integrate.quad(lambda s: s**4 * prior.density(s, 0.0, 70.0), 100.0, 400.0)[0]
    assert prior.sigma_4(70.0) == pytest.approx(fourth, rel=1e-6)


def test_optical_depth_is_the_closed_form_of_a_constant_density():
    model = population()
    for z_source in (0.4, 1.0):
        chi = FLAT.comoving_distance(z_source).value
        strength = 16.0 * math.pi**3 * model.dispersions.sigma_4(70.0) / 299792.458**4
        assert model.optical_depth(z_source) == pytest.approx(strength * chi**3 / 30.0, rel=1e-4)
    assert 2e-4 < model.optical_depth(2.0) < 2e-3


# Hosts that were drawn first.


def test_a_host_gets_the_radius_of_its_own_dispersion():
    model, rng = Population(), np.random.default_rng(5)
    theta = np.array([model.theta_e_of_host(rng, 250.0, 0.5, 2.0) for _ in range(4000)])
    log = np.log(theta / theta_e_sis(250.0, 0.5, 2.0))
    assert log.mean() == pytest.approx(0.0, abs=4 * 0.10 / math.sqrt(4000))
    assert log.std() == pytest.approx(0.10, rel=0.05)
    assert model.theta_e_of_host(rng, 250.0, 0.9, 0.8) == 0.0
    # A magnitude has no say where the dispersion is known, and the scatter is the same in either case.
    same = [
        model.theta_e_of_host(np.random.default_rng(1), sigma, 0.5, 2.0, r_mag=r)
        for sigma, r in ((250.0, None), (250.0, 18.0))
    ]
    assert same[0] == same[1]


def hosts_of_the_sky(z, n, seed):
    """Dispersions and magnitudes as `survey.populations.draw_deflector` relates them."""
    prior, rng = Deflectors(), np.random.default_rng(seed)
    sigma = prior.sigma_v_kms.median * np.exp(prior.sigma_v_kms.sigma * rng.standard_normal(n))
    sigma = sigma[(sigma >= prior.sigma_v_kms.low) & (sigma <= prior.sigma_v_kms.high)]
    r = np.interp(z, prior.track_z, prior.track_r) + prior.r_offset
    r = r + prior.r_per_dex_sigma * np.log10(sigma / prior.sigma_v_kms.median)
    return sigma, r + prior.r_scatter * rng.standard_normal(len(sigma))


@pytest.mark.parametrize(("z", "r_mag"), [(0.35, 17.9), (0.55, 20.1), (0.55, 21.2), (0.8, 20.2)])
def test_an_unmeasured_dispersion_is_one_that_such_hosts_have(z, r_mag):
    sigma, r = hosts_of_the_sky(z, 1_500_000, seed=2)
    such = sigma[np.abs(r - r_mag) < 0.02]
    model, rng = Population(), np.random.default_rng(8)
    drawn = np.array([model.sigma_of_host(rng, z, r_mag) for _ in range(5000)])
    assert stats.ks_2samp(drawn, such).pvalue > 0.01
    # Turning the relation round without the prior is another distribution: too steep in r.
    away = r_mag - np.interp(z, Deflectors().track_z, Deflectors().track_r) - 0.5
    naive = 235.0 * 10.0 ** ((away - 0.4 * rng.standard_normal(5000)) / -6.3)
    assert stats.ks_2samp(naive, such).pvalue < 1e-6


def test_a_host_without_magnitude_has_the_prior_and_none_leaves_its_bounds():
    model, rng = Population(), np.random.default_rng(8)
    drawn = [model.sigma_of_host(rng, 0.5, None) for _ in range(5000)]
    assert stats.ks_2samp(drawn, hosts_of_the_sky(0.5, 50_000, seed=4)[0]).pvalue > 0.01
    for r_mag in (-50.0, 10.0, 16.0, 24.0, 90.0):
        extreme = [model.sigma_of_host(rng, 0.5, r_mag) for _ in range(200)]
        assert min(extreme) >= 140.0 * (1 - 1e-12)
        assert max(extreme) <= 400.0 * (1 + 1e-12)
    faint, bright = (np.median([model.sigma_of_host(rng, 0.5, r) for _ in range(500)]) for r in (21.5, 18.0))
    assert bright > 1.3 * faint
    exact = Population(hosts=Deflectors(r_scatter=0.0))
    r_mag = float(np.interp(0.5, Deflectors().track_z, Deflectors().track_r)) + 0.5
    r_mag += -6.3 * math.log10(300.0 / 235.0)
    assert exact.sigma_of_host(rng, 0.5, r_mag) == pytest.approx(300.0, rel=1e-3)


def test_the_hosts_and_the_cosmology_are_the_skys_own():
    assert Population().hosts == SkyPriors().deflectors
    assert Population().cosmology == SkyPriors().cosmology


# Weights.


def test_the_marginal_is_the_average_over_sources():
    model = population(evolution=-2.5)
    prior = model.source_z
    a, b = (prior.low - prior.mean) / prior.sd, (prior.high - prior.mean) / prior.sd
    sources = stats.truncnorm(a, b, prior.mean, prior.sd)
    theta = np.array([0.1, 0.5, 0.8, 1.5, 2.5])
    z = np.linspace(prior.low, prior.high, 201)
    each = np.stack([model.density(theta, k) for k in z])
    expected = integrate.simpson(each * sources.pdf(z)[:, None], x=z, axis=0)
    assert model.population_density(theta) == pytest.approx(expected, rel=1e-3)
    nodes = np.geomspace(1e-3, 12.0, 5000)
    assert integrate.trapezoid(model.population_density(nodes), nodes) == pytest.approx(1.0, abs=1e-3)
    assert np.array_equal(model.population_density([-1.0, 0.0, 40.0]), [0.0, 0.0, 0.0])


def test_reweighted_uniform_injections_are_the_population():
    model, rng = population(), np.random.default_rng(21)
    low, high, n = 0.02, 6.0, 200_000
    theta = rng.uniform(low, high, n)
    weight = model.importance_weight(theta, 1.0 / (high - low))
    assert weight.mean() == pytest.approx(1.0, abs=4 * weight.std() / math.sqrt(n))
    order = np.argsort(theta)
    share = np.cumsum(weight[order]) / weight.sum()
    median = theta[order][np.searchsorted(share, 0.5)]
    z_sources = [model.source_z.draw(rng) for _ in range(N_DRAWS)]
    nature = np.array([model.draw(rng, z).theta_e_arcsec for z in z_sources])
    assert median == pytest.approx(np.median(nature), rel=0.02)
    apart = stats.kstest(nature, lambda t: np.interp(t, theta[order], share)).statistic
    both = 1.0 / (1.0 / N_DRAWS + 1.0 / effective_sample_size(weight))
    assert stats.kstwobign.sf(apart * math.sqrt(both)) > 0.01
    # Unweighted, the grid is no population.
    assert np.median(theta) > 4 * median
    assert 1.0 < n / effective_sample_size(weight) < 12.0


def test_weights_of_a_narrower_grid_have_mean_one_only_within_it():
    model, rng = population(), np.random.default_rng(22)
    low, high, n = 0.5, 2.5, 50_000
    theta = rng.uniform(low, high, n)
    whole = model.importance_weight(theta, 1.0 / (high - low))
    inside = model.importance_weight(theta, 1.0 / (high - low), within=(low, high))
    error = 4 * inside.std() / math.sqrt(n)
    assert inside.mean() == pytest.approx(1.0, abs=error)
    nodes = np.linspace(low, high, 2001)
    share = integrate.simpson(model.population_density(nodes), x=nodes)
    assert whole.mean() == pytest.approx(share, abs=error)
    assert abs(whole.mean() - 1.0) > 10 * error
    assert inside == pytest.approx(whole / share, rel=1e-3)
    assert model.importance_weight(2.6, 0.5, within=(low, high)) == 0.0
    with pytest.raises(ValueError, match="above zero"):
        model.importance_weight(theta, 0.0)


def test_effective_sample_size_counts_equal_weights():
    assert effective_sample_size(np.full(500, 0.3)) == pytest.approx(500.0)
    assert effective_sample_size([1.0, 1.0, 0.0, 0.0]) == pytest.approx(2.0)
    assert effective_sample_size([1e6, 1.0, 1.0]) == pytest.approx(1.0, rel=1e-4)
    for bad in ([], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="weights must be"):
            effective_sample_size(bad)


# Conduct.


def test_draws_depend_on_the_stream_alone():
    model = Population()
    alone = model.draw(stream(1, "injection/population", "b"), 1.7)
    for target in ("a", "c", "d"):
        model.draw(stream(1, "injection/population", target), 0.9)
    fresh = Population(**model.model_dump(exclude={"dispersions", "hosts", "cosmology", "source_z"}))
    assert fresh.draw(stream(1, "injection/population", "b"), 1.7) == alone
    assert model.draw(stream(2, "injection/population", "b"), 1.7) != alone
    # Three numbers, whatever is asked: what follows does not depend on what was drawn.
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    model.draw(first, 0.7)
    population(evolution=-2.5).draw(second, 3.0)
    assert first.random() == second.random()


def test_nothing_is_tabulated_at_import():
    code = (
        "from darkhaloscope.injection import population as p\n"
        "tables = (p._distance_table, p._redshift_table, p._log_square_density, p._marginal)\n"
        "assert not any(table.cache_info().currsize for table in tables)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


DISPERSIONS = {
    "sigma_star_kms": 180.0, "alpha": 3.0, "beta": 3.0, "sigma_kms": uniform(150.0, 400.0), "z_max": 0.8,
    "evolution": -2.5,
}  # fmt: skip
CHANGED = [{"dispersions": VelocityDispersionFunction(**{key: value})} for key, value in DISPERSIONS.items()]
CHANGED += [{"theta_e_scatter": 0.3}, {"cosmology": Cosmology(matter_density=0.4)}]


@pytest.mark.parametrize("change", CHANGED, ids=str)
def test_each_number_of_the_prior_changes_the_population(change):
    usual, other = Population(), Population(**change)
    assert fingerprint(other) != fingerprint(usual)
    a, b = (model.draw(np.random.default_rng(6), 1.5) for model in (usual, other))
    assert a.theta_e_arcsec != b.theta_e_arcsec
    assert usual.density(0.9, 1.5) != pytest.approx(other.density(0.9, 1.5), rel=1e-3)
    assert usual.population_density(0.9) != pytest.approx(other.population_density(0.9), rel=1e-3)


def test_the_numbers_that_do_not_shape_a_draw_change_what_they_are_for():
    usual = Population()
    assert population(phi_star_h3=4e-3).optical_depth(1.0) == pytest.approx(usual.optical_depth(1.0) / 2)
    far = Population(source_z=normal(2.5, 0.3, 0.6, 4.0))
    assert far.population_density(1.5) > 1.1 * usual.population_density(1.5)
    slow = Population(cosmology=Cosmology(hubble_km_s_mpc=50.0))
    # h^3 per volume against volumes of h^-3: a sky of lenses does not know the Hubble constant.
    assert slow.optical_depth(1.0) == pytest.approx(usual.optical_depth(1.0), rel=1e-6)
