"""A real lens is scored by the very pixels, centre and normalisation that a training galaxy has."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from darkhaloscope.dataset.pairs import PairDataset
from darkhaloscope.dataset.pixels import PairBlock, Pairs
from darkhaloscope.dataset.sampling import PairSampling
from darkhaloscope.evaluation.score import Score, ScoreStamps
from darkhaloscope.injection.inject import Inject
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.stamps.harvest import AssumedPsf, HarvestSky, harvest_cutouts
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.stamps.stamp import decode_planes
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.sky import plan_bricks
from darkhaloscope.training.config import NetworkConfig
from darkhaloscope.training.model import Card, LensClassifier, load_checkpoint, save_checkpoint

PLAIN = PairSampling(
    hard_negative_ratio=0.0, core_dropout_prob=0.0, flips=False, rotations=False, disc_share=0.0
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    network = NetworkConfig(
        backbone="resnet10t", stem="native", options={"channels": (8, 8, 16, 16), "stem_width": 4}
    )
    card = Card(
        network=network, preprocess=Preprocess(kind="asinh"), stamp_shape=(3, 64, 64), training={},
        sampling={}, fingerprints={}, history=(), best_epoch=0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "checkpoint.pt"
    sha = save_checkpoint(path, LensClassifier.seeded(network, bands=3, seed=3).state_dict(), card)
    return {"checkpoint": str(path), "checkpoint_sha256": sha}


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory):
    """Galaxies on 101 px with their centres off the middle, as a file of cutouts may hold them."""
    bricks = plan_bricks(5, 2, 4, priors=SkyPriors(), anchors=0)
    rows = HarvestSky(seed=5, size=101).run(bricks).to_pylist()
    images = np.stack([decode_planes(row["stamp_npz"], where="sky") for row in rows if row["kind"] == "lrg"])
    path = Path(tmp_path_factory.mktemp("cutouts")) / "fields.npz"
    np.savez(path, images=np.roll(images, (2, -3), axis=(2, 3)).astype(np.float32))
    return path


def harvested(path, kind):
    psf = AssumedPsf(psfsize_arcsec=(1.3, 1.2, 1.1))
    return harvest_cutouts([path], size=64, kind=kind, psf=psf)


def scored(job, rows):
    return job.run(rows.select(list(job.columns)))


def test_a_lens_goes_the_way_of_a_training_galaxy(cutouts, checkpoint):
    lenses, hosts = harvested(cutouts, "lens"), harvested(cutouts, "lrg")
    pairs = Inject(recipe=Recipe(), seed=1, sham=True).run(hosts)
    assert set(lenses.column("arc_domain").to_pylist()) == {"real"}
    ours = scored(ScoreStamps(**checkpoint), lenses).column("score").to_numpy()
    theirs = scored(Score(**checkpoint), pairs)
    assert len(ours) >= 4
    for view in ("score", "score_ctrl"):
        np.testing.assert_array_equal(ours, theirs.column(view).to_numpy())
    masked = scored(ScoreStamps(**checkpoint), lenses).column("score_core_masked")
    np.testing.assert_array_equal(masked.to_numpy(), theirs.column("score_ctrl_core_masked").to_numpy())


def test_the_network_sees_of_a_lens_what_it_saw_in_training(cutouts, checkpoint):
    lenses, pairs = (
        harvested(cutouts, "lens"),
        Inject(recipe=Recipe(), seed=1, sham=True).run(harvested(cutouts, "lrg")),
    )
    control = np.stack([decode_planes(b, where="row") for b in pairs.column("ctrl_stamp_npz").to_pylist()])
    x, y = (pairs.column(c).to_numpy().astype(float) for c in ("x_center_pix", "y_center_pix"))
    keys, hosts = (tuple(pairs.column(c).to_pylist()) for c in ("task_id", "host_id"))
    scorer = load_checkpoint(checkpoint["checkpoint"])
    training = PairDataset(
        Pairs(keys, hosts, PairBlock(control, control, x, y)), PLAIN, scorer.card.preprocess, seed=1
    )
    stamps = np.stack([decode_planes(b, where="row") for b in lenses.column("stamp_npz").to_pylist()])
    seen = scorer.card.preprocess.apply(
        stamps, *(lenses.column(c).to_numpy().astype(float) for c in ("x_center_pix", "y_center_pix"))
    )
    for i in range(len(keys)):
        fed = training[0, i].x
        np.testing.assert_array_equal(fed[1].numpy(), seen[i])
        with torch.inference_mode():
            logit = float(scorer.model(fed)[1])
        score = scored(ScoreStamps(**checkpoint), lenses.slice(i, 1)).column("score")[0].as_py()
        assert 1 / (1 + np.exp(-logit)) == pytest.approx(score, abs=1e-5)


def test_pixels_of_another_path_score_otherwise(cutouts, checkpoint):
    """The negative control: clipped pixels, and a centre off by one, are another score."""
    lenses = harvested(cutouts, "lens")
    clipped = cutouts.with_name("clipped.npz")
    np.savez(clipped, images=np.clip(np.load(cutouts)["images"], None, 0.5))
    scores = [
        scored(ScoreStamps(**checkpoint), r).column("score") for r in (lenses, harvested(clipped, "lens"))
    ]
    assert not scores[0].equals(scores[1])
    at = lenses.column_names.index("x_center_pix")
    moved = pa.array(lenses.column("x_center_pix").to_numpy() + 1, lenses.schema.field(at).type)
    beside = lenses.set_column(at, lenses.schema.field(at), moved)
    cores = [scored(ScoreStamps(**checkpoint), r).column("score_core_masked") for r in (lenses, beside)]
    assert not cores[0].equals(cores[1])
