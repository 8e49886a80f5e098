"""One Spark application for all tests of this folder, and a small sky with its pairs."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from darkhaloscope.contracts.store import local_writer, write_rows
from darkhaloscope.contracts.tables import BRICKS, PAIRED_STAMPS
from darkhaloscope.injection.inject import Inject
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.runners.local import run_local
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.sky import plan_bricks

ROOT = Path(__file__).resolve().parents[2]
QUIET = Console(quiet=True)


@pytest.fixture(scope="session")
def spark():
    """Two cores; workers find the benchmarks' faulty files."""
    from darkhaloscope.runners.spark import spark_session

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    session = spark_session(2)
    yield session
    session.stop()


@pytest.fixture(scope="session")
def bricks(tmp_path_factory):
    rows = plan_bricks(5, 5, 3, priors=SkyPriors(), anchors=1)
    writer = local_writer(tmp_path_factory.mktemp("bricks"), BRICKS)
    return write_rows(writer, rows, shard_rows=1, job={"job": "plan_bricks"})


@pytest.fixture(scope="session")
def stamps(bricks, tmp_path_factory):
    job = HarvestSky(seed=5)
    writer = local_writer(tmp_path_factory.mktemp("stamps"), job.writes)
    return run_local(job, bricks, writer, console=QUIET)


@pytest.fixture(scope="session")
def pairs(stamps, tmp_path_factory):
    job = Inject(recipe=Recipe(), seed=5, draws_per_host=2)
    return run_local(job, stamps, local_writer(tmp_path_factory.mktemp("pairs"), job.writes), console=QUIET)


@pytest.fixture(scope="session")
def mock_pairs(tmp_path_factory):
    """Rows without pixels, in nine shards."""
    rows = PAIRED_STAMPS.mock(60, seed=4)
    writer = local_writer(tmp_path_factory.mktemp("mock"), PAIRED_STAMPS)
    return write_rows(writer, rows, shard_rows=7, job={"job": "mock"})


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    from darkhaloscope.stamps.preprocess import Preprocess
    from darkhaloscope.training.config import NetworkConfig
    from darkhaloscope.training.model import Card, LensClassifier, save_checkpoint

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
