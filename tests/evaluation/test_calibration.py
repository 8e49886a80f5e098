"""Calibrators against independent fits, and the figures of calibration on rows whose truth is known."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from scipy import optimize, special
from sklearn.isotonic import IsotonicRegression

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.errors import DataError, SplitLeakage
from darkhaloscope.contracts.measured import ArcDomain
from darkhaloscope.contracts.protocol import load_protocol
from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.tables import SCORES
from darkhaloscope.evaluation.calibration import (
    calibration_measures,
    ece_as_stated,
    fit_calibrators,
    reliability,
)
from darkhaloscope.evaluation.calibrators import KINDS, Calibrator, NotFitted, fit_calibrator
from darkhaloscope.evaluation.samples import Run, labelled, negatives, positives
from darkhaloscope.stats import at_prevalence, ece, ece_debiased, ece_estimates, log_score


def sky(name, n, *, stretch=1.0, positives_kept=1.0, per_group=4):
    """SCORES of balanced classes whose logits are stated `stretch` times too large; some arcs left out.

    A network's logits at one half: x = ln of the likelihood ratio, for normal scores of two classes.
    """
    rng = stream(31, "test", name)
    label = rng.uniform(size=n) < 0.5
    shared = 0.5 * rng.normal(size=n)[np.arange(n) // per_group]
    x = rng.normal(size=n) * np.sqrt(2 - 0.25) + shared + np.where(label, 1.0, -1.0)  # variance 2: the LLR
    keep = ~label | (rng.uniform(size=n) < positives_kept)
    arc = label[keep]
    index = np.flatnonzero(keep)
    return SCORES.conform(
        {
            "row_id": [f"{name}{i}#0" for i in index],
            "target_id": [f"{name}{i}" for i in index],
            "host_id": [f"{name}{i}" for i in index],
            "group": [f"{name}cell:{i // per_group}" for i in index],
            "kind": ["lrg"] * len(index),
            "host_domain": ["sim"] * len(index),
            "arc_domain": ["sim" if a else None for a in arc],
            "score": special.expit(stretch * x[keep]),
            "psf_fwhm_arcsec": rng.uniform(0.85, 1.9, n)[keep].astype(np.float32),
        }
    )


@pytest.fixture(scope="module")
def run():
    protocol = load_protocol(overrides=["statistics.bootstrap=100"])
    return Run(protocol, seed=1, seeds=(1, 2, 3), manifests=("feedbeef",))


@pytest.fixture(scope="module")
def calib():
    return sky("c", 20_000, stretch=2.0, positives_kept=0.3)  # the fit's own error is in no interval


@pytest.fixture(scope="module")
def test_rows():
    return sky("t", 4000, stretch=2.0, positives_kept=0.6)


@pytest.fixture(scope="module")
def measured(test_rows, calib, run):
    return {m.name: m for m in calibration_measures(test_rows, calib, run)}


# calibrators


def rows_of(logit_of, n, name, centre=0.0):
    """Stated probabilities whose right logit is `logit_of(p)`."""
    rng = stream(32, "test", name)
    p = special.expit(rng.normal(centre, 2.5, n))
    return p, (rng.uniform(size=n) < special.expit(logit_of(p))).astype(float), np.arange(n)


def test_beta_recovers_its_parameters():
    a, b, c = 0.6, 1.3, -0.5
    p, y, group = rows_of(lambda p: a * np.log(p) - b * np.log1p(-p) + c, 60_000, "beta")
    found = fit_calibrator("beta", p, y, groups=group)
    assert found.parameters == pytest.approx((a, b, c), abs=0.06)
    assert (found.n_positives, found.n_negatives) == (y.sum(), len(y) - y.sum())
    assert found.prevalence == pytest.approx(y.mean())


def test_beta_is_the_bounded_optimum_where_a_bound_holds_and_where_none_does():
    for name, logit_of in (
        ("free", lambda p: 0.8 * np.log(p) - 1.1 * np.log1p(-p)),
        ("bound", lambda p: -0.4 * np.log(p) - 1.5 * np.log1p(-p)),  # falls at small p: a is bounded
    ):
        p, y, group = rows_of(logit_of, 5000, name)
        columns = np.column_stack([np.log(p), -np.log1p(-p), np.ones(len(p))])

        def loss(theta, columns=columns, y=y):
            return np.logaddexp(0, np.where(y > 0, -1, 1) * (columns @ theta)).mean()

        theirs = optimize.minimize(
            loss, [1.0, 1.0, 0.0], bounds=[(0, None), (0, None), (None, None)], method="L-BFGS-B", tol=1e-14
        )
        found = np.array(fit_calibrator("beta", p, y, groups=group).parameters)
        assert loss(found) <= theirs.fun + 1e-12
        assert found == pytest.approx(theirs.x, abs=2e-3)
        assert (found[0] == 0) == (name == "bound")


def test_temperature_recovers_the_stretch_of_the_logits_and_is_the_likelihoods():
    p, y, group = rows_of(lambda p: special.logit(p) / 2.5, 20_000, "temperature")
    found = fit_calibrator("temperature", p, y, groups=group, prevalence=float(y.mean()))
    theirs = optimize.minimize_scalar(
        lambda t: log_score(special.expit(special.logit(p) / t), y), bounds=(0.5, 10), method="bounded"
    )
    assert found.parameters[0] == pytest.approx(theirs.x, abs=1e-3)
    assert found.parameters[0] == pytest.approx(2.5, abs=0.1)
    assert log_score(found.apply(p), y) < log_score(p, y)


def test_isotonic_is_scikit_learns():
    p, y, group = rows_of(lambda p: 3 * special.logit(p) + 0.5, 3000, "isotonic")
    n_pos, n_neg = int(y.sum()), int(len(y) - y.sum())
    theirs = IsotonicRegression(
        out_of_bounds="clip", y_min=1 / (n_neg + 2), y_max=(n_pos + 1) / (n_pos + 2)
    ).fit(p, y)
    found = fit_calibrator("isotonic", p, y, groups=group)
    new = np.r_[0.0, 1.0, stream(33, "test", "new").uniform(size=2000)]
    assert found.apply(new) == pytest.approx(theirs.predict(new), abs=1e-12)
    assert 0 < found.apply(new).min() < found.apply(new).max() < 1
    assert (np.diff(found.apply(np.sort(new))) >= 0).all()


@pytest.mark.parametrize("kind", ["temperature", "beta", "isotonic"])
def test_rows_chosen_by_class_give_the_calibrator_that_all_rows_give(kind):
    """Probabilities keep the prevalence at which they are stated, whatever the share of positives fitted on.

    The control is fitted on the chosen rows without a word of the prevalence at which they are stated.
    """
    p, y, group = rows_of(lambda p: special.logit(p) / 2, 60_000, "by class", centre=-1.5)
    share, kept = float(y.mean()), (y == 0) | (np.arange(len(y)) % 10 == 0)
    grid = special.expit(np.linspace(-3, 1, 9))
    whole = fit_calibrator(kind, p, y, groups=group, prevalence=share).apply(grid)
    some = fit_calibrator(kind, p[kept], y[kept], groups=group[kept], prevalence=share).apply(grid)
    assert special.logit(some) == pytest.approx(special.logit(whole), abs=0.2)
    unmoved = fit_calibrator(kind, p[kept], y[kept], groups=group[kept])
    assert unmoved.prevalence == pytest.approx(y[kept].mean())
    assert abs(special.logit(unmoved.apply(grid)) - special.logit(whole)).max() > 0.4


def test_a_calibrator_survives_json_to_the_last_bit():
    p, y, group = rows_of(lambda p: special.logit(p) / 2, 2000, "json")
    for kind in KINDS:
        found = fit_calibrator(kind, p, y, groups=group, prevalence=0.5, fitted_on=("feedbeef",))
        again = Calibrator.model_validate_json(found.model_dump_json())
        assert again == found
        assert np.array_equal(again.apply(p), found.apply(p))
        again = Calibrator.model_validate_json(json.dumps(found.model_dump(mode="json")))
        assert again == found
    assert np.array_equal(fit_calibrator("none", p, y, groups=group).apply(p), p)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("none", (1.0,)),
        ("temperature", ()),
        ("temperature", (0.0,)),
        ("beta", (1.0, -0.1, 0.0)),
        ("beta", (1.0, 1.0)),
        ("isotonic", ()),
        ("isotonic", (0.1, 0.9, 0.5)),
        ("isotonic", (0.1, 0.9, 0.7, 0.2)),
        ("isotonic", (0.9, 0.1, 0.2, 0.7)),
        ("isotonic", (0.1, 0.9, 0.2, 1.7)),
    ],
)
def test_parameters_that_do_not_fit_their_kind_are_refused(kind, parameters):
    rows = {"prevalence": 0.5, "n_positives": 300, "n_negatives": 300}
    with pytest.raises(ValidationError, match=kind):
        Calibrator(kind=kind, parameters=parameters, **rows)
    with pytest.raises(ValidationError, match="prevalence"):
        Calibrator(kind="none", **rows | {"prevalence": 1.0})


def test_fewer_than_200_of_a_class_are_not_fitted_on():
    p, y, group = rows_of(lambda p: special.logit(p) / 2, 2000, "count")
    for turned in (False, True):
        label = 1 - y if turned else y
        prob = 1 - p if turned else p
        rare, rest = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
        for n in (199, 200):
            at = np.r_[rare[:n], rest]
            found = fit_calibrator("temperature", prob[at], label[at], groups=group[at])
            assert isinstance(found, NotFitted) == (n < 200)
            if n < 200:
                assert "199 positives" in found.why
                assert "needs 200" in found.why
        at = np.r_[rare, rest[:199]]
        assert isinstance(fit_calibrator("beta", prob[at], label[at], groups=group[at]), NotFitted)


def test_what_has_no_best_parameters_is_not_fitted_and_says_why():
    y = np.repeat([0.0, 1.0], 300)
    apart = np.r_[np.linspace(0.1, 0.4, 300), np.linspace(0.6, 0.9, 300)]
    for kind, why in (("temperature", "no maximum"), ("beta", "separates")):
        assert why in fit_calibrator(kind, apart, y, groups=y).why
    assert isinstance(fit_calibrator("isotonic", apart, y, groups=y), Calibrator)
    rng = stream(34, "test", "turned")
    turned = special.expit(rng.normal(size=600) - y)
    for kind in ("temperature", "beta"):
        assert "do not rise" in fit_calibrator(kind, turned, y, groups=y).why
    assert "do not rise" in fit_calibrator("isotonic", 1 - apart, y, groups=y).why
    with pytest.raises(DataError, match="both"):
        fit_calibrator("none", apart, np.ones(600), groups=y)
    with pytest.raises(DataError):
        fit_calibrator("beta", np.full(600, 2.0), y, groups=y)


# who may be judged


def test_a_calibrator_refuses_the_groups_it_was_fitted_on():
    p, y, group = rows_of(lambda p: special.logit(p) / 2, 2000, "seen")
    names = np.array([f"cell:{g // 4}" for g in group])
    found = fit_calibrator("temperature", p, y, groups=names)
    again = Calibrator.model_validate_json(found.model_dump_json())
    with pytest.raises(SplitLeakage, match="cell:7"):
        again.refuse_seen(["cell:7", "elsewhere"])
    again.refuse_seen(["elsewhere"])


@pytest.mark.parametrize("column", ["row_id", "target_id", "host_id", "group"])
def test_fitting_and_judging_on_common_rows_is_refused(test_rows, calib, run, column):
    at = calib.column_names.index(column)
    values = calib.column(column).to_pylist()
    values[-1] = test_rows.column(column)[5].as_py()
    leaked = calib.set_column(at, calib.schema.field(column), pa.array(values))
    for measure in (calibration_measures, reliability):
        with pytest.raises(SplitLeakage, match=column):
            measure(test_rows, leaked, run)
    with pytest.raises(SplitLeakage):
        calibration_measures(test_rows, test_rows, run)


# figures


def test_overconfident_scores_are_told_and_every_calibrator_mends_them(measured):
    raw = measured["calibration_slope_raw_synth"]
    assert raw.value == pytest.approx(0.5, abs=0.05)
    assert raw.high < 0.8
    assert "0.8 < b < 1.2: outside" in raw.detail
    for kind in ("temperature", "beta", "isotonic"):
        slope = measured[f"calibration_slope_{kind}_synth"]
        intercept = measured[f"calibration_intercept_{kind}_synth"]
        assert slope.low < 1 < slope.high
        assert intercept.low < 0 < intercept.high
        assert "inside" in slope.detail
        for better, stem in ((1, "brier_skill"), (-1, "log_score"), (-1, "ece"), (-1, "ece_debiased")):
            mended, stated = (measured[f"calibration_{stem}_{k}_synth"].value for k in (kind, "raw"))
            assert better * mended > better * stated


def test_a_calibrated_model_has_slope_one_at_every_prevalence(run, calib):
    rows = sky("right", 8000, positives_kept=0.4)
    found = {m.name: m for m in calibration_measures(rows, calib, run)}
    for after in ("", "_at_1e-2", "_at_1e-3", "_at_1e-4"):
        slope, intercept = (found[f"calibration_{stem}_raw{after}_synth"] for stem in ("slope", "intercept"))
        assert slope.low < 1 < slope.high
        assert intercept.low < 0 < intercept.high
    assert found["calibration_ece_raw_synth"].value < 0.03
    assert found["calibration_brier_skill_raw_synth"].low > 0
    assert found["calibration_slope_temperature_synth"].low > 1.5  # a calibrator of another model does harm


def test_prevalences_are_published_with_the_effective_number(measured, test_rows):
    label = labelled(positives(test_rows), negatives(test_rows))[1]
    for text, now in (("1e-4", 1e-4), ("1e-3", 1e-3), ("1e-2", 1e-2)):
        for stem in ("slope", "intercept", "log_score"):
            found = measured[f"calibration_{stem}_raw_at_{text}_synth"]
            assert f"at prevalence {now:g}" in found.detail
            w = np.where(label == 1, now / label.mean(), (1 - now) / (1 - label.mean()))
            assert f"n_eff = {w.sum() ** 2 / (w**2).sum():.1f}" in found.detail
            assert found.low < found.value < found.high
        skill = measured[f"calibration_brier_skill_beta_at_{text}_synth"]
        assert (skill.value, skill.status) == (None, Status.NOT_EVALUATED)
        assert f"needs {round(100 / now)}" in skill.detail
    assert f"prevalence of these rows, {label.mean():.3g}" in measured["calibration_slope_raw_synth"].detail


def test_every_figure_says_that_its_arcs_are_simulated_and_none_decides(measured):
    # Three bins of seeing hold rows, and one of depth: it is not known here.
    assert len(measured) == 4 * (6 + 3 * 4 + 2 + 3 + 1)
    for name, found in measured.items():
        assert name.split(" ")[0].endswith("_synth")
        assert found.arc_domain is ArcDomain.SIM
        assert (found.seeds, found.manifests) == ((1, 2, 3), ("feedbeef",))
        assert found.status in (Status.PASS, Status.NOT_EVALUATED)
        if found.value is not None:
            assert found.low <= found.value <= found.high
            assert found.n_clusters
    assert "(decides nothing)" in measured["calibration_intercept_raw_synth"].detail
    assert not {"calibration_ece_synth", "calibration_ece_debiased_synth"} & set(measured)  # synth_metrics's


def test_too_few_to_fit_on_leave_every_figure_not_evaluated_and_the_raw_ones_as_they_are(
    test_rows, run, measured
):
    few = sky("few", 400, positives_kept=0.5)
    found = {m.name: m for m in calibration_measures(test_rows, few, run)}
    assert set(found) == set(measured)
    for name, figure in found.items():
        if "_raw" in name:
            assert figure == measured[name]
        else:
            assert (figure.value, figure.status) == (None, Status.NOT_EVALUATED)
            assert "needs 200" in figure.detail
    bins = {r.calibrator: r for r in reliability(test_rows, few, run)}
    assert bins["raw"].bins
    assert bins["beta"].bins == ()
    assert "needs 200" in bins["beta"].why
    assert all(isinstance(c, NotFitted) for c in fit_calibrators(few, run)[1:])


def test_the_top_of_the_list_is_compared_with_what_is_stated(measured, test_rows, calib, run):
    scores, label, _ = labelled(positives(test_rows), negatives(test_rows))
    best = np.argsort(-scores)[:100]
    for kind in ("raw", "isotonic"):
        top = measured[f"calibration_top_100_{kind}_synth"]
        assert top.value == pytest.approx(label[best].mean())
        assert "stated" in top.detail
        deep = measured[f"calibration_top_1000_{kind}_synth"]
        assert deep.status is Status.NOT_EVALUATED
        assert "needs 10000" in deep.detail
    stated = at_prevalence(scores[best], 0.5, label.mean()).mean()
    assert f"{stated:.4g} stated" in measured["calibration_top_100_raw_synth"].detail
    assert "inside" in measured["calibration_top_100_temperature_synth"].detail
    false = special.expit(special.logit(scores[best]).min() + 0 * scores)  # all tie at the top
    tied = test_rows.set_column(
        test_rows.column_names.index("score"), test_rows.schema.field("score"), pa.array(false)
    )
    found = {m.name: m for m in calibration_measures(tied, calib, run)}
    assert "tie" in found["calibration_top_100_raw_synth"].detail
    assert found["calibration_slope_raw_synth"].status is Status.NOT_EVALUATED
    assert "the same" in found["calibration_slope_raw_synth"].detail


def test_a_stated_top_that_is_not_found_is_outside(calib, run):
    rows = sky("sure", 4000, stretch=1.0)
    label = np.array([a is not None for a in rows.column("arc_domain").to_pylist()])
    rng = stream(35, "test", "sure")
    score = np.where(
        rng.uniform(size=len(label)) < 0.05, 0.99, 0.3 + 0.1 * label + 0.1 * rng.uniform(size=len(label))
    )
    rows = rows.set_column(rows.column_names.index("score"), rows.schema.field("score"), pa.array(score))
    found = {m.name: m for m in calibration_measures(rows, calib, run)}
    top = found["calibration_top_100_raw_synth"]
    assert top.value == pytest.approx(0.5, abs=0.1)
    assert "outside" in top.detail


def test_slopes_by_seeing_hold_every_row_and_a_bin_of_one_class_has_none(measured, test_rows, calib, run):
    cells = [
        m for name, m in measured.items() if name.startswith("calibration_slope_raw_synth psf_fwhm_arcsec ")
    ]
    assert sum(m.n for m in cells) == test_rows.num_rows
    assert all(m.value == pytest.approx(0.5, abs=0.1) for m in cells)
    seeing = np.asarray(test_rows.column("psf_fwhm_arcsec"))
    arc = np.array([a is not None for a in test_rows.column("arc_domain").to_pylist()])
    kept = test_rows.filter(pa.array(arc | (seeing >= 1.2)))
    found = {m.name: m for m in calibration_measures(kept, calib, run)}
    lone = found["calibration_slope_raw_synth psf_fwhm_arcsec [0.8, 1.2)"]
    assert lone.status is Status.NOT_EVALUATED
    assert "one of the classes is empty" in lone.detail
    assert not any("ece" in name and "psf" in name for name in found)


def test_one_class_alone_is_an_error(test_rows, calib, run):
    arc = pa.array([a is not None for a in test_rows.column("arc_domain").to_pylist()])
    with pytest.raises(DataError, match="both are needed"):
        calibration_measures(test_rows.filter(arc), calib, run)
    with pytest.raises(DataError, match="calib"):
        calibration_measures(test_rows, calib.slice(0, 0), run)


def test_the_error_as_stated_knows_which_rows_share_a_group(test_rows, run):
    pos, neg = positives(test_rows), negatives(test_rows)
    prob, label, groups = labelled(pos, neg)
    found = ece_as_stated(pos, neg, run)
    assert [m.name for m in found] == ["calibration_ece_synth", "calibration_ece_debiased_synth"]
    values = ece(prob, label), ece_debiased(prob, label, groups=groups)
    assert [m.value for m in found] == pytest.approx(values)
    for measured, estimate in zip(found, ece_estimates(prob, label, groups), strict=True):
        assert (measured.low, measured.high) == (estimate.low, estimate.high)
        assert 0 < measured.low < measured.value < measured.high
        assert (measured.n, measured.n_clusters) == (len(prob), len(set(groups)))
        assert measured.method.startswith("inverted test")


def test_reliability_is_data_for_a_figure(test_rows, calib, run):
    found = {r.calibrator: r for r in reliability(test_rows, calib, run)}
    assert list(found) == ["raw", "temperature", "beta", "isotonic"]
    for r in found.values():
        assert r.name == f"reliability_{r.calibrator}_synth"
        assert sum(b.n for b in r.bins) == test_rows.num_rows
        assert r.prevalence == pytest.approx(len(positives(test_rows)) / test_rows.num_rows)
    missed = {k: sum(not b.low <= b.p_mean <= b.high for b in r.bins) for k, r in found.items()}
    assert missed["raw"] > 8
    assert max(missed["temperature"], missed["beta"]) <= 3
