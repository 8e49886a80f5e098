import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from darkhaloscope.contracts.config import fingerprint
from darkhaloscope.injection.draw import Host, Truth, draw
from darkhaloscope.injection.nuisance import Nuisances
from darkhaloscope.injection.recipe import (
    Deflection,
    HybridShapes,
    RealShapes,
    Recipe,
    SersicShapes,
    Sources,
    UnseenHost,
    other_sources,
)
from darkhaloscope.survey.distributions import Normal, Rayleigh, Uniform, log_normal
from darkhaloscope.survey.release import to_magnitude

SEEN = Host(z=0.5, light_q=0.75, light_phi_rad=0.4)
RECIPE = Recipe()
HYBRID = Recipe(lineage="gen7", shapes=HybridShapes())
SLOPES = Normal(mean=2.08, sd=0.18, low=1.7, high=2.5)


def draws(recipe=RECIPE, n=1500, host=SEEN, **kwargs):
    made = [draw(host, recipe, seed=1, task=f"t#{k}", **kwargs) for k in range(n)]
    assert all(isinstance(truth, Truth) for truth in made)
    return made


@pytest.fixture(scope="module")
def default_draws():
    return draws()


def with_(recipe, room, **changes):
    return recipe.model_copy(update={room: getattr(recipe, room).model_copy(update=changes)})


def test_a_draw_depends_on_seed_purpose_and_task_alone():
    again = [draw(SEEN, RECIPE, seed=1, task=f"t#{k}") for k in reversed(range(5))][::-1]
    assert again == draws(n=5)
    assert draw(SEEN, RECIPE, seed=2, task="t#0") != again[0]
    assert draw(SEEN, RECIPE, seed=1, task="t#0", purpose="anchors") != again[0]
    assert draw(SEEN, RECIPE, seed=1, task="t#1") != again[0]


def test_the_prior_of_the_shear_leaves_the_source_s_light_alone():
    other = with_(RECIPE, "deflection", shear=Rayleigh(scale=0.07, high=0.15))
    for a, b in zip(draws(n=20), draws(other, n=20), strict=True):
        assert a.lens != b.lens
        assert a.source_mag == b.source_mag
        assert a.morphology.R_sersic == b.morphology.R_sersic


def test_drawn_priors_are_the_declared_ones(default_draws):
    theta_e = [t.lens.theta_e for t in default_draws]
    shear = [math.hypot(t.lens.gamma1, t.lens.gamma2) for t in default_draws]
    r = np.array([t.source_mag[1] for t in default_draws])
    counts = lambda m: (10 ** (0.3 * (m - 21)) - 1) / (10 ** (0.3 * 5) - 1)  # noqa: E731
    assert stats.kstest(theta_e, stats.uniform(0.5, 2.0).cdf).pvalue > 0.01
    assert stats.kstest(shear, stats.rayleigh(0, 0.035).cdf).pvalue > 0.01
    assert stats.kstest(r, counts).pvalue > 0.01
    # and a wrong prior is seen
    assert stats.kstest(theta_e, stats.uniform(0.5, 2.2).cdf).pvalue < 1e-3
    assert stats.kstest(shear, stats.rayleigh(0, 0.045).cdf).pvalue < 1e-3
    assert stats.kstest(r, stats.uniform(21, 5).cdf).pvalue < 1e-3


def test_source_position_is_uniform_in_area():
    """On round lenses beta / theta_E is the square root of a uniform number."""
    round_lens = with_(
        with_(RECIPE, "deflection", q=Uniform(low=0.9999, high=1.0), ellipticity_scatter=0.0),
        "deflection",
        q=Uniform(low=0.9999, high=1.0),
        ellipticity_of_round=0.0,
        ellipticity_slope=0.0,
        ellipticity_scatter=0.0,
        shear=Rayleigh(scale=1e-6, high=1e-5),
    )
    share = [
        math.hypot(t.morphology.x, t.morphology.y) / t.lens.theta_e for t in draws(round_lens, host=SEEN)
    ]
    assert stats.kstest(np.square(share), stats.uniform(0, 1).cdf).pvalue > 0.01
    assert stats.kstest(share, stats.uniform(0, 1).cdf).pvalue < 1e-3


def test_mass_follows_light(default_draws):
    q = np.array([t.lens.q for t in default_draws])
    assert q.mean() == pytest.approx(1 - 0.16 - 0.63 * 0.25, abs=0.01)
    assert q.std() == pytest.approx(0.076, abs=0.01)
    turn = np.array([t.lens.phi - 0.4 for t in default_draws])
    turn = np.degrees((turn + np.pi / 2) % np.pi - np.pi / 2)
    assert turn.std() == pytest.approx(10.0, abs=1.0)
    free = draws(n=600, host=Host(0.5, 0.95, 0.4))
    assert stats.kstest([t.lens.phi for t in free], stats.uniform(0, math.pi).cdf).pvalue > 0.01


def test_what_a_host_does_not_say_is_drawn():
    unseen = draws(n=300, host=Host())
    z = np.array([t.z_lens for t in unseen])
    assert z.std() == pytest.approx(0.18, abs=0.03)
    assert np.mean(z) == pytest.approx(0.55, abs=0.04)
    assert {t.z_lens for t in draws(n=5)} == {0.5}


def test_sources_lie_behind_and_images_are_multiple(default_draws):
    assert min(t.z_source - t.z_lens for t in default_draws) > 0.15
    assert {t.n_images for t in default_draws} <= {2, 3, 4}


def test_sources_have_the_published_percentiles(default_draws):
    """priors: R_e .11/.15/.22/.32/.43, g-r -.06/.05/.23/.67/1.16, r-z -.01/.16/.52/.96/1.29."""
    size = [t.morphology.R_sersic for t in default_draws]
    mag = np.array([t.source_mag for t in default_draws])
    at = [5, 16, 50, 84, 95]
    np.testing.assert_allclose(np.percentile(size, at), [0.11, 0.15, 0.22, 0.32, 0.43], rtol=0.10)
    np.testing.assert_allclose(
        np.percentile(mag[:, 0] - mag[:, 1], at), [-0.06, 0.05, 0.23, 0.67, 1.16], atol=0.09
    )
    np.testing.assert_allclose(
        np.percentile(mag[:, 1] - mag[:, 2], at), [-0.01, 0.16, 0.52, 0.96, 1.29], atol=0.09
    )
    wrong = draws(with_(RECIPE, "sources", size_at_24=0.35), n=400)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(
            np.percentile([t.morphology.R_sersic for t in wrong], at),
            [0.11, 0.15, 0.22, 0.32, 0.43],
            rtol=0.10,
        )


def test_a_share_of_the_sources_has_a_bulge(default_draws):
    bulges = [t for t in default_draws if len(t.source.parts) == 2]
    assert len(bulges) / len(default_draws) == pytest.approx(0.10, abs=0.025)
    assert all(t.source.model.startswith("disc+bulge") for t in bulges)
    assert {t.source.model for t in default_draws if len(t.source.parts) == 1} == {"sersic"}


def test_what_cannot_be_drawn_gets_a_code():
    impossible = with_(RECIPE, "deflection", q=Uniform(low=0.10, high=0.11))
    assert draw(SEEN, impossible, seed=1, task="t") == "draw_exhausted"
    assert draw(Host(z=3.95), RECIPE, seed=1, task="t") == "draw_exhausted"
    powerless = with_(RECIPE, "deflection", theta_e=Uniform(low=0.0, high=0.0))
    assert draw(SEEN, powerless, seed=1, task="t") == "no_multiple_images"


def test_targeted_snr_is_log_uniform_and_only_then():
    aimed = draws(RECIPE.model_copy(update={"flux_mode": "snr_targeted"}), n=400)
    logs = np.log([t.target_snr for t in aimed])
    assert stats.kstest(logs, stats.uniform(math.log(5), math.log(20)).cdf).pvalue > 0.01
    assert draws(n=1)[0].target_snr is None


CHANGES = {
    Normal: lambda v: v.model_copy(update={"mean": v.mean + 0.3 * v.sd}),
    Rayleigh: lambda v: v.model_copy(update={"scale": 1.5 * v.scale}),
    tuple: lambda v: tuple(x + 0.01 for x in v),
    float: lambda v: 0.8 * v,
}


def changed(value):
    for kind, change in CHANGES.items():
        if isinstance(value, kind):
            return change(value)
    names = [name for name in type(value).model_fields if name != "high"]
    return value.model_copy(update={name: 0.9 * getattr(value, name) for name in names})


@pytest.mark.parametrize(
    ("room", "field"),
    [
        (room, field)
        for room, model in (
            ("host", UnseenHost),
            ("deflection", Deflection),
            ("sources", Sources),
            ("shapes", SersicShapes),
            ("hybrid", HybridShapes),
        )
        for field in model.model_fields
        if field != "kind"
    ],
)
def test_every_number_of_the_recipe_changes_what_is_drawn(room, field):
    recipe = HYBRID if room == "hybrid" else RECIPE
    room = "shapes" if room == "hybrid" else room
    value = getattr(getattr(recipe, room), field)
    if field in ("size", "q") and room != "host":  # bounds: narrow them until they bite
        other = with_(
            RECIPE, room, **{field: Uniform(low=0.2, high=0.3) if field == "size" else changed(value)}
        )
        if field == "q" and room == "deflection":
            other = with_(RECIPE, room, q=Uniform(low=0.69, high=0.71))
    elif field == "z_behind":
        other = with_(RECIPE, room, z_behind=0.8)
    elif field == "two_component_share":
        other = with_(RECIPE, room, two_component_share=0.5)
    elif field == "round_light_q":
        other = with_(RECIPE, room, round_light_q=0.5)
    elif field == "slope":
        other = with_(RECIPE, room, slope=SLOPES)
    elif field == "clumps":
        other = with_(recipe, room, clumps=(1, 3))
    elif field == "widest":
        other = with_(recipe, room, widest=0.05)
    else:
        other = with_(recipe, room, **{field: changed(value)})
    hosts = [SEEN, Host(), Host(z=0.9, light_q=0.6, light_phi_rad=1.0)]
    tasks = [(host, f"t#{k}") for host in hosts for k in range(60)]
    before, after = (
        [
            t if isinstance(t, str) else dataclasses.replace(t, caustic_area_arcsec2=0.0)
            for t in (draw(host, recipe, seed=1, task=task) for host, task in tasks)
        ]
        for recipe in (recipe, other)
    )
    assert before != after
    assert fingerprint(recipe) != fingerprint(other)


def test_every_prior_says_where_it_comes_from():
    for model in (UnseenHost, Deflection, Sources, SersicShapes, HybridShapes):
        for name, field in model.model_fields.items():
            if name == "kind":
                continue
            extra = field.json_schema_extra
            assert isinstance(extra, dict), name
            assert extra["tag"] in "MSCAK", name
            assert extra["basis"], name


@pytest.fixture(scope="module")
def hybrids():
    return draws(HYBRID, n=300)


def clumps_of(truth):
    return [part for part in truth.source.parts if getattr(part.shape, "n_sersic", None) == 0.5]


def test_clumps_are_taken_out_of_the_galaxy_and_leave_its_magnitudes(hybrids):
    for truth in hybrids:
        np.testing.assert_allclose(to_magnitude(truth.source.flux_nmgy), truth.source_mag, atol=1e-9)
        clumps = np.sum([part.flux_nmgy for part in clumps_of(truth)], axis=0)
        assert 0.05 <= clumps[1] / truth.source.flux_nmgy[1] <= 0.20
        assert 2 <= len(clumps_of(truth)) <= 8


def test_clumps_number_and_share_are_uniform(hybrids):
    counts = np.bincount([len(clumps_of(t)) for t in hybrids], minlength=9)[2:]
    assert stats.chisquare(counts).pvalue > 0.01
    share = [sum(p.flux_nmgy[1] for p in clumps_of(t)) / t.source.flux_nmgy[1] for t in hybrids]
    assert stats.kstest(share, stats.uniform(0.05, 0.15).cdf).pvalue > 0.01
    assert stats.kstest(share, stats.uniform(0.05, 0.10).cdf).pvalue < 1e-3


def test_clumps_are_small_bluer_and_follow_the_light(hybrids):
    sizes, redder, inside = [], [], []
    for truth in hybrids:
        base = truth.morphology
        for part in clumps_of(truth):
            sizes.append(part.shape.R_sersic / math.sqrt(2 * math.log(2)))
            g_r = -2.5 * math.log10(part.flux_nmgy[0] / part.flux_nmgy[1])
            redder.append(truth.source_mag[0] - truth.source_mag[1] - g_r)
            dx, dy = part.shape.x - base.x, part.shape.y - base.y
            along = math.cos(base.phi) * dx + math.sin(base.phi) * dy
            across = math.cos(base.phi) * dy - math.sin(base.phi) * dx
            inside.append(math.hypot(along * math.sqrt(base.q), across / math.sqrt(base.q)) / base.R_sersic)
    assert min(sizes) > 0.004
    assert max(sizes) <= 0.060
    assert np.median(sizes) == pytest.approx(0.03, rel=0.1)
    assert np.mean(redder) == pytest.approx(0.20, abs=0.01)
    assert max(inside) <= 3.0
    # Half the profile's light lies within one radius; .96 of it within three.
    assert np.mean(np.array(inside) < 1.0) == pytest.approx(0.52, abs=0.03)


@pytest.mark.parametrize("index", range(4))
def test_clump_flux_is_conserved_on_a_fine_grid_of_the_source_plane(hybrids, index):
    """Sampled, not summed from what was asked for: within a percent."""
    truth = hybrids[index]
    half, step = 12 * truth.size_arcsec, 0.005
    axis = np.arange(-half, half, step)
    x, y = np.meshgrid(axis + truth.position[0], axis + truth.position[1])
    with_clumps = truth.source.brightness(x, y).sum(axis=(1, 2)) * step**2
    np.testing.assert_allclose(with_clumps, truth.source.flux_nmgy, rtol=0.01)
    clumps = dataclasses.replace(truth.source, parts=tuple(clumps_of(truth)))
    np.testing.assert_allclose(
        clumps.brightness(x, y).sum(axis=(1, 2)) * step**2, clumps.flux_nmgy, rtol=0.01
    )


def test_smooth_light_grows_bluer_outwards_by_the_gradient(hybrids):
    for truth in hybrids[:20]:
        smooth = [part for part in truth.source.parts if part not in clumps_of(truth)]
        base, step = truth.morphology, 0.01
        radius = base.R_sersic * np.array([1 - step, 1 + step])
        x = base.x + radius * math.cos(base.phi) / math.sqrt(base.q)
        y = base.y + radius * math.sin(base.phi) / math.sqrt(base.q)
        g, r, _ = dataclasses.replace(truth.source, parts=tuple(smooth)).brightness(x, y)
        slope = np.diff(-2.5 * np.log10(g / r))[0] / (2 * step)
        assert slope == pytest.approx(-0.15, rel=0.2)


def test_a_uniform_grid_carries_the_weight_of_the_population(default_draws):
    weight = np.array([t.weight for t in default_draws])
    theta = np.array([t.lens.theta_e for t in default_draws])
    assert weight.mean() == pytest.approx(1.0, abs=0.06)
    # Among lenses of .5 to 2.5 arcsec the population is steep: two thirds lie below one arcsec.
    assert (weight * (theta < 1.0)).sum() / weight.sum() == pytest.approx(0.67, abs=0.06)
    assert np.mean(theta < 1.0) == pytest.approx(0.25, abs=0.04)


def test_the_host_s_own_dispersion_sets_its_einstein_radius():
    recipe = RECIPE.model_copy(update={"theta_e_prior": "host"})
    light, heavy = (
        np.median([t.lens.theta_e for t in draws(recipe, n=200, host=Host(0.5, 0.75, 0.4, sigma_v_kms=s))])
        for s in (180.0, 300.0)
    )
    assert heavy / light == pytest.approx((300 / 180) ** 2, rel=0.06)
    drawn = draw(Host(0.5, 0.75, 0.4, sigma_v_kms=250.0), recipe, seed=1, task="t")
    assert drawn.weight == drawn.caustic_area_arcsec2


def test_population_lenses_are_small():
    recipe = RECIPE.model_copy(update={"theta_e_prior": "population"})
    theta = [t.lens.theta_e for t in draws(recipe, n=500)]
    assert np.median(theta) == pytest.approx(0.62, abs=0.05)


def test_slopes_are_drawn_where_the_arm_asks_for_them():
    arm = with_(RECIPE, "deflection", slope=SLOPES)
    slopes = [t.lens.gamma for t in draws(arm, n=300)]
    assert np.mean(slopes) == pytest.approx(2.08, abs=0.04)
    assert {t.lens.gamma for t in draws(n=5)} == {2.0}


@pytest.mark.parametrize("mine", [Recipe(), Recipe(lineage="gen7", shapes=HybridShapes())])
def test_another_family_of_sources_leaves_all_else_of_a_recipe_and_of_a_draw(mine):
    other = other_sources(mine)
    assert {mine.shapes.kind, other.shapes.kind} == {"sersic", "hybrid"}
    assert other.model_copy(update={"shapes": mine.shapes, "lineage": mine.lineage}) == mine
    assert fingerprint(other_sources(other)) == fingerprint(mine)  # and back
    for k in range(40):
        a, b = (draw(Host(), recipe, seed=1, task=f"t{k}") for recipe in (mine, other))
        assert a.source != b.source
        for name in ("lens", "z_lens", "z_source", "source_mag", "position", "size_arcsec"):
            assert getattr(a, name) == getattr(b, name), name
        assert (a.morphology.q, a.morphology.phi) == (b.morphology.q, b.morphology.phi)


def test_another_family_keeps_what_the_smooth_light_was_set_to():
    steep = SersicShapes(n_sersic=log_normal(2.0, 0.1, 1.0, 4.0))
    assert other_sources(Recipe(shapes=steep)).shapes.n_sersic == steep.n_sersic
    real = Recipe(shapes=RealShapes(catalog="nowhere"), imaging=Nuisances())
    other = other_sources(real)
    assert (other.shapes.kind, other.imaging) == ("sersic", real.imaging)
