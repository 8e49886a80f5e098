"""`dhs protocol` as a user types it, and runs under a protocol that has changed."""

import json

import pytest
import yaml

from darkhaloscope.contracts.config import find_config


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(find_config("evaluation_protocol.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return path


def edited(path, **values):
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(data | values), encoding="utf-8")


def test_status_diff_lock_and_their_exit_codes(dhs, own):
    assert dhs("protocol", "status").code == 0
    answer = dhs("protocol", "status", own)
    assert answer.code == 1
    assert "not locked" in answer.out
    assert dhs("protocol", "diff", own).code == 1
    assert "locked on" in dhs("protocol", "lock", own, "--user", "me").out
    assert dhs("protocol", "status", own).code == 0
    assert dhs("protocol", "diff", own).out.strip() == "no difference"
    edited(own, calibration={"bins": 20, "binning": "equal_mass"})
    answer = dhs("protocol", "diff", own)
    assert (answer.code, answer.out.strip()) == (1, "calibration.bins: 15 -> 20")
    answer = dhs("protocol", "lock", own, "--reason", "finer")
    assert answer.code == 2
    assert "another version" in answer.err
    edited(own, version="2.1")
    assert dhs("protocol", "lock", own, "--reason", "finer").code == 0
    status = dhs("protocol", "status", own).out
    assert "finer" in status
    assert "first lock" in status
    answer = dhs("protocol", "diff", own, "evaluation_protocol.yaml")
    assert (answer.code, len(answer.out.splitlines())) == (1, 2)


def test_a_run_under_a_changed_protocol_is_refused_before_any_work(dhs, own, tmp_path, tiny):
    dhs("protocol", "lock", own)
    edited(own, calibration={"bins": 20, "binning": "equal_mass"})
    answer = dhs("run", "demo.yaml", "--out", tmp_path / "run", "--set", f"protocol={own}", *tiny)
    assert answer.code == 1
    assert "calibration.bins: 15 -> 20" in answer.last
    assert not (tmp_path / "run").exists()


def test_a_folder_begun_under_one_protocol_is_not_continued_under_another(dhs, own, tmp_path, tiny):
    """Even an unlocked one: the folder keeps what it began under."""
    out = tmp_path / "sky"
    made = dhs("survey", "sky", "--out", out, "--set", f"protocol={own}", *tiny)
    assert made.code == 0, made.err
    assert json.loads((out / "protocol.json").read_text())["version"] == "2.0"
    edited(own, calibration={"bins": 20, "binning": "equal_mass"})
    answer = dhs("survey", "sky", "--out", out, "--set", f"protocol={own}", *tiny)
    assert answer.code == 1
    assert "calibration.bins: 15 -> 20" in answer.last
