import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from darkhaloscope.contracts.config import fingerprint
from darkhaloscope.injection.recipe import BaselineRecipe, Deflection, Host, Sources, Truth, UnseenHost, draw
from darkhaloscope.survey.distributions import Normal, Rayleigh, Uniform

SEEN = Host(z=0.5, light_q=0.75, light_phi_rad=0.4)
RECIPE = BaselineRecipe()


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
        for room, model in (("host", UnseenHost), ("deflection", Deflection), ("sources", Sources))
        for field in model.model_fields
    ],
)
def test_every_number_of_the_recipe_changes_what_is_drawn(room, field):
    value = getattr(getattr(RECIPE, room), field)
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
    else:
        other = with_(RECIPE, room, **{field: changed(value)})
    hosts = [SEEN, Host(), Host(z=0.9, light_q=0.6, light_phi_rad=1.0)]
    tasks = [(host, f"t#{k}") for host in hosts for k in range(60)]
    before, after = (
        [
            t if isinstance(t, str) else dataclasses.replace(t, caustic_area_arcsec2=0.0)
            for t in (draw(host, recipe, seed=1, task=task) for host, task in tasks)
        ]
        for recipe in (RECIPE, other)
    )
    assert before != after
    assert fingerprint(RECIPE) != fingerprint(other)


def test_every_prior_says_where_it_comes_from():
    for model in (UnseenHost, Deflection, Sources):
        for name, field in model.model_fields.items():
            extra = field.json_schema_extra
            assert isinstance(extra, dict), name
            assert extra["tag"] in "MSCAK", name
            assert extra["basis"], name
