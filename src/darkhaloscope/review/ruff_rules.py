"""What ruff knows: the few of its rules that a review reports, run in a process of their own, in words."""

import ast
import difflib
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.review.issues import Category, Severity
from darkhaloscope.review.script import Hit, Rule, Script, head, written

Fix = Callable[[Script, int, str], str]

_NEWEST_TARGET = (3, 13)  # the last version that the oldest ruff we allow has heard of
_FILES_AT_ONCE = 400  # of one command line, far below any system's limit
_MODERN = {
    "rand": "random",
    "randn": "standard_normal",
    "randint": "integers",
    "random_sample": "random",
    "ranf": "random",
    "sample": "random",
    "random_integers": "integers",
}
"""Legacy numpy functions whose name changed; the others kept theirs."""


def _undefined(script: Script, line: int, message: str) -> str:
    name = _quoted(message)
    known = {n.id for n in script.find(ast.Name) if isinstance(n.ctx, ast.Store)}
    known |= {a.arg for a in script.find(ast.arg)}
    near = difflib.get_close_matches(name, sorted(known - {name, "self", "cls"}), n=1, cutoff=0.7)
    if near:
        return re.sub(rf"\b{re.escape(name)}\b", near[0], script.snippet(line, line))
    return f"{name} = …  # give it a value, or import it, before this line\n{script.snippet(line, line)}"


def _redefined(script: Script, line: int, message: str) -> str:
    name = _quoted(message)
    earlier = re.search(r"from line (\d+)", message)
    where = f"on line {earlier[1]}" if earlier else "above"
    other = re.sub(rf"\b{re.escape(name)}\b", f"{name}_again", script.snippet(line, line), count=1)
    return f"# delete the {name} {where}, or give this one another name:\n{other}"


def _handler(script: Script, line: int, _message: str) -> str:
    handler = next((h for h in script.find(ast.ExceptHandler) if h.lineno == line), None)
    owner = None if handler is None else next(script.around(handler))
    tried = ast.unparse(owner.body[0]) if isinstance(owner, ast.Try) else "…"
    return textwrap.dedent(f"""\
        try:
            {tried.splitlines()[0]}
        except (OSError, ValueError) as error:  # only what this code can explain
            raise RuntimeError(f"what was being done, and for which row: {{error}}") from error""")


def _numpy_random(script: Script, line: int, message: str) -> str:
    legacy = _quoted(message)
    name = legacy.rsplit(".", maxsplit=1)[-1]
    draw = re.sub(
        rf"\b[\w.]*\b{name}\b(?=\s*\()", f"rng.{_MODERN.get(name, name)}", script.snippet(line, line)
    )
    tail = "" if name == "seed" else f"\n{draw}"
    return (
        'from darkhaloscope.contracts.random import stream\n\nrng = stream(seed, "what is drawn", target_id)'
        + tail
    )


def _shell(script: Script, line: int, _message: str) -> str:
    programs = ("subprocess.", "os.")
    calls = [
        c for c in script.find(ast.Call) if c.lineno == line and script.imported(c.func).startswith(programs)
    ]
    command = written(calls[0]) if calls else "…"
    return f"import shlex\n\nsubprocess.run(shlex.split({command}), check=True)  # no shell; or a list"


def _pickle(_script: Script, _line: int, _message: str) -> str:
    return (
        "value = json.loads(path.read_text())                # plain data\n"
        "array = np.load(path, allow_pickle=False)           # arrays\n"
        'state = torch.load(path, weights_only=True)         # weights, on any device: map_location="cpu"'
    )


def _default(script: Script, line: int, _message: str) -> str:
    return script.snippet(line, line) + "\n# write None as the default and make the value in the body"


_SHOWN = "Show what failed and raise again; what may be missing is named by its own type of exception."

RULES: Mapping[str, tuple[Rule, Fix]] = {
    rule.name: (rule, fix)
    for rule, fix in (
        (
            Rule(
                "F821",
                Category.BUG,
                Severity.CRITICAL,
                "Undefined name",
                "The line raises NameError when it is reached, which may be hours into a job.",
                "A name must have a value before it is used.",
                "L1.4",
            ),
            _undefined,
        ),
        (
            Rule(
                "F811",
                Category.BUG,
                Severity.HIGH,
                "Defined twice",
                "The later definition silently replaces the earlier one, whoever calls it.",
                "One name, one definition: a placeholder once replaced a renderer of real galaxies.",
                "L1.2",
            ),
            _redefined,
        ),
        (
            Rule(
                "E722",
                Category.ERROR_HANDLING,
                Severity.HIGH,
                "Bare except",
                "It catches everything, Ctrl-C and SystemExit included, and hides what went wrong.",
                _SHOWN,
                "L6.1",
            ),
            _handler,
        ),
        (
            Rule(
                "BLE001",
                Category.ERROR_HANDLING,
                Severity.HIGH,
                "Every exception is caught",
                "A typing error in the body looks like the failure that was expected, and the run goes on.",
                _SHOWN,
                "L6.1",
            ),
            _handler,
        ),
        (
            Rule(
                "S110",
                Category.ERROR_HANDLING,
                Severity.HIGH,
                "Exception swallowed",
                "Whatever fails is passed over without a word.",
                _SHOWN,
                "L6.1",
            ),
            _handler,
        ),
        (
            Rule(
                "S112",
                Category.ERROR_HANDLING,
                Severity.HIGH,
                "Failing rows skipped in silence",
                "Rows that fail vanish, and nobody can tell how many or which.",
                "A row without a result is written with a reject code, or the job stops and names it.",
                "L6.1",
            ),
            _handler,
        ),
        (
            Rule(
                "NPY002",
                Category.BUG,
                Severity.MEDIUM,
                "Global random state of numpy",
                "The draw depends on everything that drew before: on order, workers and resumed runs.",
                "A stream keyed by seed, purpose and target gives the same draw whoever computes the row.",
            ),
            _numpy_random,
        ),
        (
            Rule(
                "S301",
                Category.BUG,
                Severity.MEDIUM,
                "Pickle read",
                "Loading a pickle runs whatever code its file holds, and ties the file to today's classes.",
                "Tables, JSON and weights hold data only.",
            ),
            _pickle,
        ),
        (
            Rule(
                "S602",
                Category.BUG,
                Severity.HIGH,
                "Command through a shell",
                "Spaces, quotes and semicolons in a path or argument become commands of their own.",
                "A list of words reaches the program as it stands.",
                "L3.1",
            ),
            _shell,
        ),
        (
            Rule(
                "S605",
                Category.BUG,
                Severity.HIGH,
                "Command through a shell, its result ignored",
                "Spaces and quotes in a path become commands, and a failing command goes unnoticed.",
                "A list of words reaches the program as it stands; check=True stops at a failure.",
                "L3.1",
            ),
            _shell,
        ),
        (
            Rule(
                "B006",
                Category.BUG,
                Severity.MEDIUM,
                "Mutable default argument",
                "All calls share the one object: what one call adds, the next one finds.",
                "A default made in the body belongs to its call.",
            ),
            _default,
        ),
    )
}
"""Ruff's rules that a review reports. Syntax is decided by the interpreter that will run the file."""


def ruff_hits(scripts: Sequence[Script]) -> Iterator[Hit]:
    """What ruff finds in the files, with no configuration but ours."""
    by_path = {os.path.abspath(script.path): script for script in scripts}  # noqa: PTH100 - links must stay
    paths = list(by_path)
    for start in range(0, len(paths), _FILES_AT_ONCE):
        for found in _run(paths[start : start + _FILES_AT_ONCE]):
            if found["code"] not in RULES:
                continue  # newer syntax than ruff's target: the file was compiled, so it is sound
            yield from _hit(by_path[str(found["filename"])], found)


def _run(paths: Sequence[str]) -> list[dict[str, Any]]:
    version = min(sys.version_info[:2], _NEWEST_TARGET)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--quiet"]
    command += ["--output-format", "json", "--target-version", f"py{version[0]}{version[1]}"]
    command += ["--select", ",".join(RULES), "--", *paths]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)  # noqa: S603 - our own words
    try:
        return list(json.loads(done.stdout))  # its exit code is 1 where it found something
    except ValueError as error:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise DataError("ruff", f"could not check the code: {reason}", "pip install ruff") from error


def _hit(script: Script, found: Mapping[str, Any]) -> Iterator[Hit]:
    rule, fix = RULES[found["code"]]
    line, message = int(found["location"]["row"]), str(found["message"])
    if rule.name == "F821" and _names_an_axis(script, line, int(found["location"]["column"])):
        return
    fixed = _applied(script, line, found["fix"]) if found["fix"] else fix(script, line, message)
    fixed = fixed or "# delete this line: the name is there already"
    first, last = _extent(script, line, int(found["end_location"]["row"]))
    yield Hit(rule, script, first, last, fixed, f"{message.strip().rstrip('.')}.")


def _extent(script: Script, line: int, end: int) -> tuple[int, int]:
    """A handler is shown whole; of anything else the lines that ruff points at, or the statement's head."""
    for handler in script.find(ast.ExceptHandler):
        if handler.lineno == line:
            return line, handler.end_lineno or line
    for statement in script.find(ast.stmt):
        if statement.lineno == line:
            return line, max(head(statement)[1], min(end, statement.end_lineno or end))
    return line, max(line, end)


def _names_an_axis(script: Script, line: int, column: int) -> bool:
    """Whether the place lies in a shape string such as ``Float[np.ndarray, "row"]``: no name, but an axis."""
    for node in script.find(ast.Subscript):
        if script.imported(node.value).startswith("jaxtyping."):
            for text in ast.walk(node.slice):
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    width = len(script.lines[line - 1].encode()[: text.col_offset].decode())
                    if text.lineno == line and width < column <= width + len(text.value) + 2:
                        return True
    return False


def _applied(script: Script, line: int, fix: Mapping[str, Any]) -> str:
    """The lines that ruff's own fix touches, as they are after it."""
    starts, total = [0], 0
    for text in script.lines:
        total += len(text) + 1
        starts.append(total)
    body = "\n".join(script.lines) + "\n"

    def place(where: Mapping[str, int]) -> int:
        return starts[where["row"] - 1] + where["column"] - 1

    edits = sorted(fix["edits"], key=lambda edit: place(edit["location"]), reverse=True)
    grown, last = 0, line
    for edit in edits:
        begin, end, content = place(edit["location"]), place(edit["end_location"]), edit["content"] or ""
        grown += content.count("\n") - body[begin:end].count("\n")
        to = edit["end_location"]
        last = max(last, to["row"] if to["column"] > 1 else to["row"] - 1)  # column 1: up to that line only
        body = body[:begin] + content + body[end:]
    return textwrap.dedent("\n".join(body.split("\n")[line - 1 : last + grown])).strip("\n")


def _quoted(message: str) -> str:
    found = re.search(r"`([^`]+)`", message)
    return found[1] if found else "…"
