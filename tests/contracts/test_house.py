"""The house itself: what must stay true of the source tree whatever is built in it."""

import ast
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "darkhaloscope"
MODULES = sorted(SOURCE.rglob("*.py"))
HOMES = {0.262: "survey/release.py", 22.5: "survey/release.py", 1.4826: "survey/photometry.py"}
OTHER_MEANINGS = {(22.5, "survey/priors.py"): "faint limit of the star counts [mag], not the zero-point"}
BANNED_NAMES = {"utils", "helpers", "common", "manager", "base", "misc"}


def _numbers(path):
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, float)
    }


@pytest.mark.parametrize(("number", "home"), HOMES.items())
def test_each_number_of_the_survey_has_one_home(number, home):
    holders = {str(p.relative_to(SOURCE)) for p in MODULES if number in _numbers(p)}
    holders -= {place for value, place in OTHER_MEANINGS if value == number}
    assert holders <= {home}, f"{number} belongs in {home}"
    assert holders == {home}


def test_no_module_is_named_for_nothing():
    assert not {p.stem for p in MODULES} & BANNED_NAMES


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_module_works_at_import_time_or_swallows_errors(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            body = [n for n in node.body if not isinstance(n, ast.Expr)]
            assert node.type is not None, f"{path}:{node.lineno}: bare except"
            assert not all(isinstance(n, ast.Pass) for n in body), f"{path}:{node.lineno}: swallowed"
    for node in tree.body:
        assert not isinstance(node, (ast.For, ast.While, ast.With)), (
            f"{path}:{node.lineno}: works at import time"
        )


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
