from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.contracts.protocol import load_protocol
from darkhaloscope.contracts.tables import SCORES
from darkhaloscope.evaluation.metrics import (
    anchor_metrics,
    contaminant_metrics,
    fpr_name,
    performance_findings,
    synth_metrics,
)
from darkhaloscope.evaluation.operating import operating_metrics
from darkhaloscope.evaluation.recovery import Recovery
from darkhaloscope.evaluation.samples import Run, negatives, positives
from darkhaloscope.evaluation.selection import completeness, detection_threshold
from darkhaloscope.stats import ece


def table(n, prefix, score, *, kind="lrg", arc=None, host="sim", **columns):
    rng = np.random.default_rng(len(prefix) + n)
    rows = {
        "row_id": [f"{prefix}{i}#0" for i in range(n)],
        "target_id": [f"{prefix}{i}" for i in range(n)],
        "host_id": [f"{prefix}{i}" for i in range(n)],
        "group": [f"cell:{i // 3}" for i in range(n)],
        "kind": [kind] * n,
        "host_domain": [host] * n,
        "arc_domain": [arc] * n,
        "score": pa.array([None if s is None else float(s) for s in score], pa.float32()),
        "psf_fwhm_arcsec": rng.uniform(0.7, 2.2, n).astype(np.float32),
    }
    return SCORES.conform(rows | columns)


def logistic(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def arcs():
    rng = np.random.default_rng(1)
    n = 600
    theta = rng.uniform(0.4, 3.2, n)
    score, control = logistic(rng.normal(1.5, 1.5, n)), logistic(rng.normal(-1.5, 1.5, n))
    return table(
        n, "a", score, arc="sim", score_ctrl=control.astype("f4"), theta_e_arcsec=theta.astype("f4"),
        arc_snr=rng.lognormal(0.6, 1, n).astype("f4"), arc_snr_mf=rng.lognormal(2.5, 1, n).astype("f4"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain():
    return table(1200, "n", logistic(np.random.default_rng(2).normal(-1.5, 1.5, 1200)))


@pytest.fixture(scope="module")
def run():
    protocol = load_protocol(overrides=["statistics.bootstrap=1000"])
    return Run(protocol, seed=1, seeds=(1, 2, 3), manifests=("feedbeef",))


@pytest.fixture(scope="module")
def synth(arcs, plain, run):
    return {m.name: m for m in synth_metrics(pa.concat_tables([arcs, plain]), run)}


def test_auroc_is_that_of_all_rows_with_its_interval_and_provenance(synth, arcs, plain):
    rows = pa.concat_tables([arcs, plain])
    pos, neg = positives(rows).score, negatives(rows).score
    assert len(neg) == 1800  # the controls of the arcs are negatives too
    found = synth["auroc_synth"]
    wanted = roc_auc_score(np.repeat([1, 0], [len(pos), len(neg)]), np.concatenate([pos, neg]))
    assert found.value == pytest.approx(wanted, abs=1e-9)
    assert found.low < found.value < found.high
    assert (found.host_domain, found.arc_domain) == (HostDomain.SIM, ArcDomain.SIM)
    assert (found.seeds, found.manifests, found.n) == ((1, 2, 3), ("feedbeef",), 2400)
    assert found.n_clusters == 400


def test_a_target_that_stands_among_the_negatives_is_not_counted_twice(arcs):
    own = table(600, "a", np.full(600, 0.1))
    assert len(negatives(pa.concat_tables([arcs, own]))) == 600
    twice = pa.concat_tables([arcs, arcs])
    assert len(negatives(twice)) == 600


def test_contaminants_anchors_and_unscored_rows_are_no_negatives(arcs, plain):
    others = [
        table(5, "c", np.ones(5), kind="contaminant", category=["ring"] * 5),
        table(5, "l", np.ones(5), kind="lens", arc="nature"),
        table(5, "x", [None] * 5),
    ]
    assert len(negatives(pa.concat_tables([plain, *others]))) == len(plain)
    assert len(positives(pa.concat_tables([arcs, *others]))) == len(arcs)


def test_names_of_simulated_positives_say_so(synth):
    assert all("_synth" in name or "_sim" in name for name in synth)
    assert not any(name.startswith(("real_", "anchor_")) for name in synth)


def test_tpr_is_withheld_without_ten_over_f_negatives(synth):
    assert [fpr_name(f) for f in (1e-2, 1e-3, 1e-4)] == ["001", "0001", "00001"]
    assert synth["tpr_at_fpr_001_synth"].status is Status.PASS
    assert synth["tpr_at_fpr_001_synth"].low is not None
    for name, needs in (("0001", 10_000), ("00001", 100_000)):
        found = synth[f"tpr_at_fpr_{name}_synth"]
        assert found.status is Status.NOT_EVALUATED
        assert str(needs) in found.detail


def test_calibration_is_the_ece_of_the_rows(synth, arcs, plain):
    rows = pa.concat_tables([arcs, plain])
    pos, neg = positives(rows).score, negatives(rows).score
    labels = np.repeat([1.0, 0.0], [len(pos), len(neg)])
    found = synth["calibration_ece_synth"]
    assert found.value == pytest.approx(ece(np.concatenate([pos, neg]), labels, 15))
    assert found.low <= found.value < found.high
    assert 0 < synth["calibration_ece_debiased_synth"].value < 0.3


def test_precision_names_its_prevalence_and_win_rate_its_pairs(synth):
    assert "prevalence" in synth["precision_at_recall_90_synth"].detail
    assert 0.25 < synth["precision_at_recall_90_synth"].value < 1
    assert synth["win_rate_synth"].n == 600
    assert synth["win_rate_synth"].value == pytest.approx(0.92, abs=0.04)


def test_strata_hold_every_arc_in_bins_below_above_and_between(synth, arcs):
    for column in ("theta_e_arcsec", "arc_snr"):
        cells = [m for name, m in synth.items() if name.startswith(f"auroc_synth {column} ")]
        assert any("< " in m.name for m in cells)
        counts = [int(m.detail.split(" arcs")[0]) for m in cells]
        assert sum(counts) == len(arcs)
    empty = [m for m in synth.values() if m.name.startswith("auroc_synth") and m.value is None]
    assert all(m.status is Status.NOT_EVALUATED and m.detail for m in empty)


def test_hosts_of_two_kinds_are_also_told_apart(arcs, plain, run):
    real = table(40, "r", logistic(np.random.default_rng(5).normal(-1, 1, 40)), host="real")
    found = {m.name: m for m in synth_metrics(pa.concat_tables([arcs, plain, real]), run)}
    assert found["auroc_synth"].host_domain is HostDomain.MIXED
    assert found["auroc_synth_sim_hosts"].host_domain is HostDomain.SIM
    assert found["auroc_synth_real_hosts"].status is Status.NOT_EVALUATED


def test_one_class_alone_is_an_error(arcs, plain, run):
    only = arcs.set_column(
        arcs.column_names.index("score_ctrl"), "score_ctrl", pa.nulls(len(arcs), pa.float32())
    )
    for rows in (plain, only):
        with pytest.raises(DataError, match="both are needed"):
            synth_metrics(rows, run)


def test_contaminants_by_category_with_exact_intervals_and_the_rule_of_three(run):
    rings = table(
        60, "ring", np.r_[np.full(6, 0.8), np.full(54, 0.1)], kind="contaminant", category=["ring"] * 60
    )
    spikes = table(25, "sp", np.zeros(25), kind="contaminant", category=["spike"] * 25)
    mergers = table(4, "m", np.zeros(4), kind="contaminant", category=["merger"] * 4)
    found = {m.name: m for m in contaminant_metrics(pa.concat_tables([rings, spikes, mergers]), run)}
    assert len(found) == 12
    ring = found["mock_contaminant_fpr_ring_p70"]
    assert (ring.value, ring.status) == (0.1, Status.PASS)
    assert (ring.low, ring.high) == (pytest.approx(0.0376, abs=1e-3), pytest.approx(0.2051, abs=1e-3))
    assert found["mock_contaminant_fpr_ring_p90"].value == 0.0
    assert "below 3/n = 0.12" in found["mock_contaminant_fpr_spike_p50"].detail
    assert found["mock_contaminant_fpr_merger_p50"].status is Status.NOT_EVALUATED
    assert "needs 30" in found["mock_contaminant_fpr_merger_p50"].detail
    assert found["mock_contaminant_fpr_spiral_p50"].value is None


def anchors(n, score, arc="nature", **columns):
    return table(n, "l", score, kind="lens", arc=arc, name=[f"L{i}" for i in range(n)], **columns)


def test_anchor_recall_needs_its_pool_and_reports_ranks_without_it(plain, run):
    found = {m.name: m for m in anchor_metrics(anchors(40, np.full(40, 0.99)), plain, run)}
    assert set(found) == {
        "mock_anchor_median_rank_share",
        *(f"mock_anchor_recall_at_{k}" for k in (50, 100, 200)),
    }
    at_50 = found["mock_anchor_recall_at_50"]
    assert at_50.status is Status.NOT_EVALUATED
    assert at_50.value is None
    assert "needs 50000" in at_50.detail
    assert "ranks" in at_50.detail
    assert found["mock_anchor_median_rank_share"].value < 0.05
    assert at_50.arc_domain is ArcDomain.NATURE


def test_anchor_recall_counts_ranks_in_a_large_pool(run):
    pool = table(60_000, "p", np.linspace(0.0, 0.9, 60_000))
    score = np.r_[np.full(30, 0.95), np.full(10, 0.89)]
    found = {m.name: m for m in anchor_metrics(anchors(40, score), pool, run)}
    at_50 = found["mock_anchor_recall_at_50"]
    assert (at_50.status, at_50.value) == (Status.PASS, 0.75)
    assert at_50.low < 0.75 < at_50.high
    assert found["mock_anchor_recall_at_200"].value == 0.75


def test_anchors_drawn_from_the_pool_rank_in_its_middle(run):
    rng = np.random.default_rng(3)
    pool, own = table(5000, "p", rng.random(5000)), anchors(50, rng.random(50))
    share = next(m for m in anchor_metrics(own, pool, run) if m.name.endswith("median_rank_share"))
    assert share.low < 0.5 < share.high
    assert share.high - share.low < 0.4


def test_real_anchors_and_mock_ones_never_share_a_number(plain, run):
    both = pa.concat_tables([anchors(40, np.full(40, 0.9)), anchors(2, [0.9, 0.2], arc="real", host="real")])
    found = anchor_metrics(both, plain, run)
    real = [m for m in found if m.name.startswith("anchor_")]
    assert {m.arc_domain for m in real} == {ArcDomain.REAL}
    assert {m.n for m in real} == {2}
    assert all(m.status is Status.NOT_EVALUATED for m in real)
    assert {m.n for m in found if m.name.startswith("mock_")} == {40}


def test_small_anchors_are_left_out_and_said_so(plain, run):
    theta = np.r_[np.full(10, 0.3), np.full(30, 1.2)].astype(np.float32)
    found = anchor_metrics(anchors(40, np.full(40, 0.9), theta_e_arcsec=theta), plain, run)
    assert {m.n for m in found} == {30}
    assert "10 with theta_E below 0.5 arcsec left out" in found[0].detail


def recovered(arcs, threshold):
    """The arcs of some scores with truths of which nothing else is known."""
    n = arcs.num_rows
    unknown = pa.array([None] * n, pa.float32())
    truth = pa.table({
        "task_id": arcs.column("row_id"), "source_mag_r": unknown, "flux_r": unknown,
        "weight": pa.array(np.ones(n)),
    })  # fmt: skip
    return Recovery.of(arcs, truth, threshold.threshold)


def test_completeness_counts_by_theta_e_with_jeffreys_intervals(arcs, plain, run):
    threshold = detection_threshold(plain, run.protocol)
    assert threshold.fpr == 1e-2
    assert threshold.enough
    bins = completeness(recovered(arcs, threshold), run, threshold)
    assert [b.label for b in bins] == [
        "< 0.5",
        "[0.5, 1)",
        "[1, 1.5)",
        "[1.5, 2)",
        "[2, 3)",
        ">= 3",
        "unknown",
    ]
    assert sum(b.n for b in bins) == 600
    assert sum(b.k for b in bins) == int((positives(arcs).score > threshold.threshold).sum())
    full = bins[2]
    assert full.measured.value == full.k / full.n
    assert full.measured.low < full.measured.value < full.measured.high
    assert "n_eff" in full.measured.detail
    assert "FPR 0.01" in full.measured.detail
    assert bins[-1].measured.status is Status.NOT_EVALUATED
    assert "insufficient" in bins[-1].measured.detail


def test_hosts_used_again_widen_the_completeness_interval(arcs, plain, run):
    threshold = detection_threshold(plain, run.protocol)
    hosts = pa.array([f"h{i // 6}" for i in range(600)])
    score = pa.array(np.repeat(positives(arcs).score[::6], 6))
    shared = arcs
    for name, column in (("host_id", hosts), ("score", score)):
        shared = shared.set_column(shared.column_names.index(name), shared.schema.field(name), column)
    shared = shared.set_column(
        shared.column_names.index("theta_e_arcsec"), "theta_e_arcsec", pa.array(np.full(600, 1.2, np.float32))
    )
    wide = completeness(recovered(shared, threshold), run, threshold)[2].measured
    alone = shared.set_column(shared.column_names.index("host_id"), "host_id", arcs.column("host_id"))
    narrow = completeness(recovered(alone, threshold), run, threshold)[2].measured
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_with_too_few_negatives_for_a_rate_the_threshold_is_the_briefs_fixed_probability(arcs, plain, run):
    threshold = detection_threshold(plain.slice(0, 300), run.protocol)
    assert threshold.threshold == 0.5
    assert "fixed beforehand" in threshold.text
    assert "300 negatives" in threshold.text
    bins = completeness(recovered(arcs, threshold), run, threshold)
    assert sum(b.k for b in bins) == int((positives(arcs).score > 0.5).sum())
    assert detection_threshold(plain.slice(0, 0), run.protocol) is None


def test_a_threshold_that_says_it_rests_on_too_few_negatives_withholds_the_completeness(arcs, plain, run):
    threshold = replace(detection_threshold(plain, run.protocol), enough=False)
    found = completeness(recovered(arcs, threshold), run, threshold)[2].measured
    assert found.status is Status.NOT_EVALUATED


def test_a_search_meets_so_many_candidates_per_square_degree(arcs, plain, run):
    rows, calib = (
        pa.concat_tables([arcs, plain]),
        table(2000, "k", logistic(np.random.default_rng(5).normal(-1.5, 1.5, 2000))),
    )
    found = {m.name: m for m in operating_metrics(rows, calib, run, area_deg2=10.0)}
    pos, neg = positives(rows).score, negatives(rows).score
    assert found["tpr0_synth"].value == (pos > neg.max()).mean()
    assert found["tpr10_synth"].value == (pos > np.sort(neg)[-10]).mean()
    assert found["tpr0_synth"].low < found["tpr0_synth"].value < found["tpr0_synth"].high
    some = found["mock_candidates_per_deg2_fpr_001"]
    threshold = detection_threshold(calib, run.protocol).threshold
    assert some.value == pytest.approx((neg > threshold).sum() / 10.0)
    assert some.low < some.value < some.high
    assert (some.unit, some.arc_domain) == ("deg^-2", ArcDomain.NONE)
    for name in ("mock_candidates_per_deg2_fpr_0001", "partial_auc_synth"):
        assert found[name].status is Status.NOT_EVALUATED
    blind = {m.name: m for m in operating_metrics(rows, calib, run, area_deg2=None)}
    assert "not known" in blind["mock_candidates_per_deg2_fpr_001"].detail


def test_the_gate_on_auroc_reads_the_measured_figure(synth, run):
    finding = performance_findings(tuple(synth.values()), run.protocol).named("auroc_synth")
    assert finding.value == synth["auroc_synth"].value
    assert (finding.version, finding.decides) == ("v1", False)
    missing = performance_findings((), run.protocol).named("auroc_synth")
    assert missing.status is Status.NOT_EVALUATED


def test_numbers_do_not_depend_on_the_order_of_rows(arcs, plain, run, synth):
    rows = pa.concat_tables([plain, arcs])
    order = np.random.default_rng(9).permutation(rows.num_rows)
    again = {m.name: m for m in synth_metrics(rows.take(pa.array(order)), run)}
    for name in ("auroc_synth", "tpr_at_fpr_001_synth", "calibration_ece_synth"):
        assert again[name].value == pytest.approx(synth[name].value, abs=1e-12)
        assert again[name].low == pytest.approx(synth[name].low, abs=1e-12)


def test_real_lenses_are_ranked_among_real_galaxies_only(plain, run):
    lenses = anchors(2, [0.9, 0.2], arc="real", host="real")
    found = {m.name: m for m in anchor_metrics(lenses, plain, run)}
    assert all(m.value is None and m.status is Status.NOT_EVALUATED for m in found.values())
    assert "no real galaxy" in found["anchor_median_rank_share"].detail
    real = table(100, "r", np.linspace(0.0, 0.5, 100), host="real")
    ranked = {m.name: m for m in anchor_metrics(lenses, pa.concat_tables([plain, real]), run)}
    assert "100 in the pool" in ranked["anchor_median_rank_share"].detail
