"""The house itself: what must stay true of the source tree whatever is built in it."""

import ast
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from darkhaloscope.review import script
from darkhaloscope.review.code import check_code
from darkhaloscope.review.home_rules import NUMBERS
from darkhaloscope.review.script import ALLOWED

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "darkhaloscope"
MODULES = sorted(SOURCE.rglob("*.py"))
BANNED_NAMES = {"utils", "helpers", "common", "manager", "base", "misc"}


def _numbers(path):
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, float)
    }


def test_the_tree_passes_the_code_checks_it_makes_of_others():
    """Numbers outside their homes, work at import time, swallowed errors: all that `check_code` knows."""
    assert [f"{i.file}:{i.lines}: {i.rule}: {i.problem}" for i in check_code(SOURCE)] == []


@pytest.mark.parametrize("number", [n for n in NUMBERS if n.home.endswith(".py")], ids=lambda n: str(n.value))
def test_each_number_of_the_survey_is_in_its_home(number):
    assert number.value in _numbers(SOURCE / number.home)


def test_each_exception_to_a_code_check_is_still_needed(monkeypatch):
    """With no exceptions allowed, each room that has one breaks its rule."""
    monkeypatch.setattr(script, "ALLOWED", {})
    broken = {(issue.rule, Path(issue.file).relative_to(SOURCE).as_posix()) for issue in check_code(SOURCE)}
    assert broken == {(rule.split()[0], room) for rule, room in ALLOWED}


def test_no_module_is_named_for_nothing():
    assert not {p.stem for p in MODULES} & BANNED_NAMES


def test_importing_the_core_brings_no_torch():
    rooms = ["contracts.tables", "stats", "survey.sky", "stamps.harvest", "injection.inject", "gates.leakage"]
    rooms += ["report", "cli", "pipeline.verbs"]
    code = "import sys\n" + "".join(f"import darkhaloscope.{room}\n" for room in rooms)
    code += "assert not {'torch', 'lightning', 'timm', 'lenstronomy'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_line_starts_without_the_heavy_rooms():
    code = (
        "import sys, darkhaloscope.cli\n"
        "heavy = {'torch', 'scipy', 'astropy', 'sklearn', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _lint_imports(folder):
    tool = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([tool, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


def test_import_rules_hold_and_a_planted_violation_is_caught(tmp_path):
    good = _lint_imports(ROOT)
    assert good.returncode == 0, good.stdout
    package = tmp_path / "darkhaloscope"
    for path in MODULES:
        copy = package / path.relative_to(SOURCE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    with (package / "survey" / "release.py").open("a") as file:
        file.write("\nimport darkhaloscope.injection.lens\n")
    bad = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert bad.returncode != 0
    assert "darkhaloscope.survey.release" in bad.stdout


SKIPS = ROOT / ".ci" / "check_skips.py"


def _junit(tmp_path, *cases):
    suite = ET.Element("testsuite")
    for name, message in cases:
        case = ET.SubElement(suite, "testcase", classname="t", name=name)
        if message:
            ET.SubElement(case, "skipped", message=message)
    path = tmp_path / "junit.xml"
    ET.ElementTree(suite).write(path)
    return path


@pytest.mark.parametrize(
    ("allowed", "cases", "code"),
    [
        ("", [("test_a", None)], 0),
        ("", [("test_a", "no data")], 1),
        ("test_a | the data are not public", [("test_a[1]", "no data")], 0),
        ("test_a", [("test_b", None)], 1),
        ("", [], 1),
    ],
)
def test_an_unlisted_skip_fails_the_run(tmp_path, allowed, cases, code):
    listed = tmp_path / "allowed"
    listed.write_text(allowed)
    command = [sys.executable, SKIPS, _junit(tmp_path, *cases), listed]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code
