"""Each rule finds the fault it is for, and only that; the right way to write the same thing is left alone."""

import ast
import shutil
import textwrap
from pathlib import Path

import pytest
from tests.review.code_cases import CASES

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.review import code, ruff_rules
from darkhaloscope.review.code import check_code
from darkhaloscope.review.code_rules import SCRIPT_RULES
from darkhaloscope.review.config_rules import CONFIG_RULES
from darkhaloscope.review.handler_rules import HANDLER_RULES
from darkhaloscope.review.home_rules import HOME_RULES, HOME_TREE_RULES
from darkhaloscope.review.issues import Category, Severity
from darkhaloscope.review.science_rules import SCIENCE_RULES

IDS = [f"{case.rule}-{k}" for k, case in enumerate(CASES)]
FROZEN = "from darkhaloscope.contracts.config import Frozen\n"


def planted(tmp_path, text, name="plugin.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


def lines_of(issue):
    first, _, last = issue.lines.partition("-")
    return int(first), int(last or first)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_rule_finds_its_fault_and_leaves_the_right_way_alone(tmp_path, case):
    found = check_code(planted(tmp_path, case.faulty))
    assert [(issue.rule, lines_of(issue)[0]) for issue in found] == [(case.rule, case.line)]
    issue = found[0]
    first, last = lines_of(issue)
    assert issue.current == textwrap.dedent("\n".join(case.faulty.splitlines()[first - 1 : last]))
    assert case.fix in issue.fixed
    assert issue.current != issue.fixed
    assert issue.problem.endswith(".")
    assert issue.explanation.endswith(".")
    assert not issue.title.endswith(".")
    assert check_code(planted(tmp_path, case.right)) == []


def test_every_rule_has_a_case():
    rules = (*SCRIPT_RULES, *HANDLER_RULES, *HOME_RULES, *SCIENCE_RULES, *CONFIG_RULES, *HOME_TREE_RULES)
    ours = {rule.__name__.replace("_", "-") for rule in rules}
    planted_rules = {case.rule for case in CASES}
    assert ours | set(ruff_rules.RULES) | {code.SYNTAX.name, code.SILENT.name} == planted_rules


REWRITTEN = {"salted-hash-seed", "unseeded-rng", "hardcoded-number", "flipped-gate", "integer-centre"}
REWRITTEN |= {"split-args", "schema-columns", "B006"}


@pytest.mark.parametrize("case", [c for c in CASES if c.rule in REWRITTEN], ids=lambda c: c.rule)
def test_a_fix_that_rewrites_the_line_is_python_and_mends_it(tmp_path, case):
    """Put in place of the lines it is for, the fix leaves nothing of its rule behind."""
    issue = check_code(planted(tmp_path, case.faulty))[0]
    first, last = lines_of(issue)
    lines = case.faulty.splitlines()
    indent = lines[first - 1][: len(lines[first - 1]) - len(lines[first - 1].lstrip())]
    mended = [*lines[: first - 1], textwrap.indent(issue.fixed, indent), *lines[last:]]
    text = "\n".join(mended) + "\n"
    ast.parse(text)
    assert case.rule not in {found.rule for found in check_code(planted(tmp_path, text))}


MANY = '''\
"""A job as it should not be written."""
import subprocess
import boto3
import numpy as np

PIXEL = 0.262


def load(path, extra=[]):
    try:
        return np.load(path), extra
    except Exception:
        return {"passed": True}


def run(args, model, x, y, rows):
    subprocess.run(args.split(), check=True)
    center = x.shape[-1] // 2
    rng = np.random.default_rng(hash(rows))
    model.fit(x, y)
    core_lr_auc = model.score(x, y)
    passed = core_lr_auc > 0.65
    return passed, center, rng, undefined, rows["arc_snrr"], rows["target_idd"]
'''


def test_many_faults_are_listed_worst_first_and_each_once(tmp_path):
    found = check_code(planted(tmp_path, MANY))
    order = [(issue.severity.rank, lines_of(issue)) for issue in found]
    assert order == sorted(order)
    assert {(issue.rule, lines_of(issue)[0]) for issue in found} == {
        ("mock-result", 12), ("flipped-gate", 22), ("F821", 23), ("vendor-import", 3), ("in-sample-gate", 21),
        ("salted-hash-seed", 19), ("schema-columns", 23), ("hardcoded-number", 6), ("hardcoded-number", 22),
        ("B006", 9), ("split-args", 17), ("integer-centre", 18),
    }  # fmt: skip
    assert {issue.category for issue in found} == set(Category)
    assert found == check_code(tmp_path / "plugin.py")


def test_two_misspelt_columns_on_one_line_are_both_named(tmp_path):
    found = check_code(planted(tmp_path, 'def f(r):\n    return r["stamp_npzz"], r["target_idd"]\n'))
    assert [issue.rule for issue in found] == ["schema-columns"] * 2
    assert ["`stamp_npz`" in issue.problem for issue in found] == [True, False]


@pytest.mark.parametrize(
    ("comment", "rules"),
    [
        ("# noqa: hardcoded-number - the pixel of another camera", []),
        ("# noqa: F401, hardcoded-number - the pixel of another camera", []),
        ("# noqa: hardcoded-number", ["silent-noqa"]),
        ("# noqa: integer-centre - another rule", ["hardcoded-number"]),
        ("# noqa", ["hardcoded-number", "silent-noqa"]),
        ("# no QA here", ["hardcoded-number"]),
    ],
)
def test_a_comment_with_a_reason_silences_the_rule_it_names(tmp_path, comment, rules):
    path = planted(tmp_path, f"SCALE = 0.262  {comment}\n")
    assert [issue.rule for issue in check_code(path)] == rules


def test_a_comment_silences_ruffs_rules_too(tmp_path):
    assert check_code(planted(tmp_path, "def f(x=[]):  # noqa: B006 - never changed\n    return x\n")) == []


def test_a_file_with_a_syntax_error_hides_no_fault_of_the_others(tmp_path):
    planted(tmp_path, "def f(:\n", "b.py")
    planted(tmp_path, "x = 0.262\n", "a.py")
    (tmp_path / "c.py").write_bytes(b'name = "\xe9"\n')
    (tmp_path / "d.py").write_bytes(b"x = 1\x00\n")
    (tmp_path / "e.py").symlink_to(tmp_path / "nowhere.py")
    found = [(Path(issue.file).name, issue.rule) for issue in check_code(tmp_path)]
    assert found == [
        ("b.py", "syntax-error"),
        ("c.py", "unreadable-file"),
        ("d.py", "syntax-error"),
        ("e.py", "unreadable-file"),
        ("a.py", "hardcoded-number"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\ufeffx = 1\n",
        "x = 1\r\ny = 2\r\n",
        "x = (" + "-" * 50_000 + "1)\n",
        "x = " + "(" * 300 + ")" * 300 + "\n",
        "é = 'ß'; x = 0.262  # ö\n",
        "x = '''\n# noqa\n'''\n",
        "x = 1\n\x0cy = 0.262\n",
        "def f[T](x: T) -> T:\n    return x\n",
        "match x:\n    case [0.262, *_]:\n        pass\n",
        "x = f'{0.262:.3f} {hash(y) % 7}'\n",
        "x = 1  # noqa",
        "def f():\n\tx = 0.262\n\treturn x\n",
        "x = lambda: 0.262\n",
        "if True:\n    pass\nelse:\n    x = '\\d'\n",
    ],
)
def test_odd_files_are_checked_without_a_fall(tmp_path, text):
    (tmp_path / "plugin.py").write_bytes(text.encode())
    for issue in check_code(tmp_path / "plugin.py"):
        assert issue.rule in {"syntax-error", "hardcoded-number", "salted-hash-seed", "silent-noqa", "F821"}


def test_columns_count_in_letters_where_the_text_is_not_ascii(tmp_path):
    issue = check_code(planted(tmp_path, 'x = "äöü", 0.262, "ß"\n'))[0]
    assert issue.fixed.endswith('x = "äöü", PIXEL_SCALE_ARCSEC, "ß"')


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("absent.py", "does not exist"), ("notes.txt", "is no Python file"), ("empty", "holds no Python file")],
)
def test_a_path_without_python_is_refused(tmp_path, name, sentence):
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    (tmp_path / "empty" / ".hidden" / "a.py").write_text("x = 1\n")
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(DataError, match=sentence):
        check_code(tmp_path / name)


def test_a_ruff_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ruff_rules, "RULES", {"NOSUCH1": None})
    with pytest.raises(DataError, match="could not check the code"):
        check_code(planted(tmp_path, "x = 1\n"))


def test_a_file_under_review_is_never_run(tmp_path):
    check_code(planted(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"))
    assert not (tmp_path / "ran").exists()


def test_fields_read_in_another_file_are_read(tmp_path):
    config = f"{FROZEN}\n\nclass Recipe(Frozen):\n    seeing: float = 2.0\n"
    planted(tmp_path, config, "a.py")
    assert [issue.rule for issue in check_code(tmp_path)] == ["unread-config-field"]
    planted(tmp_path, "def f(recipe):\n    return recipe.seeing\n", "b.py")
    assert check_code(tmp_path) == []


@pytest.fixture
def house(tmp_path):
    """A copy of two rooms of our own package, to plant faults in."""
    source = Path(code.__file__).parents[1]
    copy = tmp_path / "darkhaloscope"
    for room in ("contracts/tables.py", "survey/release.py", "survey/priors.py", "gates/probes.py"):
        (copy / room).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / room, copy / room)
    return copy


def test_in_our_own_package_each_thing_has_its_home_and_each_vendor_its_door(house):
    of_one_file = {"hardcoded-number", "vendor-import", "ungrouped-folds"}
    assert not of_one_file & {issue.rule for issue in check_code(house)}
    planted(house / "gates", "SCALE = 0.262\n\n\ndef f():\n    import boto3\n\n    return boto3\n", "new.py")
    (house / "aws").mkdir()
    planted(house / "aws", "import boto3\n\nclient = boto3.client\n", "clients.py")
    found = [issue for issue in check_code(house) if issue.rule in of_one_file]
    assert [issue.rule for issue in found] == ["vendor-import", "hardcoded-number"]
    assert {Path(issue.file).name for issue in found} == {"new.py"}


def test_severities_are_as_announced():
    assert code.SYNTAX.severity is Severity.CRITICAL
    assert code.SILENT.severity is Severity.LOW
    assert {rule.severity for rule, _ in ruff_rules.RULES.values()} <= set(Severity) - {Severity.LOW}
