import numpy as np
import pytest

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.gates.core_swap import _round_source_taken_out, core_window
from darkhaloscope.gates.detection import operating_point
from darkhaloscope.gates.reliance import reliance_findings, ring_on_anything, shuffled_negatives
from darkhaloscope.stamps.measure import radius_map


class Toy:
    """A detector with known habits: it reads light between two radii, above the host it has seen before."""

    def __init__(self, pairs, inner, outer, noise=0.0):
        self.known = {
            (x, y): c for x, y, c in zip(pairs.x_center, pairs.y_center, pairs.controls, strict=True)
        }
        self.inner, self.outer, self.noise = inner, outer, noise

    def __call__(self, stamps, x_center, y_center, /, *, core_masked=False):
        radius = radius_map(stamps.shape, x_center, y_center)
        seen = (radius >= self.inner) & (radius < self.outer)
        if core_masked:
            seen &= radius >= 5.0
        light = stamps - np.stack([self.known[x, y] for x, y in zip(x_center, y_center, strict=True)])
        score = (light * seen[:, None]).sum(axis=(1, 2, 3))
        # A fixed scatter for each host stands for the noise of a real detector.
        return score + self.noise * np.sin(1e4 * x_center + 3e4 * y_center)


@pytest.fixture(scope="module")
def negatives():
    return np.random.default_rng(8).normal(0.0, 0.01, 1000)


@pytest.fixture(scope="module")
def fair(arcs):
    return Toy(arcs, 0.0, 40.0, noise=0.02)


@pytest.fixture(scope="module")
def core_only(arcs):
    return Toy(arcs, 0.0, 5.0, noise=0.005)


def test_a_model_that_looks_at_the_core_alone_fails_what_a_fair_one_does_not(
    arcs, fair, core_only, protocol, negatives
):
    eased = _with_fewer(protocol, 20)
    lazy = reliance_findings(arcs, core_only, protocol=eased, seed=1, negatives=negatives)
    assert lazy.named("core_swap_necessity").status is Status.FAIL
    assert lazy.named("core_swap_necessity").value > 0.2
    assert lazy.named("core_masked_drop").status is Status.FAIL
    honest = reliance_findings(arcs, fair, protocol=eased, seed=1, negatives=negatives)
    assert honest.named("core_swap_necessity").value < lazy.named("core_swap_necessity").value - 0.2
    assert honest.named("core_masked_drop").value < lazy.named("core_masked_drop").value


def test_a_model_that_never_looks_at_the_core_needs_nothing_from_it(arcs, protocol, negatives):
    outside = Toy(arcs, 8.0, 40.0, noise=0.005)
    found = reliance_findings(arcs, outside, protocol=_with_fewer(protocol, 20), seed=1, negatives=negatives)
    assert found.named("core_swap_necessity").passed
    assert found.named("core_swap_sufficiency").passed
    assert found.named("core_swap_sufficiency_low_overlap").passed
    assert found.named("core_masked_drop").value == 0.0


def _with_fewer(protocol, n):
    gates = {
        name: gate.model_copy(update={"needs_n": n}) if name.startswith("core_swap") else gate
        for name, gate in protocol.gates.v2.items()
    }
    return protocol.model_copy(update={"gates": protocol.gates.model_copy(update={"v2": gates})})


def test_too_few_positives_in_a_bin_are_not_evaluated_with_the_n_they_need(arcs, fair, protocol, negatives):
    found = reliance_findings(arcs, fair, protocol=protocol, seed=1, negatives=negatives)
    for name in ("core_swap_necessity", "core_swap_sufficiency", "core_swap_sufficiency_low_overlap"):
        finding = found.named(name)
        assert finding.status is Status.NOT_EVALUATED
        assert finding.needs_n == 600
        assert finding.n < 600
        assert "N=" in finding.detail or "S=" in finding.detail  # shown all the same


def test_without_negatives_enough_for_the_rate_nothing_is_decided(arcs, core_only, protocol):
    eased = _with_fewer(protocol, 20)
    few = reliance_findings(arcs, core_only, protocol=eased, seed=1, negatives=np.linspace(-1, 1, 400) / 100)
    assert few.named("core_swap_necessity").status is Status.NOT_EVALUATED
    assert "which needs 1000" in few.named("core_swap_necessity").detail
    none = reliance_findings(arcs, core_only, protocol=eased, seed=1, negatives=np.zeros(20))
    assert none.named("core_swap_placebo_excess").value is None
    assert "needs more negatives" in none.named("core_swap_placebo_excess").detail


def test_the_threshold_rule_takes_the_lower_rate_only_with_negatives_for_it(protocol):
    few, many = (operating_point(np.linspace(0, 1, n), protocol) for n in (9_999, 10_000))
    assert (few.fpr, many.fpr) == (1e-2, 1e-3)
    assert few.enough
    assert many.enough
    assert "FPR 0.01, set by 9999 negatives" in few.text
    assert operating_point(np.zeros(50), protocol) is None


def test_one_bin_that_fails_fails_the_gate_though_others_lack_rows(arcs, core_only, protocol, negatives):
    """theta_E runs from .5 to 2.5: the last bin is thin, the first is plainly wrong."""
    found = reliance_findings(
        arcs, core_only, protocol=_with_fewer(protocol, 140), seed=1, negatives=negatives
    )
    finding = found.named("core_swap_necessity")
    assert finding.status is Status.FAIL
    assert finding.n >= 140


def test_an_edge_detector_is_caught_by_the_placebo(arcs, protocol, negatives):
    edge = Toy(arcs, 5.0, 7.0, noise=0.001)
    found = reliance_findings(arcs, edge, protocol=_with_fewer(protocol, 20), seed=1, negatives=negatives)
    assert found.named("core_swap_placebo_excess").status is Status.FAIL


def test_where_the_arc_leaves_the_core_alone_only_chance_is_expected(arcs, protocol, negatives):
    """At FPR .01 chance is half the bound; a detector that fires on a trace of light there is not chance."""
    name, eased = "core_swap_sufficiency_low_overlap", _with_fewer(protocol, 20)
    stratum = (arcs.kappa < 0.10) & (arcs.arc_snr_mf_core < 3.0)
    assert 20 < stratum.sum() < (arcs.kappa < 0.10).sum() + 1

    def one_in_a_hundred(stamps, x_center, y_center, /, *, core_masked=False):
        return (np.modf(1e4 * x_center)[0] < 0.01) + np.zeros(len(stamps))

    chance = reliance_findings(arcs, one_in_a_hundred, protocol=eased, seed=1, negatives=negatives).named(
        name
    )
    assert chance.n == stratum.sum()
    assert chance.value == pytest.approx(0.0, abs=0.03)
    eager = Toy(arcs, 0.0, 5.0)
    found = reliance_findings(arcs, eager, protocol=eased, seed=1, negatives=negatives / 1e3).named(name)
    assert found.status is Status.FAIL
    assert found.value > 0.5


def test_the_placebo_is_as_wide_as_a_source_is_seen_and_leaves_no_ring(arcs, protocol):
    """A Gaussian as wide as the core would leave more light outside than the arc has inside."""
    light = (arcs.stamps - arcs.controls)[:, 1]
    inside = radius_map(light.shape, arcs.x_center, arcs.y_center) < 5.0
    core_flux = (light * inside).sum(axis=(1, 2))

    def left(sigma):
        swap = protocol.core_swap.model_copy(update={"placebo_sigma_pix": sigma})
        cut = _round_source_taken_out(arcs, protocol.model_copy(update={"core_swap": swap})) - arcs.controls
        return (cut[:, 1].sum(axis=(1, 2)) / core_flux)[core_flux > 0]

    assert protocol.core_swap.placebo_sigma_pix == 2.2
    assert np.median(left(2.2)) < 0.15
    assert np.median(left(5.0)) > 1.2


def test_the_swapped_pair_adds_up_to_the_arc(arcs, protocol):
    window = core_window(arcs, protocol)
    radius = radius_map(arcs.stamps.shape, arcs.x_center, arcs.y_center)[:, None]
    assert window[radius < 1].min() > 0.99
    assert window[radius > 9].max() < 0.01
    np.testing.assert_allclose(window[np.abs(radius - 5.0) < 0.01], 0.5, atol=0.01)


def test_hard_negatives_are_really_scored_and_keep_the_flux(arcs, fair, protocol, negatives):
    shuffled = shuffled_negatives(arcs, seed=1)
    np.testing.assert_allclose(
        (shuffled - arcs.controls).sum(axis=(2, 3)), (arcs.stamps - arcs.controls).sum(axis=(2, 3)), atol=2e-3
    )
    few = arcs.take(np.arange(5))
    np.testing.assert_array_equal(shuffled_negatives(few, seed=1), shuffled[:5])
    found = reliance_findings(arcs, fair, protocol=protocol, seed=1, negatives=negatives)
    hard = found.named("hardneg_auroc")
    # Shuffling keeps the light that this detector adds up: only a gate that scores it finds that out.
    assert hard.value == pytest.approx(0.5, abs=0.05)
    assert hard.status is Status.FAIL
    assert "warning: below 0.65" in hard.detail
    assert not hard.decides


def test_a_detector_of_clumps_tells_a_shuffled_arc(arcs, protocol, negatives):
    def smooth(stamps, x_center, y_center, /, *, core_masked=False):
        light = stamps - arcs.controls[: len(stamps)]
        return -np.abs(np.diff(light, axis=-1)).sum(axis=(1, 2, 3))

    whole = arcs.take(np.arange(200))
    found = reliance_findings(whole, smooth, protocol=protocol, seed=1, negatives=negatives)
    assert found.named("hardneg_auroc").value > 0.9
    assert "warning: above 0.9" in found.named("hardneg_auroc").detail


def test_masked_drop_is_reported_by_theta_e(arcs, core_only, protocol, negatives):
    finding = reliance_findings(arcs, core_only, protocol=protocol, seed=1, negatives=negatives).named(
        "core_masked_drop"
    )
    assert not finding.decides
    assert all(f"[{low}, " in finding.detail for low in ("0.5", "1", "1.5", "2"))


def test_rings_on_anything_are_reported_for_what_they_are(arcs, fair, protocol, negatives):
    point = operating_point(negatives, protocol)
    figures = ring_on_anything(
        arcs, fair, point, seed=1, seeds=(1,), manifests=("abc",), host_domain=HostDomain.SIM
    )
    names = {f.name: f for f in figures}
    assert names["ring_on_anything_sim_brief"].value == 1.0
    assert names["ring_on_anything_sim_none"].value < 0.5
    assert names["ring_on_anything_sim_none"].arc_domain is ArcDomain.NONE
    assert names["ring_on_anything_sim_random"].arc_domain is ArcDomain.SIM
    assert all(f.low <= f.value <= f.high for f in figures)


def test_what_a_detector_of_signal_would_do_is_not_held_against_it(arcs, fair, protocol, negatives):
    """S is large where the arc lies in the core; S - S_phys is not."""
    finding = reliance_findings(
        arcs, fair, protocol=_with_fewer(protocol, 20), seed=1, negatives=negatives
    ).named("core_swap_sufficiency")
    first = finding.detail.split(", [")[0]
    assert "S-S_phys" in first
    share = float(first.split("S=")[1].split(",")[0])
    excess = float(first.split("S-S_phys=")[1].split(" ")[0])
    assert abs(excess) < share
