"""One Python file as the code checks see it, and what a rule says when it fires.

A `Script` is text, tree and names, parsed and never run: a file under review may do anything when imported.
"""

import ast
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from darkhaloscope.review.issues import Category, Issue, Severity

Node = TypeVar("Node", bound=ast.AST)
Function = ast.FunctionDef | ast.AsyncFunctionDef

_PACKAGE = "darkhaloscope"
_MOST_LINES = 16  # of an issue's snippet: enough to recognise the place by


_PROTOCOL = "contracts/protocol.py"
ALLOWED: Mapping[tuple[str, str], str] = {
    ("hardcoded-number 22.5", "survey/priors.py"): "faint limit of the star counts [mag], not the zero-point",
    ("hardcoded-number 284", "review/home_rules.py"): "the table of what the rule looks for",
    ("hardcoded-number us-west-2", "review/home_rules.py"): "the table of what the rule looks for",
    (
        "ungrouped-folds",
        "gates/probes.py",
    ): "the brief's letter, shown beside the gate by hosts; it never decides",
    ("unread-config-field Gate.needs", _PROTOCOL): "says in words what `needs_n` counts",
    ("unread-config-field Metrics.added", _PROTOCOL): "names what is measured beyond the brief",
    ("unread-config-field AnchorRecall.pool_wanted", _PROTOCOL): "a wish beside the minimum that is enforced",
    (
        "unread-config-field AnchorRecall.anchors_wanted",
        _PROTOCOL,
    ): "a wish beside the minimum that is enforced",
    ("unread-config-field Statistics.seeds_wanted", _PROTOCOL): "a wish beside the minimum that is enforced",
    ("unread-config-field Protocol.significance", _PROTOCOL): "for the comparison of arms, which is to come",
    ("unread-config-field Protocol.ablations", _PROTOCOL): "for the comparison of arms, which is to come",
}
"""Places in our own package where a rule does not hold, by rule (and thing) and room, and why."""


@dataclass(frozen=True)
class Rule:
    """What one rule says wherever it fires; `lesson` is the lesson it keeps learned, where there is one."""

    name: str
    category: Category
    severity: Severity
    title: str
    problem: str
    explanation: str
    lesson: str = ""


@dataclass(frozen=True)
class Script:
    """A file that parses.

    path   where it lies; `name` is how the issue spells it
    room   its place in our own package, such as ``gates/probes.py``; empty for anybody else's file
    """

    path: Path
    name: str
    text: str
    tree: ast.Module
    room: str = ""

    @cached_property
    def lines(self) -> list[str]:
        """The text by lines, as Python counts them: a form feed or a vertical tab does not end one."""
        return [line.rstrip("\r\n") for line in self.text.replace("\r\n", "\n").split("\n")]

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of the tree."""
        return tuple(ast.walk(self.tree))

    @cached_property
    def _parents(self) -> Mapping[ast.AST, ast.AST]:
        return {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    @cached_property
    def _origins(self) -> Mapping[str, str]:
        """What each imported name stands for: ``np`` is numpy, ``rng_of`` may be numpy.random.default_rng."""
        origins: dict[str, str] = {}
        for node in self.find(ast.Import):
            for alias in node.names:
                root = alias.name.split(".", maxsplit=1)[0]
                origins[alias.asname or root] = alias.name if alias.asname else root
        for given in self.find(ast.ImportFrom):
            for alias in given.names:
                origins[alias.asname or alias.name] = f"{given.module or '.'}.{alias.name}"
        return origins

    @cached_property
    def _bound(self) -> frozenset[str]:
        """Names that the file itself gives a meaning, and that are therefore no builtins."""
        stored = {n.id for n in self.find(ast.Name) if isinstance(n.ctx, ast.Store)}
        defined = {n.name for n in self.nodes if isinstance(n, Function | ast.ClassDef)}
        return frozenset(stored | defined | {n.arg for n in self.find(ast.arg)} | set(self._origins))

    def allows(self, rule: Rule, what: object = "") -> bool:
        """Whether our own package is allowed this here, or this thing here; each with its reason."""
        return (f"{rule.name} {what}".strip(), self.room) in ALLOWED

    def find(self, kind: type[Node]) -> Iterator[Node]:
        """Every node of one kind."""
        return (node for node in self.nodes if isinstance(node, kind))

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """What holds the node, from the inside out."""
        while (parent := self._parents.get(node)) is not None:
            yield parent
            node = parent

    def statement(self, node: ast.AST) -> ast.stmt | None:
        """The statement a node belongs to."""
        if isinstance(node, ast.stmt):
            return node
        return next((held for held in self.around(node) if isinstance(held, ast.stmt)), None)

    def function(self, node: ast.AST) -> Function | None:
        """The function a node stands in; None at module level."""
        return next((f for f in self.around(node) if isinstance(f, Function)), None)

    def runs_at_import(self, node: ast.AST) -> bool:
        """Whether importing the file runs the node."""
        return not any(isinstance(held, Function | ast.Lambda) for held in self.around(node))

    def imported(self, node: ast.AST) -> str:
        """The dotted name of something imported, such as ``numpy.random.default_rng``; else empty."""
        dotted = spelled(node)
        root, _, rest = dotted.partition(".")
        origin = self._origins.get(root, "")
        return f"{origin}.{rest}" if origin and rest else origin

    def is_builtin(self, node: ast.AST, name: str) -> bool:
        """Whether the node is a builtin by its own name."""
        return isinstance(node, ast.Name) and node.id == name and name not in self._bound

    def snippet(self, first: int, last: int) -> str:
        """Lines of the file, both ends included, without their common indentation."""
        chosen = self.lines[first - 1 : last]
        if len(chosen) > _MOST_LINES:
            chosen = [*chosen[: _MOST_LINES - 1], chosen[0][: _indent(chosen[0])] + "…"]
        return textwrap.dedent("\n".join(chosen)).strip("\n")

    def replaced(self, node: ast.expr, code: str) -> str:
        """The lines of a node's statement with the node written anew."""
        statement = self.statement(node)
        first, last = (
            head(statement) if statement is not None else (node.lineno, node.end_lineno or node.lineno)
        )
        lines = [line.encode() for line in self.lines]  # ast counts columns in bytes
        end, until = (node.end_lineno or node.lineno) - 1, node.end_col_offset or 0
        before, after = lines[node.lineno - 1][: node.col_offset], lines[end][until:]
        whole = [*lines[first - 1 : node.lineno - 1], before + code.encode() + after, *lines[end + 1 : last]]
        return textwrap.dedent(b"\n".join(whole).decode()).strip("\n")


@dataclass(frozen=True)
class Hit:
    """One place where a rule fired: its lines, the code as it should be, and a sentence on this very case."""

    rule: Rule
    script: Script
    first: int
    last: int
    fixed: str
    detail: str = ""

    @property
    def order(self) -> tuple[int, str, int, str]:
        """Worst first, then by file and line."""
        return self.rule.severity.rank, self.script.name, self.first, self.rule.name

    def issue(self) -> Issue:
        """The hit in the form that people read."""
        rule, lines = self.rule, str(self.first)
        if self.last > self.first:
            lines += f"-{self.last}"
        lesson = f" Lesson {rule.lesson}." if rule.lesson else ""
        return Issue(
            rule=rule.name,
            category=rule.category,
            severity=rule.severity,
            title=rule.title,
            file=self.script.name,
            lines=lines,
            problem=f"{self.detail} {rule.problem}".strip(),
            current=self.script.snippet(self.first, self.last),
            fixed=self.fixed,
            explanation=rule.explanation + lesson,
        )


def hit(
    rule: Rule, script: Script, node: ast.stmt | ast.expr | ast.excepthandler, fixed: str, detail: str = ""
) -> Hit:
    """A hit on the statement of a node: its head where it holds a body, for a whole loop is no snippet."""
    statement = script.statement(node)
    if isinstance(node, ast.excepthandler) or statement is None:
        return Hit(rule, script, node.lineno, node.end_lineno or node.lineno, fixed, detail)
    return Hit(rule, script, *head(statement), fixed, detail)


def head(statement: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, without the body it holds."""
    last = statement.end_lineno or statement.lineno
    body = getattr(statement, "body", None)
    if isinstance(body, list) and body:
        last = max(statement.lineno, body[0].lineno - 1)
    return statement.lineno, last


def spelled(node: ast.AST) -> str:
    """The dotted name as written, such as ``np.random.rand``; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


def last_name(node: ast.AST) -> str:
    """The last part of a name, attribute or textual key: what a reader would call the thing."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
        case ast.Call(func=function):
            return last_name(function)
        case _:
            return ""


def targets(statement: ast.AST) -> Iterator[str]:
    """Names that a statement assigns to."""
    match statement:
        case ast.Assign(targets=found):
            given = list(found)
        case ast.AnnAssign(target=one) | ast.AugAssign(target=one) | ast.NamedExpr(target=one):
            given = [one]
        case _:
            given = []
    for target in given:
        parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
        yield from (last_name(part) for part in parts)


def written(call: ast.Call) -> str:
    """The first argument of a call as code, or an ellipsis."""
    return ast.unparse(call.args[0]) if call.args else "…"


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    """The value of a keyword argument."""
    return next((given.value for given in call.keywords if given.arg == name), None)


def room_of(path: Path) -> str:
    """Where a file stands in a tree of our own package; empty outside one."""
    resolved = path.resolve()
    for folder in resolved.parents:
        if folder.name == _PACKAGE and (folder / "contracts" / "tables.py").is_file():
            return resolved.relative_to(folder).as_posix()
    return ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
