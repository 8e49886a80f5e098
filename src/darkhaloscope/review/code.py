"""Code checks that keep lessons learned: a file or a folder in, issues out; nothing under review is run.

Ruff finds what ruff knows, rules of our own what no linter knows. A line's ``# noqa: RULE - reason`` silences
a rule there; without a reason the comment is an issue itself, for nobody can tell whether it still holds.
"""

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.review.code_rules import SCRIPT_RULES
from darkhaloscope.review.config_rules import CONFIG_RULES
from darkhaloscope.review.handler_rules import HANDLER_RULES
from darkhaloscope.review.home_rules import HOME_RULES, HOME_TREE_RULES
from darkhaloscope.review.issues import Category, Issue, Severity
from darkhaloscope.review.ruff_rules import ruff_hits
from darkhaloscope.review.science_rules import SCIENCE_RULES
from darkhaloscope.review.script import Hit, Rule, Script, room_of

SYNTAX = Rule(
    "syntax-error",
    Category.BUG,
    Severity.CRITICAL,
    "Does not parse",
    "The file cannot be imported, so whatever job ships it stops at once. Its other checks were not made.",
    "Code is parsed before it is uploaded or run.",
    "L5.4",
)
UNREADABLE = Rule(
    "unreadable-file",
    Category.BUG,
    Severity.CRITICAL,
    "Cannot be read as Python",
    "A file that was not read was not checked.",
    "Python source is UTF-8 text.",
    "L5.4",
)
SILENT = Rule(
    "silent-noqa",
    Category.ERROR_HANDLING,
    Severity.LOW,
    "Check silenced without a reason",
    "Nobody can tell whether the exception is still needed, or was ever right.",
    "A named rule and a reason can be judged, and removed when the reason is gone.",
)

_ONE_FAULT = ("mock-result", "S110", "S112", "E722", "BLE001", "swallowed-exception")
"""Rules about one handler, the most telling first: one fault is one issue."""
_NOQA = re.compile(
    r"#\s*(?:ruff:\s*)?noqa\b(?::\s*(?P<rules>[\w-]+(?:\s*,\s*[\w-]+)*))?(?P<reason>.*)", re.IGNORECASE
)
_NOT_OURS = frozenset({"__pycache__", "node_modules", "site-packages"})


def check_code(path: Path) -> list[Issue]:
    """Issues of a Python file, or of every one below a folder: worst first, then by file and line.

    Raises DataError where there is no Python to check. A file that cannot be read or parsed is an issue, and
    the others are checked.
    """
    scripts, hits = [], []
    for file in python_files(path):
        read = _read(file)
        if isinstance(read, Script):
            scripts.append(read)
        else:
            hits.append(read)
    hits += _one_per_handler([*ruff_hits(scripts), *_own_hits(scripts)])
    hits += [found for script in scripts for found in _silent(script)]
    return [found.issue() for found in sorted(hits, key=lambda found: found.order)]


def python_files(path: Path) -> list[Path]:
    """The Python files that a path means, in order; folders of tools and hidden ones are passed over."""
    if path.is_file() and path.suffix == ".py":
        return [path]
    if not path.is_dir():
        problem = "is no Python file" if path.exists() else "does not exist"
        raise DataError(str(path), problem, "give a .py file, or a folder that holds some")
    found = sorted(file for file in path.rglob("*.py") if not file.is_dir() and not _passed_over(file, path))
    if not found:
        raise DataError(str(path), "holds no Python file", "give a .py file, or a folder that holds some")
    return found


def _passed_over(file: Path, root: Path) -> bool:
    folders = file.relative_to(root).parts[:-1]
    return any(name.startswith(".") or name in _NOT_OURS for name in folders)


def _read(path: Path) -> Script | Hit:
    """A script, or the one hit that says why it is none."""
    nothing = Script(path, str(path), "", ast.Module([], []))
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        return Hit(
            UNREADABLE,
            nothing,
            1,
            1,
            "chmod u+r, or delete the link",
            f"It cannot be read: {error.strerror}.",
        )
    except UnicodeDecodeError as error:
        fixed = "text = path.read_text(encoding='latin-1')  # its true encoding\n"
        fixed += "path.write_text(text, encoding='utf-8')"
        return Hit(
            UNREADABLE, nothing, 1, 1, fixed, f"It is not UTF-8 text: byte {error.start} is no character."
        )
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # of somebody else's escapes, which are not ours to print
            compile(text, str(path), "exec", dont_inherit=True)  # finds what the parser alone does not
            tree = ast.parse(text)
    except SyntaxError as error:
        line = min(max(error.lineno or 1, 1), text.count("\n") + 1)
        plain = Script(path, str(path), text, nothing.tree)
        fixed = f"python -m py_compile {path.name}  # until it says nothing"
        return Hit(SYNTAX, plain, line, line, fixed, f"{(error.msg or 'invalid syntax').capitalize()}.")
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes; expressions nested without end
        return Hit(
            SYNTAX,
            nothing,
            1,
            1,
            "# see the problem",
            f"The parser gives up: {error or type(error).__name__}.",
        )
    return Script(path, str(path), text, tree, room_of(path))


def _own_hits(scripts: Sequence[Script]) -> Iterator[Hit]:
    """What our rules find, less what a line's comment silences."""
    silenced = {script: _silenced(script) for script in scripts}
    for found in _all_rules(scripts):
        lines = range(found.first, found.last + 1)
        if not any(found.rule.name in silenced[found.script].get(line, ()) for line in lines):
            yield found


def _all_rules(scripts: Sequence[Script]) -> Iterator[Hit]:
    for script in scripts:
        for rule in (*SCRIPT_RULES, *HANDLER_RULES, *HOME_RULES, *SCIENCE_RULES):
            yield from rule(script)
    for tree_rule in (*CONFIG_RULES, *HOME_TREE_RULES):
        yield from tree_rule(scripts)


def _one_per_handler(hits: Iterable[Hit]) -> list[Hit]:
    """The hits, with one for each exception handler and no repetition on a line."""
    kept: dict[tuple[str, int, str, str], Hit] = {}
    for found in hits:
        about = ("handler", "") if found.rule.name in _ONE_FAULT else (found.rule.name, found.detail)
        place = (found.script.name, found.first, *about)
        if place not in kept or _telling(found) < _telling(kept[place]):
            kept[place] = found
    return list(kept.values())


def _telling(found: Hit) -> int:
    return _ONE_FAULT.index(found.rule.name) if found.rule.name in _ONE_FAULT else 0


def _comments(script: Script) -> Iterator[tuple[int, re.Match[str]]]:
    """Lines with a noqa comment; text that only looks like one is none."""
    for token in tokenize.generate_tokens(io.StringIO(script.text).readline):
        if token.type == tokenize.COMMENT and (found := _NOQA.search(token.string)):
            yield token.start[0], found


def _silenced(script: Script) -> Mapping[int, frozenset[str]]:
    named = {line: frozenset(re.split(r"\s*,\s*", found["rules"] or "")) for line, found in _comments(script)}
    return MappingProxyType(named)


def _silent(script: Script) -> Iterator[Hit]:
    for line, found in _comments(script):
        if not found["rules"] or not found["reason"].strip(" \t-–—:#"):
            rules = found["rules"] or "RULE"
            code = script.snippet(line, line).split("#")[0].rstrip()
            yield Hit(SILENT, script, line, line, f"{code}  # noqa: {rules} - the reason".strip())
