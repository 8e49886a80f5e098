"""The texture probe finds shuffled pixels, is blind to nothing planted, and labels what fails it."""

import numpy as np
import pytest
from scipy import ndimage

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.gates.detection import OperatingPoint
from darkhaloscope.gates.hard_negatives import (
    ARTEFACT_BOUND,
    HardSuite,
    Source,
    artefact_features,
    artefact_probe,
)
from darkhaloscope.gates.reliance import shuffled_negatives

POINT = OperatingPoint(threshold=0.5, fpr=0.01, n=2000, enough=True, text="threshold 0.5")
SOURCE = Source(seeds=(1,), manifests=("m",), host_domain=HostDomain.SIM)


def probe(stamps, pairs, protocol):
    return artefact_probe(stamps, pairs, protocol=protocol, seed=1, kind="test")


def test_the_same_pixels_are_a_coin_toss(arcs, protocol):
    assert probe(arcs.controls, arcs, protocol).auc == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("plant", ["speckle", "smooth", "bands"])
def test_planted_textures_are_found(plant, arcs, protocol):
    """One pixel in twenty two sigma up; a little smoothing; noise that the bands share."""
    rng = np.random.default_rng(3)
    sigma = 1.4826 * np.median(np.abs(arcs.controls), axis=(2, 3), keepdims=True)
    noise = rng.standard_normal(arcs.controls.shape)
    changed = {
        "speckle": arcs.controls + 2 * sigma * (rng.random(arcs.controls.shape) < 0.05),
        "smooth": ndimage.gaussian_filter(arcs.controls, (0, 0, 0.4, 0.4)),
        "bands": arcs.controls + sigma * noise[:, :1],
    }[plant]
    assert probe(changed.astype(np.float32), arcs, protocol).interval[0] > ARTEFACT_BOUND


def test_the_brief_s_shuffle_is_easier_to_see_than_the_arcs_it_is_made_of(arcs, protocol):
    bright = arcs.take(arcs.arc_snr_mf > np.median(arcs.arc_snr_mf))
    shuffled = shuffled_negatives(bright, seed=1)
    assert probe(shuffled, bright, protocol).auc > probe(bright.stamps, bright, protocol).auc + 0.03


def test_features_do_not_know_how_bright_a_stamp_is(arcs):
    features = artefact_features(arcs.controls)
    assert features.shape == (len(arcs), 15)
    assert np.isfinite(features).all()
    np.testing.assert_allclose(features, artefact_features(3 * arcs.controls), rtol=1e-3, atol=1e-3)


def suite(pairs, protocol, predict, point=POINT, **hard):
    rows = np.arange(len(pairs))
    eased = protocol.model_copy(
        update={"statistics": protocol.statistics.model_copy(update={"bootstrap": 200})}
    )
    given = {kind: (rows[: len(stamps)], stamps) for kind, stamps in hard.items()}
    made = HardSuite(pairs, given, predict, point, eased, 1, SOURCE).measured()
    return {m.name.removeprefix("hardneg_sim_"): m for m in made}


def test_a_suite_says_what_a_model_makes_of_each_kind(arcs, protocol):
    rng = np.random.default_rng(0)
    known = {c.tobytes() for c in arcs.controls}

    def likes_arcs(stamps, *_, **__):
        return np.array([0.2 if s.tobytes() in known else 0.8 for s in stamps]) + 1e-3 * rng.random(
            len(stamps)
        )

    found = suite(arcs, protocol, likes_arcs, HN3=arcs.controls, HN5=arcs.stamps)
    assert found["HN3_auroc"].value == 1.0
    assert found["HN3_fpr"].value == 0.0
    assert found["HN3_fpr"].high > 0
    assert found["HN5_auroc"].value == pytest.approx(0.5, abs=0.05)
    assert found["HN5_fpr"].value == 1.0
    assert found["HN3_tpr_at_fpr_01"].value == 1.0
    for measured in found.values():
        assert measured.arc_domain is ArcDomain.SIM
        assert measured.manifests == ("m",)
    assert found["HN3_artefact_auc"].status is Status.PASS


def test_a_kind_that_fails_its_probe_is_labelled_in_every_figure(arcs, protocol):
    rng = np.random.default_rng(1)
    speckled = arcs.controls + 3 * arcs.controls.std() * (rng.random(arcs.controls.shape) < 0.05)
    found = suite(arcs, protocol, lambda s, *_, **__: rng.random(len(s)), HN1=speckled.astype(np.float32))
    assert found["HN1_artefact_auc"].status is Status.FAIL
    assert "must not exceed 0.6" in found["HN1_artefact_auc"].detail
    for name in ("HN1_auroc", "HN1_tpr_at_fpr_01", "HN1_fpr"):
        assert "HN1 fails its artefact probe" in found[name].detail


def test_too_few_pairs_or_negatives_decide_nothing(arcs, protocol):
    few = suite(arcs, protocol, lambda s, *_, **__: s.mean(axis=(1, 2, 3)), HN2=arcs.controls[:60])
    assert few["HN2_artefact_auc"].status is Status.NOT_EVALUATED
    assert "60 of the 300 pairs" in few["HN2_artefact_auc"].detail
    blind = suite(arcs, protocol, lambda s, *_, **__: s.mean(axis=(1, 2, 3)), None, HN2=arcs.controls[:30])
    assert blind["HN2_fpr"].status is Status.NOT_EVALUATED
    assert blind["HN2_auroc"].value is not None
    none = suite(arcs, protocol, lambda s, *_, **__: s.mean(axis=(1, 2, 3)), HN2=arcs.controls[:5])
    assert len(none) == 4
    assert all(m.value is None and "5 pairs; at least 20" in m.detail for m in none.values())
