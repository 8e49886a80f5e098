"""`dhs train --seeds` and `dhs validate`: exit codes, what is kept, and a test split that is opened once."""

import json
import shutil

import numpy as np
import pytest
import torch

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.store import open_dataset
from darkhaloscope.evaluation.candidates import SCORE_COLUMNS
from darkhaloscope.pipeline.openings import Openings
from darkhaloscope.training.model import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory, typed, tiny):
    """(folder, answer) of `dhs train` with two seeds."""
    out = tmp_path_factory.mktemp("seeds") / "run"
    return out, typed("train", "demo.yaml", "--out", out, "--workers", "1", "--seeds", "2", *tiny)


@pytest.fixture
def copied(trained, tmp_path):
    out, _ = trained
    shutil.copytree(out, tmp_path / "run")
    return tmp_path / "run"


def test_seeds_share_the_data_and_have_networks_of_their_own(trained):
    out, answer = trained
    assert (out / "training" / "checkpoint.onnx").exists(), answer.err
    other = out / "seeds" / "43"
    assert (other / "training" / "checkpoint.onnx").exists()
    assert not (other / "pairs-sky").exists()
    assert {p.name for p in other.iterdir()} >= {"training", "results", "scores-pairs-sky"}
    told = json.loads((out / "results" / "seeds.json").read_text())
    assert [row["seed"] for row in told["seeds"]] == [42, 43]
    assert len({row["checkpoint"] for row in told["seeds"]}) == 2
    spread = told["across"]["select_auroc"]
    values = [row["values"]["select_auroc"] for row in told["seeds"]]
    assert spread["least"] == min(values) <= spread["mean"] <= spread["most"] == max(values)
    assert "select_auroc: " in answer.err
    assert "over 2 seeds" in answer.err
    gates = [json.loads((f / "results" / "gates.json").read_text()) for f in (out, other)]
    assert gates[0]["made_from"] != gates[1]["made_from"]


def test_the_run_s_export_scores_as_the_run_did(trained, dhs, tmp_path):
    out, _ = trained
    answer = dhs("score", out, out / "pairs-sky", "-o", tmp_path / "scored", "-n", "1")
    assert answer.code == 0, answer.err
    ours, theirs = (
        open_dataset(folder).read() for folder in (out / "scores-pairs-sky", tmp_path / "scored/scores")
    )
    assert ours.drop_columns(list(SCORE_COLUMNS)).equals(theirs.drop_columns(list(SCORE_COLUMNS)))
    for name in SCORE_COLUMNS:
        a, b = ours[name].drop_null().to_numpy(), theirs[name].drop_null().to_numpy()
        assert len(a) == len(b) > 0
        np.testing.assert_allclose(b, a, atol=1e-4, rtol=0)


def test_a_failed_gate_is_exit_code_1_with_its_name_and_by_how_much(trained):
    """A core of two epochs of training passes or not; the exit code says which."""
    out, answer = trained
    gates = [f for f in json.loads((out / "results" / "gates.json").read_text())["findings"] if f["decides"]]
    failed = [f["name"] for f in gates if f["status"] == "FAIL"]
    assert answer.code == (1 if failed or "FAIL" in answer.err else 0)
    for name in failed:
        (line,) = [x for x in answer.err.splitlines() if x.startswith("FAIL") and f" {name} " in x][:1]
        assert "must be" in line


def test_validate_looks_at_the_run_s_own_network_once(copied, dhs):
    answer = dhs("validate", copied)
    assert "Traceback" not in answer.err
    summary = json.loads((copied / "results" / "validation.json").read_text())
    views = {m["name"]: m for m in summary["views"]}
    assert {"auroc_synth_full", "auroc_synth_core_masked"} <= set(views)
    assert all(m["arc_domain"] == "sim" and m["manifests"] for m in summary["views"])
    assert {f["name"] for f in summary["findings"]} >= {
        "core_swap_necessity",
        "sham_core_nl_auc",
        "auroc_synth",
    }
    assert any(m["name"].startswith("hardneg_sim_HN1") for m in summary["hard_negatives"])
    assert all(0 <= row["kappa_r5"] <= 1 for row in summary["overlap"])
    failed = [f for f in summary["findings"] if f["decides"] and f["status"] == "FAIL"]
    assert answer.code == (1 if failed else 0)
    assert [e["reason"] for e in summary["test_opened"]] == [
        f"network of seed {n} of this run" for n in (42, 43)
    ]
    again = dhs("validate", copied)
    assert again.code == answer.code, again.err
    assert len(json.loads((copied / "results" / "test_opened.json").read_text())) == 2


def altered(copied, **changes):
    """A network that is not the run's: its weights, another card."""
    path = copied / "seeds" / "43" / "training" / "checkpoint.pt"
    scorer = load_checkpoint(path)
    other = copied / "other.pt"
    save_checkpoint(other, scorer.model.state_dict(), scorer.card.model_copy(update=changes))
    return other


def test_another_network_on_the_same_test_rows_needs_a_reason(copied, dhs):
    other = altered(copied, best_epoch=1)
    refused = dhs("validate", copied, "--checkpoint", other)
    assert refused.code == 1
    assert "the test split was opened for checkpoint" in refused.last
    assert "--again" in refused.last
    allowed = dhs("validate", copied, "--checkpoint", other, "--again", "it was declared before")
    assert "opened 3 times" in allowed.err
    assert "it was declared before" in allowed.err
    (found,) = (copied / "validated").glob("*/results/validation.json")
    assert json.loads(found.read_text())["test_opened"][2]["reason"] == "it was declared before"
    declared = dhs("validate", copied, "--checkpoint", copied / "seeds" / "43" / "training" / "checkpoint.pt")
    assert "opened 3 times" in declared.err  # one of the run's own seeds: no further opening


def test_a_network_that_may_have_seen_the_test_rows_is_refused(copied, dhs):
    marks = load_checkpoint(copied / "training" / "checkpoint.pt").card.fingerprints
    other = altered(copied, fingerprints=marks | {"splits-sky": "0123456789abcdef"})
    refused = dhs("validate", copied, "--checkpoint", other, "--again", "why not")
    assert refused.code == 1
    assert "was trained on other data than this run's (splits-sky)" in refused.last
    assert len(json.loads((copied / "results" / "test_opened.json").read_text())) == 2


def test_validate_under_another_protocol_than_the_run_s_is_refused(copied, dhs):
    kept = copied / "protocol.json"
    held = json.loads(kept.read_text())
    held["gates"]["v2"]["core_swap_necessity"]["bound"] = 0.5
    kept.write_text(json.dumps(held))
    refused = dhs("validate", copied)
    assert refused.code == 1
    assert "gates.v2.core_swap_necessity.bound: 0.5 -> 0.1" in refused.last


def test_validate_says_in_a_sentence_what_it_cannot_use(copied, dhs, tmp_path):
    absent = dhs("validate", copied, "--checkpoint", tmp_path / "none.pt")
    assert absent.code == 1
    assert "there is no such checkpoint" in absent.last
    torch.save({"x": 1}, tmp_path / "other.pt")
    foreign = dhs("validate", copied, "--checkpoint", tmp_path / "other.pt")
    assert foreign.code == 1
    assert "is not a checkpoint of ours" in foreign.last


def test_the_ledger_knows_rows_and_checkpoints(tmp_path):
    ledger = Openings(tmp_path, "rows-a")
    assert len(ledger.open("one")) == 1
    assert len(ledger.open("one")) == 1
    with pytest.raises(DataError, match="opened for checkpoint one"):
        ledger.open("two")
    assert Openings(tmp_path, "rows-b").open("two")[0]["checkpoint"] == "two"  # other rows, not seen before
    assert [e["reason"] for e in ledger.open("two", reason="why")] == ["", "why"]


def test_compare_reads_what_train_wrote(copied, dhs, tmp_path):
    """Every path and mark that `dhs compare` relies on, as `dhs train --seeds` leaves them."""
    both = dhs("compare", copied, "--out", tmp_path / "two", "--reference", "demo")
    assert both.code == 0, both.err
    (arm,) = json.loads((tmp_path / "two" / "master_comparison.json").read_text())["arms"]
    told = json.loads((copied / "results" / "seeds.json").read_text())["seeds"]
    assert (arm["seeds"], arm["checkpoints"]) == ([42, 43], [row["checkpoint"] for row in told])
    # The ledger knows both networks by the same mark of the test rows: nothing was added.
    assert arm["openings"] == len(json.loads((copied / "results" / "test_opened.json").read_text())) == 2
    dhs("validate", copied)
    summary = json.loads((copied / "results" / "validation.json").read_text())
    (wanted,) = [f["value"] for f in summary["findings"] if f["name"] == "auroc_synth"]
    shutil.rmtree(copied / "seeds")
    (copied / "results" / "seeds.json").unlink()
    assert dhs("compare", copied, "--out", tmp_path / "one", "--reference", "demo").code == 0
    rows = json.loads((tmp_path / "one" / "master_comparison.json").read_text())["comparison"]["rows"]
    (found,) = [row["value"]["value"] for row in rows if row["endpoint"] == "auroc_synth"]
    assert found == pytest.approx(wanted)
