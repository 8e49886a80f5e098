import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.protocol import load_protocol
from darkhaloscope.gates.leakage import _Bench, _excess, _low_overlap, _sham, leakage_findings
from darkhaloscope.gates.probes import core_moments, core_pixels, letter_auc, probe_core
from darkhaloscope.stamps.measure import letter_center
from darkhaloscope.stamps.preprocess import Preprocess, robust_normalize

ASINH = Preprocess(kind="asinh")


def linear(pairs, protocol, *, design="paired", stamps=None, seed=1):
    seen = [
        core_pixels(ASINH.apply(x, pairs.x_center, pairs.y_center)) for x in (pairs.stamps, pairs.controls)
    ]
    positives = seen[0] if stamps is None else stamps
    return probe_core(
        positives,
        seen[1],
        pairs.hosts,
        kind="linear",
        design=design,
        protocol=protocol,
        seed=seed,
        purpose="t",
    )


def bench(protocol):
    return _Bench(protocol, 1, {"asinh": ASINH, "robust": Preprocess()})


def letter(pairs):
    centre = letter_center(64)
    return letter_auc(
        *(core_pixels(robust_normalize(x, centre, centre)) for x in (pairs.stamps, pairs.controls))
    )


@pytest.mark.parametrize("fault", ["bright_core", "watermark"])
def test_a_planted_core_leak_is_found_by_host_and_missed_by_the_letter(fault, protocol, request):
    pairs = request.getfixturevalue(fault)
    assert linear(pairs, protocol).interval[0] > 0.65
    assert letter(pairs) < 0.65


def test_a_planted_leak_is_found_with_the_fewest_pairs_that_decide(bright_core, watermark, protocol):
    least = protocol.gate("core_lr_auc_grouped").needs_n
    for pairs in (bright_core, watermark):
        assert linear(pairs.take(np.arange(least)), protocol).auc > 0.65


def test_every_leakage_gate_of_a_planted_core_is_reported(bright_core, protocol):
    findings = leakage_findings(bright_core, protocol=protocol, seed=1)
    grouped, unpaired = findings.named("core_lr_auc_grouped"), findings.named("core_lr_auc_unpaired")
    assert grouped.status is unpaired.status is Status.FAIL
    assert grouped.decides
    assert grouped.n_clusters == 600
    assert not findings.named("core_lr_auc").decides
    assert findings.named("core_lr_auc").passed  # shown not to find it
    assert not findings.named("core_lr_auc_grouped_robust").decides
    assert "sham value" in findings.named("core_lr_auc").detail
    needs = {f.name: f.needs_n for f in findings.not_evaluated}
    assert needs == {
        "control_identity": 1, "sham_core_lr_auc": 3600, "sham_core_nl_auc": 3600,
        "leakage_excess": 3200, "low_overlap_excess": 500, "sham_texture_auc": 3600, "sham_pixel_shift": 600,
    }  # fmt: skip
    assert set(needs) | {f.name.removesuffix("_robust") for f in findings} == {
        "core_lr_auc", "core_lr_auc_grouped", "core_lr_auc_unpaired", *needs
    }  # fmt: skip


def test_sham_pairs_score_one_half_by_host_and_far_below_by_the_letter(sham, protocol):
    assert linear(sham, protocol).auc == pytest.approx(0.5, abs=1e-9)
    assert linear(sham, load_protocol(), design="unpaired").auc == pytest.approx(0.5, abs=0.04)
    assert letter(sham) < 0.3


def test_a_letter_value_below_its_own_null_is_printed_as_such(sham, protocol):
    few = sham.take(np.arange(60))
    finding = leakage_findings(few, protocol=protocol, seed=1, sham=few).named("core_lr_auc")
    assert "invalid_null" in finding.detail
    assert not finding.decides


def test_shuffled_labels_score_one_half_and_in_sample_scoring_would_not(sham, protocol):
    """Labels dealt to hosts at random: out of fold there is nothing to find, in sample there is."""
    found = linear(sham, protocol, design="unpaired", seed=2)
    assert found.auc == pytest.approx(0.5, abs=0.06)
    x = core_pixels(ASINH.apply(sham.controls, sham.x_center, sham.y_center))
    y = np.random.default_rng(3).permutation(np.repeat([0, 1], len(sham) // 2))
    model = LogisticRegression(C=0.3, max_iter=3000).fit((x - x.mean(0)) / x.std(0), y)
    in_sample = model.decision_function((x - x.mean(0)) / x.std(0))
    assert roc_auc_score(y, in_sample) > 0.75  # the bound of .65 would call it a leak


def test_folds_never_divide_a_host_with_several_pairs(hosts, bright_core, protocol):
    """Hosts repeated ten times: rows alone would let the probe memorise them."""
    rows = np.repeat(np.arange(60), 10)
    noise = np.random.default_rng(4).normal(size=(2, 60, 20))
    features = noise[:, rows]
    names = hosts["names"][rows]
    found = probe_core(
        features[0],
        features[1],
        names,
        kind="nonlinear",
        design="paired",
        protocol=protocol,
        seed=1,
        purpose="t",
    )
    assert found.n_clusters == 60
    assert abs(found.auc - 0.5) < 0.2
    each_its_own = np.array([f"row {i}" for i in range(600)])
    wrong = probe_core(
        features[0], features[1], each_its_own,
        kind="nonlinear", design="paired", protocol=protocol, seed=1, purpose="t",
    )  # fmt: skip
    assert wrong.auc > 0.95


def test_a_control_that_was_touched_is_found(hosts, pairs_of, protocol):
    stamps = hosts["image"].copy()
    stamps[7, 1, 20, 20] = np.nextafter(stamps[7, 1, 20, 20], np.float32(1))
    few = pairs_of(stamps, n=20)
    finding = leakage_findings(few, protocol=protocol, seed=1, sham=few).named("control_identity")
    assert finding.status is Status.FAIL
    assert finding.value == 1
    assert finding.examples == (str(hosts["names"][7]),)


def test_the_sham_gate_decides_by_its_interval_once_there_are_rows(sham, bright_core, protocol):
    """With the number of rows lowered: nothing to find passes, a planted core fails."""
    gates = protocol.gates
    eased = {
        name: gate.model_copy(update={"needs_n": 100, "bound": (0.3, 0.7)})
        if name == "sham_core_lr_auc"
        else gate
        for name, gate in gates.v2.items()
    }
    low = protocol.model_copy(update={"gates": gates.model_copy(update={"v2": eased})})
    for pairs, status in ((sham, Status.PASS), (bright_core, Status.FAIL)):
        finding = _sham(bench(low), pairs.take(np.arange(400)), "linear")
        assert finding.status is status, finding
        assert finding.n == 200


def test_too_few_pairs_are_not_evaluated_with_what_they_need(bright_core, protocol):
    for n in (3, 20):
        findings = leakage_findings(bright_core.take(np.arange(n)), protocol=protocol, seed=1)
        grouped = findings.named("core_lr_auc_grouped")
        assert grouped.status is Status.NOT_EVALUATED
        assert grouped.needs_n == 300
        assert not findings.deciding.all_passed


def test_excess_over_independent_arcs_is_zero_for_the_same_engine(arcs, protocol):
    half = np.arange(200)
    finding = _excess(bench(protocol), arcs.take(half), arcs.take(half + 200))
    assert finding.status is Status.NOT_EVALUATED
    assert finding.interval[0] < 0 < finding.interval[1]


def test_excess_shows_a_leak_that_independent_arcs_do_not_have(bright_core, sham, protocol):
    half = np.arange(200)
    finding = _excess(bench(protocol), bright_core.take(half), sham.take(half + 200))
    assert finding.interval[0] > 0.05


def test_the_low_overlap_stratum_holds_only_arcs_outside_the_core(arcs, protocol):
    finding = _low_overlap(bench(protocol), arcs, None)
    assert finding.n == int((arcs.kappa < 0.10).sum()) > 50
    assert finding.needs_n == 500
    assert "ours 0." in finding.detail


def test_moments_do_not_change_when_the_stamp_is_turned(arcs):
    few = arcs.take(np.arange(20))
    seen = ASINH.apply(few.stamps, few.x_center, few.y_center)
    straight = core_moments(seen, few.x_center, few.y_center)
    turned = core_moments(np.rot90(seen, axes=(2, 3)), few.y_center, 63 - few.x_center)
    assert straight.shape == (20, 54)
    np.testing.assert_allclose(turned, straight, rtol=1e-9, atol=1e-9)
    assert np.ptp(straight, axis=0).min() > 0


def test_results_depend_on_the_seed_and_on_nothing_else(sham, protocol):
    few = sham.take(np.arange(200))
    first, again = (linear(few, protocol, design="unpaired", seed=4) for _ in range(2))
    other = linear(few, protocol, design="unpaired", seed=5)
    assert first == again
    assert first.auc != other.auc


def test_pixels_that_are_not_finite_and_lengths_that_do_not_fit_are_named(hosts, pairs_of):
    stamps = hosts["image"].copy()
    stamps[3, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match=str(hosts["names"][3])):
        pairs_of(stamps)
    with pytest.raises(DataError, match="kappa"):
        pairs_of(n=10, kappa=np.zeros(9))
