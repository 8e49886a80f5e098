"""Real galaxies as sources, from the command's own stages: none is lensed in two splits."""

import shutil

import pytest

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.config import canonical, parse
from darkhaloscope.pipeline.data import DataStages
from darkhaloscope.pipeline.experiment import Experiment, claim, load_experiment

OVERLAP = "split_source_overlap"


@pytest.mark.realdata
def test_a_real_source_galaxy_is_lensed_in_one_split_only(real_data, tmp_path, monkeypatch):
    data = canonical(load_experiment("demo.yaml"))
    data["survey"] |= {"bricks": 24, "targets_per_brick": 6}
    data["survey"]["lookalikes"] |= {"ring": 2, "anchors": 3, "bricks": 2}
    data["recipe"]["shapes"] = {"kind": "real", "catalog": str(real_data / "sources")}
    experiment = parse(data, Experiment, "real sources")
    claim(tmp_path / "run", experiment)
    run = DataStages(experiment, tmp_path / "run")
    finding = run.foundation.named(OVERLAP)
    assert finding.status is Status.PASS
    assert finding.n > 50
    lensed = run.pairs["sky"].read(["source_id", "reject"]).to_pylist()
    assert sum(row["reject"] is None for row in lensed) > 100
    assert all(
        finding.status is not Status.FAIL for finding in run.foundation if finding.name.startswith("split_s")
    )

    # The control: drawn from one pool, galaxies come twice, and the check says so.
    shutil.rmtree(tmp_path / "run")
    claim(tmp_path / "run", experiment)
    monkeypatch.setattr(DataStages, "_shares_by_group", {})
    assert DataStages(experiment, tmp_path / "run").foundation.named(OVERLAP).status is Status.FAIL
