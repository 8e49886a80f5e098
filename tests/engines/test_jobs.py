"""JOB.json: every job of the house can stand in one, and it runs the same on any engine."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from tests.engines.conftest import QUIET, ROOT
from typer.testing import CliRunner

import darkhaloscope
from darkhaloscope.cli import app, main
from darkhaloscope.contracts.config import find_config
from darkhaloscope.contracts.errors import CheckFailed, ConfigError, StoreError
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.store import local_writer, open_dataset
from darkhaloscope.contracts.tables import FINDINGS, SPLITS
from darkhaloscope.dataset.splits import AssignSplits, SplitConfig, group_counts, plan_splits
from darkhaloscope.pipeline.addresses import dataset_at, text_at, writer_at
from darkhaloscope.pipeline.experiment import load_experiment
from darkhaloscope.pipeline.jobs import (
    AnyJob,
    Engine,
    VerifySplits,
    find_engine,
    read_job,
    run_job,
)
from darkhaloscope.runners.local import run_local

SHIPPED = sorted(find_config("verify_splits.json").parent.glob("*.json"))


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_job_of_the_house_can_stand_in_a_file():
    for module in pkgutil.walk_packages(darkhaloscope.__path__, "darkhaloscope."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = {
        c for c in subclasses(Job) if c.__module__.startswith("darkhaloscope") and "job" in c.__annotations__
    }
    union, _ = get_args(AnyJob)
    assert set(get_args(union)) == found | {VerifySplits}
    assert len(found) == 12


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_job_file_is_read(path):
    assert read_job(str(path)).job.job in {"inject", "verify_pairs", "verify_splits", "score"}
    assert read_job(path.name) == read_job(str(path))


def test_the_briefs_five_spark_jobs_and_gen5_are_there():
    names = {path.stem for path in SHIPPED}
    injections = {f"{lineage}_injection" for lineage in ("gen5_prime", "gen7", "gen8")}
    assert names == {"verify_splits", "verify_paired", "score_all"} | injections
    arms = {"gen5_prime": "gen5_prime_baseline", "gen7": "gen7_hybrid", "gen8": "gen8_domain_rand"}
    for name, arm in arms.items():
        job = read_job(f"{name}_injection.json").job
        assert (job.recipe, job.seed) == (
            load_experiment(f"{arm}.yaml").recipe,
            load_experiment(f"{arm}.yaml").seed,
        )


def write_job(folder, name, **content):
    path = folder / name
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"job": {"job": "nothing"}, "source": "a", "out": "b"}, "'inject'"),
        (
            {"job": {"job": "inject", "seed": 1, "sede": 2}, "source": "a", "out": "b"},
            "sede.*not a known key",
        ),
        ({"job": {"job": "inject", "seed": "1"}, "source": "a", "out": "b"}, "seed.*valid integer"),
        ({"job": {"job": "inject", "seed": 1}, "out": "b"}, "source.*missing"),
        ({"job": {"job": "inject", "seed": 1}, "source": "a", "out": "b", "batch_rows": 0}, "batch_rows"),
    ],
)
def test_a_wrong_key_is_named(content, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        read_job(write_job(tmp_path, "job.json", **content))


def test_what_is_no_job_file_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("[]")
    for name, said in (("a.json", "not JSON"), ("b.json", "mapping"), ("c.json", "no such")):
        with pytest.raises(ConfigError, match=said):
            read_job(str(tmp_path / name))


def test_small_numbers_of_json_stay_numbers(tmp_path):
    path = write_job(
        tmp_path,
        "job.json",
        job={"job": "assign_splits", "plan": {}, "snr_floor_mf": 1e-05},
        source="a",
        out="b",
    )
    assert "1e-05" in text_at(path)
    assert read_job(path).job.snr_floor_mf == 1e-5


def test_engines_are_named():
    assert find_engine("local:3") == Engine("local", 3)
    assert find_engine("local", 2) == Engine("local", 2)
    assert find_engine("spark") == Engine("spark")
    assert find_engine("spark:2", 5) == Engine("spark", 2)
    for wrong in ("dask", "local:0", "local:", "spark:two"):
        with pytest.raises(ConfigError, match="is no engine"):
            find_engine(wrong)


def test_addresses_of_this_machine_and_others(tmp_path, monkeypatch):
    writer = writer_at(f"file://{tmp_path}/a", SPLITS)
    assert writer.files.root == f"{tmp_path}/a"
    monkeypatch.chdir(tmp_path)
    assert writer_at("a", SPLITS).files.root == f"{tmp_path}/a"
    with pytest.raises(ConfigError, match="'gopher://' is not a kind of address"):
        dataset_at("gopher://bucket/a")
    with pytest.raises(StoreError, match="does not exist"):
        dataset_at("nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        writer_at("file", SPLITS)


@pytest.fixture
def split_pairs(pairs, tmp_path):
    plan = plan_splits([group_counts(pairs.read(["group"]))], SplitConfig())
    return run_local(AssignSplits(plan=plan), pairs, local_writer(tmp_path / "splits", SPLITS), console=QUIET)


@pytest.mark.usefixtures("spark")
def test_the_briefs_jobs_give_the_same_on_both_engines(stamps, pairs, split_pairs, checkpoint, tmp_path):
    """Each shipped file with its addresses put in: here, and on the session of these tests."""
    inputs = {"verify_paired": pairs, "verify_splits": split_pairs, "score_all": pairs}
    for path in SHIPPED:
        given = read_job(path.name)
        source = inputs.get(path.stem, stamps)
        job = given.job
        if path.stem == "score_all":
            job = job.model_copy(update=checkpoint)
        if path.stem == "verify_splits":
            audit = str(tmp_path / "verify_paired-local")
            job = job.model_copy(update={"data": (pairs.where,), "audits": (audit,)})
        made, findings = {}, {}
        for engine in ("local", "spark"):
            out = str(tmp_path / f"{path.stem}-{engine}")
            update = {
                "job": job,
                "source": source.where,
                "out": out,
                "source_fingerprint": source.fingerprint,
            }
            made[engine], findings[engine] = run_job(
                given.model_copy(update=update), Engine(engine), console=QUIET
            )
        assert made["local"].fingerprint == made["spark"].fingerprint, path.stem
        assert made["local"].read().equals(made["spark"].read())
        assert findings["local"].to_json() == findings["spark"].to_json()
        assert bool(findings["local"]) == path.stem.startswith("verify")


def test_another_source_than_the_files_is_refused(stamps, tmp_path):
    file = read_job("gen7_injection.json").model_copy(
        update={"source": stamps.where, "out": str(tmp_path / "out"), "source_fingerprint": "0" * 16}
    )
    with pytest.raises(StoreError, match=f"has the fingerprint {stamps.fingerprint}, not 0000"):
        run_job(file, Engine("local"))
    assert not (tmp_path / "out").exists()


def test_the_verb_says_what_failed_and_exits_1(split_pairs, pairs, stamps, tmp_path):
    job = {"job": "verify_splits", "data": [pairs.where]}
    path = write_job(tmp_path, "good.json", job=job, source=split_pairs.where, out=str(tmp_path / "good"))
    assert CliRunner().invoke(app, ["job", path, "--on", "local:1"]).exit_code == 0
    job["data"].append(stamps.where)  # whose rows nobody split
    path = write_job(tmp_path, "bad.json", job=job, source=split_pairs.where, out=str(tmp_path / "bad"))
    done = CliRunner().invoke(app, ["job", path, "--on", "local:1"])
    assert isinstance(done.exception, CheckFailed)
    assert done.exception.exit_code == 1
    found = open_dataset(tmp_path / "bad").expect(FINDINGS).read().to_pylist()
    assert [row["name"] for row in found if row["status"] == "FAIL"] == ["split_complete"]
    assert "FAIL           split_complete" in done.stdout


def test_spark_submit_runs_a_job_file_and_hands_on_the_exit_code(split_pairs, pairs, tmp_path):
    """The line of docs/scale.md, on this machine; then a file that is not there."""
    import pyspark

    plan = plan_splits([group_counts(pairs.read(["group"]))], SplitConfig())
    job = {"job": "assign_splits", "plan": plan}
    path = write_job(tmp_path, "job.json", job=job, source=pairs.where, out=str(tmp_path / "out"))
    entry = Path(darkhaloscope.__file__).with_name("__main__.py")
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    command = [submit, "--master", "local[2]", entry, "job", path, "--on", "spark"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert open_dataset(tmp_path / "out").fingerprint == split_pairs.fingerprint
    command[5] = f"{path}.not"
    wrong = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert wrong.returncode == 2
    said = wrong.stdout + wrong.stderr  # Spark joins what Python says
    assert "no such configuration file" in said
    assert "Traceback" not in said


def test_naming_a_job_loads_neither_pytorch_nor_spark():
    code = (
        "import sys, darkhaloscope.pipeline.jobs as j\n"
        "j.read_job('score_all.json')\n"
        "assert not {'torch', 'lightning', 'timm', 'pyspark', 'boto3'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_entry_is_the_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dhs", "job", "nowhere.json"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert ROOT.is_dir()
