"""One home for each thing: constants and columns that a file spells for itself instead of taking them."""

import ast
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from darkhaloscope.contracts.protocol import V1
from darkhaloscope.contracts.tables import HOUSE_TABLES
from darkhaloscope.review.issues import Category, Severity
from darkhaloscope.review.script import Hit, Rule, Script, head, hit, last_name
from darkhaloscope.survey.photometry import MAD_TO_STD
from darkhaloscope.survey.release import PIXEL_SCALE_ARCSEC, ZERO_POINT


@dataclass(frozen=True)
class Number:
    """A value with one home.

    home     the file that holds it: in the package, or a configuration
    take     how to have it: a line of import, and the expression that replaces the literal
    context  words of which one must stand beside a number that may mean something else; none: it cannot
    """

    value: float | str
    home: str
    take: tuple[str, str]
    context: tuple[str, ...] = ()


def _from(module: str, name: str) -> tuple[str, str]:
    return f"from darkhaloscope.{module} import {name}", name


_GATE = "from darkhaloscope.contracts.protocol import V1"
_BUDGET = ("# cluster: the configuration a job is given, the only place that says so", "cluster.vcore_budget")
_REGION = (_BUDGET[0], "cluster.region")

NUMBERS = (
    Number(PIXEL_SCALE_ARCSEC, "survey/release.py", _from("survey.release", "PIXEL_SCALE_ARCSEC")),
    Number(ZERO_POINT, "survey/release.py", _from("survey.release", "ZERO_POINT")),
    Number(MAD_TO_STD, "survey/photometry.py", _from("survey.photometry", "MAD_TO_STD")),
    Number(
        V1["core_lr_auc"].high or 0.0,
        "contracts/protocol.py",
        (_GATE, 'V1["core_lr_auc"].high'),
        ("gate", "auc"),
    ),
    Number(284, "configs/cluster.yaml", _BUDGET, ("core", "cpu", "budget")),
    Number("us-west-2", "configs/cluster.yaml", _REGION),
)
"""Values that stood in many files and differed. The last two belong to a configuration and to no module."""

HARDCODED = Rule(
    "hardcoded-number",
    Category.INCONSISTENCY,
    Severity.MEDIUM,
    "Constant written out",
    "Copies of a constant drift apart: the same value once differed between files of one system.",
    "Each number has one home, from which everybody takes it.",
    "L7.2",
)


def hardcoded_number(script: Script) -> Iterator[Hit]:
    """Survey constants, gate bounds, budget and region away from their homes."""
    for node in script.find(ast.Constant):
        number = next((n for n in NUMBERS if _same(n.value, node.value)), None)
        if number is None or number.home == script.room or script.allows(HARDCODED, number.value):
            continue
        if not number.context or any(word in _beside(script, node) for word in number.context):
            line, name = number.take
            fixed = f"{line}\n\n{script.replaced(node, name)}"
            yield hit(HARDCODED, script, node, fixed, f"{node.value!r} has its home in {number.home}.")


def _same(value: float | str, found: object) -> bool:
    """Equal in type too: 1 is no True, and 284.0 is no budget."""
    return type(value) is type(found) and value == found


def _beside(script: Script, node: ast.AST) -> str:
    """Every name in the head of the statement, lower case: neighbours tell what a bare number means."""
    statement = script.statement(node)
    if statement is None:
        return ""
    last = head(statement)[1]
    words = [""]
    for near in ast.walk(statement):
        if getattr(near, "lineno", last) <= last:
            words += [getattr(near, name, None) or "" for name in ("id", "attr", "arg", "name")]
            words += [near.value] if isinstance(near, ast.Constant) and isinstance(near.value, str) else []
    return " ".join(word for word in words if isinstance(word, str)).lower()


COLUMNS = Rule(
    "schema-columns",
    Category.INCONSISTENCY,
    Severity.HIGH,
    "Column that no table has",
    "The table another room writes has no such column: a KeyError at best, a silently absent value at worst.",
    "Names of columns are declared once, in contracts/tables.py; docs/contracts.md lists them.",
    "L8.1",
)
_DECLARED = frozenset(chain.from_iterable((c.name for c in table.columns) for table in HOUSE_TABLES))
_NEAR = 0.85
_SERIES = re.compile(r"_[griyz]$|_w\d$|\d+")  # members of a series differ in band or number on purpose
_READERS = frozenset({"column", "field", "get", "select", "append_column", "drop_columns"})


def schema_columns(scripts: Sequence[Script]) -> Iterator[Hit]:
    """Names read as columns that are one slip away from a declared one, and that the tree never writes."""
    own = frozenset(name for script in scripts for name in _written(script))
    for script in scripts:
        for node in _columns_read(script):
            name = str(node.value)
            if name in _DECLARED or name in own or "_" not in name:
                continue
            near = difflib.get_close_matches(name, sorted(_DECLARED), n=1, cutoff=_NEAR)
            if near and _kind(name) != _kind(near[0]):
                detail = f"No table declares `{name}`; `{near[0]}` is declared."
                yield hit(COLUMNS, script, node, script.replaced(node, f'"{near[0]}"'), detail)


def _kind(column: str) -> str:
    return _SERIES.sub("", column)


def _columns_read(script: Script) -> Iterator[ast.Constant]:
    for node in script.nodes:
        match node:
            case ast.Subscript(slice=ast.Constant(value=str()) as name, ctx=ast.Load()):
                yield name
            case ast.Subscript(slice=ast.List(elts=names), ctx=ast.Load()):
                yield from _texts(names)
            case ast.Call(func=ast.Attribute(attr=method), args=[first, *_]) if method in _READERS:
                yield from _texts(first.elts if isinstance(first, ast.List | ast.Tuple) else [first])
            case ast.keyword(arg="columns" | "usecols", value=ast.List(elts=names) | ast.Tuple(elts=names)):
                yield from _texts(names)


def _texts(nodes: Sequence[ast.expr]) -> Iterator[ast.Constant]:
    return (n for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))


def _written(script: Script) -> Iterator[str]:
    """Keys that the script gives a value itself, and fields that it declares: their names are its own."""
    for node in script.nodes:
        match node:
            case ast.Subscript(slice=ast.Constant(value=str(name)), ctx=ast.Store()):
                yield name
            case ast.Dict(keys=keys):
                yield from (str(key.value) for key in keys if isinstance(key, ast.Constant))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                if last_name(function) == "Column":
                    yield name
                if last_name(function) == "dict":
                    yield from (word.arg or "" for word in node.keywords)


HOME_RULES = (hardcoded_number,)
HOME_TREE_RULES = (schema_columns,)
