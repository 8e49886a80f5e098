"""What no linter knows about this science: gates with a direction, folds by host, unseen rows, centres."""

import ast
import re
from collections.abc import Iterator, Sequence

from darkhaloscope.contracts.protocol import V1, V2
from darkhaloscope.review.issues import Category, Severity
from darkhaloscope.review.script import Function, Hit, Rule, Script, head, hit, keyword, last_name, targets

FLIPPED = Rule(
    "flipped-gate",
    Category.SCIENCE,
    Severity.CRITICAL,
    "Gate points the wrong way",
    "What the gate is there to stop passes it, and what is right fails.",
    "A Bound knows its direction, so that no comparison can be typed backwards.",
)
_DIRECTIONS = {
    name: bound.direction for name, bound in {**V1, **V2}.items() if bound.direction in {"below", "above"}
}
_LIMIT = re.compile(r"(^|_)(max|min|bound|limit|threshold|thresh|cut)($|_)", re.IGNORECASE)
_GOOD = re.compile(
    r"(^|_)(pass|passed|passes|ok|good|holds|success|valid|accept|accepted|go)($|_)", re.IGNORECASE
)
_BAD = re.compile(
    r"(^|_)(fail|failed|fails|failure|bad|reject|rejected|violated|leaks?|no_go)($|_)", re.IGNORECASE
)


def flipped_gate(script: Script) -> Iterator[Hit]:
    """A gate compared against its direction, where the comparison decides that it passes (or fails)."""
    for node in script.find(ast.Compare):
        if len(node.ops) != 1 or (found := _gate(node)) is None:
            continue
        name, points = found
        sense = _sense(script, node)
        wants = _DIRECTIONS[name]
        if sense is not None and (points == wants) is not sense:
            metric = ast.unparse(node.left if _names_gate(node.left) == name else node.comparators[0])
            version = "V1" if name in V1 else "V2"
            held = f'{version}["{name}"].holds({metric})'
            code = script.replaced(node, held if sense else f"not {held}")
            line = f"from darkhaloscope.contracts.protocol import {version}"
            yield hit(FLIPPED, script, node, f"{line}\n\n{code}", f"{name} must be {wants} its bound.")


def _gate(node: ast.Compare) -> tuple[str, str] | None:
    """The gate that is compared, and the side of its bound on which the comparison is true."""
    less = isinstance(node.ops[0], ast.Lt | ast.LtE)
    if not less and not isinstance(node.ops[0], ast.Gt | ast.GtE):
        return None
    left, right = _names_gate(node.left), _names_gate(node.comparators[0])
    if left:
        return left, "below" if less else "above"
    if right:
        return right, "above" if less else "below"
    return None


def _names_gate(node: ast.expr) -> str:
    """The gate whose measured value an expression names; a limit of that name is not the value."""
    name = last_name(node).lower()
    if _LIMIT.search(name):
        return ""
    return max((gate for gate in _DIRECTIONS if gate in name), key=len, default="")


def _sense(script: Script, node: ast.expr) -> bool | None:
    """True where the comparison means a pass, False where it means a failure, None where it means neither."""
    positive = True
    inner: ast.AST = node
    for held in script.around(node):
        match held:
            case ast.UnaryOp(op=ast.Not()):
                positive = not positive
            case ast.Assert():
                return positive
            case ast.If(test=test, body=body) if inner is test:
                return _branch(body, positive=positive)
            case ast.keyword() | ast.Dict() | ast.stmt():
                return _meaning(_named_for(script, held, inner), positive=positive)
        inner = held
    return None


def _named_for(script: Script, held: ast.AST, inner: ast.AST) -> list[str]:
    """What the value `inner` is called by that which holds it."""
    match held:
        case ast.keyword(arg=str(name)):
            return [name]
        case ast.Dict(keys=keys, values=values) if isinstance(inner, ast.expr) and inner in values:
            key = keys[values.index(inner)]
            return [str(key.value)] if isinstance(key, ast.Constant) else []
        case ast.Return():
            function = script.function(held)
            return [function.name] if function else []
        case _:
            return list(targets(held))


def _meaning(names: Sequence[str], *, positive: bool) -> bool | None:
    if any(_BAD.search(name) for name in names):
        return not positive
    return positive if any(_GOOD.search(name) for name in names) else None


def _branch(body: Sequence[ast.stmt], *, positive: bool) -> bool | None:
    """What the branch that a comparison opens says of it: it raises, or it sets or returns a verdict."""
    for statement in body:
        match statement:
            case ast.Raise():
                return not positive
            case ast.Return(value=ast.Constant(value=bool(value))):
                return positive is value
            case ast.Assign(value=ast.Constant(value=bool(value))):
                meaning = _meaning(list(targets(statement)), positive=positive)
                return meaning if value or meaning is None else not meaning
            case ast.Expr(value=ast.Call(func=function)) if last_name(function) in {"exit", "fail", "_exit"}:
                return not positive
    return None


UNGROUPED = Rule(
    "ungrouped-folds",
    Category.SCIENCE,
    Severity.HIGH,
    "Folds that divide a galaxy",
    "Stamp and control of one host fall into different folds: the probe meets the same pixels with the other "
    "label, and the AUROC says nothing (its null on pairs is about .2, not .5).",
    "Folds by host keep all rows of one galaxy together.",
)
_SPLITTERS = frozenset(
    {
        "KFold",
        "StratifiedKFold",
        "RepeatedKFold",
        "RepeatedStratifiedKFold",
        "ShuffleSplit",
        "StratifiedShuffleSplit",
    }
)
_VALIDATED = frozenset({"cross_val_score", "cross_val_predict", "cross_validate"})
_GROUPS = re.compile(r"host|group|cell|brick|galax|object|target", re.IGNORECASE)


def ungrouped_folds(script: Script) -> Iterator[Hit]:
    """Cross-validation that does not know which rows belong together; splitting a list of groups is right."""
    if script.allows(UNGROUPED):
        return
    for call in script.find(ast.Call):
        origin = script.imported(call.func)
        name = origin.rsplit(".", maxsplit=1)[-1]
        if not origin.startswith("sklearn."):
            continue
        line = "from sklearn.model_selection import "
        if name in _SPLITTERS:
            better = "StratifiedGroupKFold" if "Stratified" in name else "GroupKFold"
            fixed = script.replaced(call, f"{better}(n_splits=5)")
            yield hit(UNGROUPED, script, call, f"{line}{better}\n\n{fixed}  # and .split(X, y, groups=hosts)")
        elif name in _VALIDATED and keyword(call, "groups") is None and _counts_folds(call):
            given = [ast.unparse(value) for value in call.args]
            code = script.replaced(call, f"{name}({', '.join([*given, 'groups=hosts', 'cv=GroupKFold(5)'])})")
            yield hit(UNGROUPED, script, call, f"{line}GroupKFold, {name}\n\n{code}")
        elif name == "train_test_split" and not _GROUPS.search(
            " ".join(ast.unparse(value) for value in call.args)
        ):
            code = "folds = GroupShuffleSplit(n_splits=1, random_state=seed)\n"
            code += "train, test = next(folds.split(X, y, groups=hosts))"
            yield hit(UNGROUPED, script, call, f"{line}GroupShuffleSplit\n\n{code}")


def _counts_folds(call: ast.Call) -> bool:
    """Whether the folds are only counted: a splitter that is handed over is judged where it is made."""
    cv = keyword(call, "cv")
    return cv is None or isinstance(cv, ast.Constant)


IN_SAMPLE = Rule(
    "in-sample-gate",
    Category.SCIENCE,
    Severity.HIGH,
    "Scored on the rows it was fitted to",
    "A flexible model remembers its training rows: in-sample, pure noise reaches an AUROC near 1.",
    "Scores of rows that the model has not seen, with whole hosts left out, measure what can be learned.",
)
_SCORES = frozenset({"predict_proba", "decision_function", "score"})


def in_sample_gate(script: Script) -> Iterator[Hit]:
    """``fit(X, y)`` and a score of the same X by the same estimator in one function."""
    for scored in script.find(ast.Call):
        method = scored.func
        if isinstance(method, ast.Attribute) and method.attr in _SCORES and scored.args:
            fit = _fit_of(script, scored, method)
            if fit is not None and ast.dump(fit.args[0]) == ast.dump(scored.args[0]):
                rows = ", ".join(["model", *(ast.unparse(value) for value in fit.args)])
                fixed = f'cross_val_predict({rows}, groups=hosts, cv=GroupKFold(5), method="{method.attr}")'
                if method.attr == "score":
                    fixed = f"cross_val_score({rows}, groups=hosts, cv=GroupKFold(5))"
                line = f"from sklearn.model_selection import GroupKFold, {fixed.split('(')[0]}"
                yield hit(IN_SAMPLE, script, scored, f"{line}\n\nscores = {fixed}")


def _fit_of(script: Script, scored: ast.Call, method: ast.Attribute) -> ast.Call | None:
    """The last fit of the estimator before it scores, with its rows untouched since."""
    if _is_fit(method.value) and isinstance(method.value, ast.Call):
        return method.value
    where, model = script.function(scored), ast.dump(method.value)
    fits = [
        call
        for call in script.find(ast.Call)
        if _is_fit(call) and call.lineno <= scored.lineno and script.function(call) is where
        if isinstance(call.func, ast.Attribute)
        if ast.dump(call.func.value) == model
        or last_name(method.value) in targets(script.statement(call) or call)
    ]
    last = max(fits, key=lambda call: call.lineno, default=None)
    if last is None or _changed(script, where, last_name(last.args[0]), (last.lineno, scored.lineno)):
        return None
    return last


def _is_fit(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and bool(node.args)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "fit"
    )


def _changed(script: Script, where: Function | None, name: str, lines: tuple[int, int]) -> bool:
    return any(
        lines[0] < s.lineno < lines[1] and script.function(s) is where and name in targets(s)
        for s in script.find(ast.stmt)
    )


CENTRE = Rule(
    "integer-centre",
    Category.BUG,
    Severity.MEDIUM,
    "Centre half a pixel off",
    "The middle of 64 pixels is 31.5, not 32: a mask about 32 leaves one side of the core uncovered.",
    "With pixel centres at whole numbers the middle of n pixels is (n - 1) / 2.",
)
_CENTRE = re.compile(r"(^|_)([xyij]?cent(er|re|roid)?s?(_?[xyij])?|c[xy]|[xy]c)($|_|\d)", re.IGNORECASE)

_SIZES = (ast.Name, ast.Attribute, ast.Subscript, ast.Call)  # a sum such as (n - 1) was thought about


def integer_centre(script: Script) -> Iterator[Hit]:
    """``size // 2`` called a centre."""
    for statement in script.find(ast.stmt):
        if any(_CENTRE.search(name) for name in targets(statement)):
            value = getattr(statement, "value", None)
            halves = (
                []
                if value is None
                else [n for n in ast.walk(value) if isinstance(n, ast.expr) and _is_half(n)]
            )
            if halves:
                fixed = ast.unparse(_Middle().visit(ast.parse(script.snippet(*head(statement)))))
                yield hit(CENTRE, script, statement, fixed)


def _is_half(node: ast.AST) -> bool:
    match node:
        case ast.BinOp(left=size, op=ast.FloorDiv(), right=ast.Constant(value=2)):
            return isinstance(size, _SIZES)
        case ast.Call(
            func=ast.Name(id="int"), args=[ast.BinOp(op=ast.Div(), right=ast.Constant(value=2)) as half]
        ):
            return isinstance(half.left, _SIZES)
        case _:
            return False


class _Middle(ast.NodeTransformer):
    """Writes (n - 1) / 2 for n // 2."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return _middle(node.left) if _is_half(node) else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        match node.args:
            case [ast.BinOp(left=left)] if _is_half(node):
                return _middle(left)
        return node


def _middle(size: ast.expr) -> ast.expr:
    return ast.parse(f"({ast.unparse(size)} - 1) / 2", mode="eval").body


SCIENCE_RULES = (flipped_gate, ungrouped_folds, in_sample_gate, integer_centre)
