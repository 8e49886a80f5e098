"""`dhs review --code` as a user types it; reviews of runs are in test_run."""

import json

import pytest

SOUND = '''"""Count rows."""

import sys

import pyarrow.parquet as pq

print(pq.read_metadata(sys.argv[1]).num_rows)
'''
FAULTY = SOUND.replace("print(", "try:\n    print(").rstrip() + "\nexcept:\n    pass\n"


def test_review_of_sound_code_is_a_go(dhs, tmp_path):
    (tmp_path / "job.py").write_text(SOUND)
    answer = dhs("review", "--code", tmp_path / "job.py", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert answer.last.startswith("GO: review in ")
    assert (tmp_path / "out" / "review.html").exists()


def test_review_of_code_that_swallows_everything_is_a_no_go_with_file_and_lines(dhs, tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.py").write_text(FAULTY)
    answer = dhs("review", "--code", tmp_path / "jobs", "--out", tmp_path / "out")
    assert answer.code == 1
    assert answer.last.startswith("NO-GO: review in ")
    issues = json.loads((tmp_path / "out" / "review.json").read_text())["issues"]
    (issue,) = issues
    assert issue["rule"] == "S110"
    assert issue["file"].endswith("job.py")
    assert issue["lines"].startswith("9")
    assert "except:" in issue["current"]
    assert "except:" not in issue["fixed"]


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [((), 2, "nothing to review"), (("--code", "absent.py"), 1, "absent.py"), (("absent",), 1, "absent")],
)
def test_review_of_nothing_says_so(dhs, empty_folder, words, code, said):
    answer = dhs("review", *words)
    assert answer.code == code
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert not list(empty_folder.iterdir())
