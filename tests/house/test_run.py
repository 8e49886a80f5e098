"""A whole run through the command: its exit codes, its figures, a kill -9 in it, and faults planted in it."""

import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from darkhaloscope.contracts.store import local_writer, open_dataset
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SPLITS
from darkhaloscope.evaluation.selection_function import SelectionFunction
from darkhaloscope.stamps.stamp import decode_planes, encode_planes

pytestmark = pytest.mark.slow

RESULTS = ("foundation.json", "gates.json", "metrics.json")


def results(run):
    return {name: (run / "results" / name).read_bytes() for name in RESULTS}


def checkpoint(run):
    return hashlib.sha256((run / "training" / "checkpoint.pt").read_bytes()).hexdigest()


def fingerprints(run):
    return {p.parent.name: json.loads(p.read_text())["fingerprint"] for p in run.glob("*/manifest.json")}


def line_of(text, name):
    """The line that `dhs verify` prints for one finding."""
    (line,) = [line for line in text.splitlines() if f" {name} " in line or f" {name}:" in line]
    return line


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, typed, tiny):
    """(folder, answer) of `dhs run`, from nothing to the report."""
    out = tmp_path_factory.mktemp("run") / "whole"
    return out, typed("run", "demo.yaml", "--out", out, "--workers", "1", *tiny)


@pytest.fixture(scope="module")
def report(undisturbed):
    out, answer = undisturbed
    assert (out / "report.json").exists(), answer.err
    return json.loads((out / "report.json").read_text())


def test_a_run_ends_with_a_report_and_the_exit_code_of_its_verdict(undisturbed, report):
    out, answer = undisturbed
    assert report["verdict"] in ("GO", "CONDITIONAL-GO", "NO-GO")
    assert answer.code == (1 if report["verdict"] == "NO-GO" else 0)
    assert report["verdict"] != "GO"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert report["verdict"] in page
    assert page.rstrip().endswith("</html>")
    assert "Traceback" not in answer.err
    assert str(out / "report.html") in answer.last
    assert (out / "paper" / "index.json").exists()
    assert f"figures and tables: {out / 'paper' / 'index.json'}" in answer.err


def test_every_figure_names_manifests_that_stand_in_the_run(undisturbed, report):
    out, _ = undisturbed
    known = set(fingerprints(out).values())
    measured = json.loads((out / "results" / "metrics.json").read_text())
    assert len(measured) > 10
    for figure in [*measured, *report["measured"], *report["slices"], *report["contaminants"]]:
        assert figure["manifests"], figure["name"]
        assert set(figure["manifests"]) <= known, figure["name"]
    assert {entry["fingerprint"] for entry in report["manifests"]} <= known
    assert report["unlisted_manifests"] == []


def test_one_walks_back_from_every_dataset_to_the_bricks(undisturbed):
    out, _ = undisturbed
    by_mark = {mark: name for name, mark in fingerprints(out).items()}
    for path in out.glob("*/manifest.json"):
        name = path.parent.name
        steps = 0
        while inputs := json.loads((out / name / "manifest.json").read_text())["inputs"]:
            name, steps = by_mark[inputs["source"]], steps + 1
            assert steps < 6
        assert name in ("bricks", "lookalike-bricks")


def test_simulated_figures_never_call_themselves_real(report):
    for figure in report["measured"]:
        assert "real" not in (figure["host_domain"], figure["arc_domain"])
        assert not figure["name"].startswith(("real_", "anchor_")) or figure["value"] is None


def test_the_same_command_again_changes_no_number(undisturbed, typed, tiny):
    out, first = undisturbed
    before, marks, weights = results(out), fingerprints(out), checkpoint(out)
    again = typed("run", "demo.yaml", "--out", out, "--workers", "1", *tiny)
    assert again.code == first.code
    assert results(out) == before
    assert fingerprints(out) == marks
    assert checkpoint(out) == weights


def test_report_writes_the_page_again_and_does_no_stage_again(undisturbed, report, dhs):
    out, _ = undisturbed
    before, weights = results(out), checkpoint(out)
    commits = {p: p.stat().st_mtime_ns for p in out.glob("*/commits/*.json")}
    (out / "report.html").unlink()
    assert dhs("report", out).code == 0
    assert (out / "report.html").exists()
    assert results(out) == before
    assert checkpoint(out) == weights
    assert {p: p.stat().st_mtime_ns for p in out.glob("*/commits/*.json")} == commits
    again = json.loads((out / "report.json").read_text())
    assert {k: v for k, v in again.items() if k != "created"} == {
        k: v for k, v in report.items() if k != "created"
    }


def test_report_writes_a_papers_files_from_what_is_committed_the_same_bytes_twice(
    undisturbed, typed, monkeypatch
):
    from darkhaloscope.training import train

    def trains(*_, **__):
        pytest.fail("dhs report trained a network")

    monkeypatch.setattr(train, "_fit", trains)
    out, _ = undisturbed
    digests = []
    for _ in range(2):
        assert typed("report", out).code == 0
        paper = out / "paper"
        digests.append({p.relative_to(paper): p.read_bytes() for p in paper.rglob("*") if p.is_file()})
    assert digests[0] == digests[1]
    index = json.loads((paper / "index.json").read_text())
    drawn = {path.split("/")[-1] for path in index["files"]}
    assert {
        "pairs.pdf",
        "training_loss.pdf",
        "roc_log.pdf",
        "gates.pdf",
        "gates.tex",
        "key_numbers.tex",
    } <= drawn
    assert index["absent"]["figures/lenses"] == "no real lens was scored"
    assert not any("real" in path.replace("realism", "") for path in index["files"])
    named = {manifest for about in index["files"].values() for manifest in about["manifests"]}
    assert named <= set(fingerprints(out).values())


def test_the_selection_function_of_a_run_counts_its_test_arcs(undisturbed, report):
    out, _ = undisturbed
    found = SelectionFunction.load(out / "results" / "selection_function.fits")
    n = sum(cell["n"] for cell in report["completeness"]["bins"])
    assert found.meta.n == n > 0
    assert found.meta.checkpoint == checkpoint(out)
    assert set(found.meta.manifests) <= set(fingerprints(out).values())
    rows = [row for row in found.cells.to_pylist() if row["by"] == "theta_e_arcsec"]
    assert sum(row["n"] for row in rows) == n
    assert all(sum(p["n"] for p in curve["points"]) == n for curve in report["selection_curves"])
    assert {curve["quantity"] for curve in report["selection_curves"]} >= {"Einstein radius"}


def test_what_is_told_of_realism_is_kept_and_never_called_real(undisturbed, report):
    out, _ = undisturbed
    told = json.loads((out / "results" / "realism.json").read_text())["told"]
    names = {m["name"] for m in told["measured"]}
    assert {"mock_realism_sim_r3_physical", "mock_realism_sim_r3_task_perp"} <= names
    assert not any(name.startswith(("real_", "anchor_")) for name in names)
    assert names <= {m["name"] for m in json.loads((out / "results" / "metrics.json").read_text())}


def test_another_family_of_sources_stands_in_the_same_test_hosts(undisturbed, report):
    out, _ = undisturbed
    swapped, pairs = (open_dataset(out / name).read().to_pylist() for name in ("swapped-sky", "pairs-sky"))
    own = {row["task_id"]: row for row in pairs}
    splits = open_dataset(out / "splits-pairs-sky").read().to_pylist()
    hosts = {row["host_id"] for row in splits if row["split"] == "test" and row["reject"] is None}
    assert {row["host_id"] for row in swapped} == hosts
    assert len(swapped) == len(hosts) > 10
    for row in swapped:
        mine = own[row["task_id"]]
        assert (mine["recipe"], row["recipe"]) == ("sersic", "hybrid")
        for name in (
            "ctrl_stamp_npz",
            "theta_e_arcsec",
            "source_x_arcsec",
            "source_mag_r",
            "R_sersic_arcsec",
        ):
            assert row[name] == mine[name], name
        assert row["stamp_npz"] != mine["stamp_npz"]
    told = json.loads((out / "results" / "realism.json").read_text())["told"]
    r5 = next(m for m in told["measured"] if m["name"] == "realism_sim_r5_physical")
    assert r5["n"] == 2 * len(hosts)
    assert "in the smaller sample, needs 30" in r5["detail"]  # and no more that there are none
    mark = fingerprints(out)["swapped-sky"]
    assert mark in r5["manifests"]
    assert mark in {entry["fingerprint"] for entry in report["manifests"]}


def test_a_preview_draws_the_arms_on_the_runs_own_sky(undisturbed, typed, tiny, tmp_path):
    out, _ = undisturbed
    words = ("inject", out / "sky", "--out", tmp_path / "arms.png", "--config", "demo.yaml", "--preview", "2")
    assert typed(*words, *tiny).code == 0
    with Image.open(tmp_path / "arms.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * picture.height


def kill_when(process, there, deadline=120.0):
    """kill -9 as soon as `there()` holds."""
    ends = time.monotonic() + deadline
    while not there():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < ends
        time.sleep(0.002)
    process.kill()
    process.wait()


def test_killed_in_injection_and_in_training_a_run_ends_with_the_same_numbers(
    undisturbed, start, typed, tiny, tmp_path
):
    """By `dhs demo`, in another folder: it also exits 0 whatever the verdict."""
    whole, _ = undisturbed
    out = tmp_path / "killed"
    command = ("demo", "--out", out, "--workers", "1", *tiny)

    process = start(*command, stderr=subprocess.DEVNULL)
    kill_when(process, lambda: list((out / "pairs-sky" / "commits").glob("*.json")))
    kept = {p: p.read_bytes() for p in (out / "pairs-sky" / "commits").glob("*.json")}
    times = {p: p.stat().st_mtime_ns for p in kept}
    assert kept
    assert not (out / "pairs-sky" / "manifest.json").exists()

    process = start(*command, stderr=subprocess.DEVNULL)
    kill_when(process, (out / "training" / "last.ckpt").exists)
    assert {p: p.stat().st_mtime_ns for p in kept} == times
    assert not (out / "training" / "checkpoint.pt").exists()

    answer = typed(*command)
    assert answer.code == 0, answer.err
    assert json.loads((out / "report.json").read_text())["verdict"] in ("CONDITIONAL-GO", "NO-GO")
    assert fingerprints(out) == fingerprints(whole)
    assert checkpoint(out) == checkpoint(whole)
    assert results(out) == results(whole)


@pytest.fixture
def copied(undisturbed, tmp_path):
    """A copy of the finished run, to plant faults in."""
    out = tmp_path / "copy"
    shutil.copytree(undisturbed[0], out)
    return out


def replaced(folder, table, change):
    """Rewrite a dataset as its own job would have written it, with `change` made to its rows (a list)."""
    old = open_dataset(folder)
    rows = {key: old.read_shard(key).to_pylist() for key in old.keys}
    change([row for shard in rows.values() for row in shard])
    fresh = folder.with_name(f"{folder.name}.fresh")
    writer, manifest = local_writer(fresh, table), old.manifest
    identity = (manifest.job, manifest.job_fingerprint, manifest.inputs)
    writer.begin(*identity)
    for key, shard in rows.items():
        writer.commit(key, table.conform(shard))
    writer.finish(rows, *identity)
    shutil.rmtree(folder)
    fresh.rename(folder)


def test_verify_of_a_finished_run_prints_every_finding(undisturbed, dhs):
    """Two look-alikes of a class are fewer than the protocol asks for, so this run cannot pass."""
    answer = dhs("verify", undisturbed[0])
    assert answer.code == 1
    for name in ("protocol_directions", "pair_finite", "split_host_overlap", "split_test_filled"):
        assert line_of(answer.err, name).startswith("PASS"), name
    assert line_of(answer.err, "contaminants_ring").startswith("FAIL")
    assert line_of(answer.err, "anchors_count").startswith("FAIL")
    assert line_of(answer.err, "protocol_locked").startswith("PASS")
    assert answer.last.startswith("NO-GO: summary in ")


def test_verify_exits_0_when_no_check_fails(copied, dhs):
    """The same sky without look-alikes: nothing fails, and what is open leaves CONDITIONAL-GO."""
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["survey"]["lookalikes"] |= dict.fromkeys(("ring", "spiral", "merger", "spike", "anchors"), 0)
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    for folder in copied.glob("splits-*"):
        shutil.rmtree(folder)
    answer = dhs("verify", copied)
    assert answer.code == 0, answer.err
    assert answer.last.startswith("CONDITIONAL-GO: summary in ")
    assert "FAIL" not in answer.err
    for name in ("contaminants_ring", "anchors_count"):
        assert line_of(answer.err, name).startswith("NOT_EVALUATED")


def test_verify_finds_a_host_in_two_splits(copied, dhs):
    moved = []

    def move(rows):
        row = next(r for r in rows if r["split"] == "train")
        row["split"] = "test"
        moved.append(row["host_id"])

    replaced(copied / "splits-pairs-sky", SPLITS, move)
    answer = dhs("verify", copied)
    assert answer.code == 1
    line = line_of(answer.err, "split_host_overlap")
    assert line.startswith("FAIL")
    assert "split_host_overlap = 1, must be exactly 0" in line
    assert moved[0] in line


def test_verify_finds_a_nan_stamp(copied, dhs):
    planted = []

    def plant(rows):
        row = next(r for r in rows if r["reject"] is None)
        cube = decode_planes(row["stamp_npz"], where=row["task_id"]).copy()
        cube[1, 5, 5] = np.nan
        row["stamp_npz"] = encode_planes("image", cube)
        planted.append(row["task_id"])

    replaced(copied / "pairs-sky", PAIRED_STAMPS, plant)
    shutil.rmtree(copied / "splits-pairs-sky")  # they were made from the pairs before
    answer = dhs("verify", copied)
    assert answer.code == 1
    line = line_of(answer.err, "pair_finite")
    assert line.startswith("FAIL")
    assert planted[0] in line


def test_verify_finds_controls_that_are_their_stamps(copied, dhs):
    def plant(rows):
        row = next(r for r in rows if r["reject"] is None)
        row["ctrl_stamp_npz"] = row["stamp_npz"]

    replaced(copied / "pairs-sky", PAIRED_STAMPS, plant)
    shutil.rmtree(copied / "splits-pairs-sky")
    answer = dhs("verify", copied)
    assert answer.code == 1
    assert line_of(answer.err, "pair_identical").startswith("FAIL")


def test_verify_finds_a_flipped_gate_direction(copied, dhs):
    shipped = Path(__file__).resolve().parents[2] / "configs" / "evaluation_protocol.yaml"
    protocol = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    assert protocol["gates"]["v1"]["core_lr_auc"]["direction"] == "below"
    protocol["gates"]["v1"]["core_lr_auc"]["direction"] = "above"
    flipped = copied / "flipped.yaml"
    flipped.write_text(yaml.safe_dump(protocol))
    config = yaml.safe_load((copied / "config.yaml").read_text())
    (copied / "config.yaml").write_text(yaml.safe_dump(config | {"protocol": str(flipped)}))
    answer = dhs("verify", copied)
    assert answer.code == 1
    line = line_of(answer.err, "protocol_directions")
    assert line.startswith("FAIL")
    assert "core_lr_auc is 'above', must be 'below'" in line


def test_verify_finds_bytes_that_changed_since_they_were_committed(copied, dhs):
    """One flipped byte among the pixels, as a bad disk or a careless copy leaves it."""
    shard = next((copied / "sky" / "shards").glob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0x01
    shard.write_bytes(data)
    answer = dhs("verify", copied)
    assert answer.code == 1
    line = line_of(answer.err, "provenance_shards")
    assert line.startswith("FAIL")
    assert shard.name in line
    assert answer.last.startswith("NO-GO: summary in ")


def test_review_of_a_finished_run_lists_what_the_verdict_rests_on(undisturbed, dhs):
    out = undisturbed[0]
    answer = dhs("review", out)
    assert answer.code == 1
    assert answer.last.startswith("NO-GO: review in ")
    made = json.loads((out / "review" / "review.json").read_text())
    assert made["verdict"] == "NO-GO"
    sections = {name: {f["name"]: f for f in part} for name, part in made["sections"].items()}
    assert list(sections) == ["protocol", "provenance", "pairs", "splits", "contaminants", "anchors", "gates"]
    failed = {name for part in sections.values() for name, f in part.items() if f["status"] == "FAIL"}
    assert {issue["rule"] for issue in made["issues"]} >= failed
    assert "contaminants_ring" in failed
    assert sections["provenance"]["provenance_gates"]["status"] == "PASS"
    gates = {f["name"]: f for f in json.loads((out / "results" / "gates.json").read_text())["findings"]}
    for name, gate in gates.items():
        assert sections["gates"][name]["value"] == gate["value"]


def test_review_finds_gates_of_another_checkpoint_and_a_planted_nan(copied, dhs):
    with (copied / "training" / "checkpoint.pt").open("ab") as file:
        file.write(b"x")
    planted = []

    def plant(rows):
        row = next(r for r in rows if r["reject"] is None)
        cube = decode_planes(row["stamp_npz"], where=row["task_id"]).copy()
        cube[2, 40, 12] = np.nan
        row["stamp_npz"] = encode_planes("image", cube)
        planted.append(row["task_id"])

    replaced(copied / "pairs-sky", PAIRED_STAMPS, plant)
    shutil.rmtree(copied / "splits-pairs-sky")
    answer = dhs("review", copied, "--out", copied / "told")
    assert answer.code == 1
    issues = {i["rule"]: i for i in json.loads((copied / "told" / "review.json").read_text())["issues"]}
    assert issues["pair_finite"]["severity"] == "critical"
    assert issues["pair_finite"]["lines"] == planted[0]
    assert "provenance_gates" in issues


def test_review_of_data_without_a_model_leaves_the_gates_open(copied, dhs):
    shutil.rmtree(copied / "training")
    answer = dhs("review", copied)
    assert answer.code == 1
    made = json.loads((copied / "review" / "review.json").read_text())
    assert {f["status"] for f in made["sections"]["gates"]} == {"NOT_EVALUATED"}
    assert not (copied / "training").exists()  # a review trains nothing


def test_the_summary_of_phase_0_holds_what_was_printed(undisturbed, dhs):
    out = undisturbed[0]
    answer = dhs("verify", out)
    summary = json.loads((out / "phase0_summary.json").read_text())
    assert summary["all_passed"] is False
    assert summary["verdict"] == "NO-GO"
    found = [f for part in summary["sections"].values() for f in part["findings"]]
    assert set(summary["failed"]) == {f["name"] for f in found if f["status"] == "FAIL"}
    for finding in found:
        assert line_of(answer.err, finding["name"]).startswith(finding["status"])


def test_splits_of_another_job_are_not_taken_for_ours(copied, dhs):
    """A dataset swapped for a foreign one is refused, not read."""
    claim = copied / "splits-pairs-sky" / "job.json"
    content = json.loads(claim.read_text())
    claim.write_text(json.dumps(content | {"fingerprint": "0" * 16}))
    answer = dhs("verify", copied)
    assert answer.code == 1
    assert "splits-pairs-sky" in answer.last
    assert "belongs to another job" in answer.last


def test_the_page_says_what_the_experiment_is_about(undisturbed):
    assert "A small synthetic sky from pixels to verdict." in (undisturbed[0] / "report.html").read_text()
