"""What becomes of a failure: handlers that answer it with success, or that only talk about it."""

import ast
import re
import textwrap
from collections.abc import Iterator

from darkhaloscope.review.issues import Category, Severity
from darkhaloscope.review.script import Function, Hit, Rule, Script, hit, last_name, spelled, targets

MOCK = Rule(
    "mock-result",
    Category.ERROR_HANDLING,
    Severity.CRITICAL,
    "Failure reported as success",
    "When the work fails, this answers that it passed: a model that never loaded once passed this way.",
    "What could not be measured is NOT_EVALUATED, which never counts as a pass; here it is raised.",
    "L6.1",
)
_PASSED = re.compile(
    r"(^|_)(passed|pass|success|succeeded|successful|ok|valid|verified|healthy)($|_)", re.IGNORECASE
)
_NEGATIVE = re.compile(
    r"missing|absent|fail|bad|broken|invalid|damag|error|empty|stale|expired|not_|lacks|gone|stop"
)


def mock_result(script: Script) -> Iterator[Hit]:
    """An exception that is answered with success."""
    for handler in script.find(ast.ExceptHandler):
        claim = next((n for n in _inside(handler) if _claims_success(script, n)), None)
        if claim is not None:
            yield hit(MOCK, script, handler, _raised(handler), "")


def _claims_success(script: Script, node: ast.AST) -> bool:
    match node:
        case ast.Return(value=ast.Constant(value=True)):
            function = script.function(node)
            return function is None or not _NEGATIVE.search(function.name)
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
            return _is_success(value) and any(_PASSED.search(name) for name in targets(node))
        case ast.keyword(arg=str(name), value=value):
            return (bool(_PASSED.search(name)) or name in {"status", "verdict"}) and _is_success(value)
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return any(_key_claims(key) and _is_success(value) for key, value in pairs)
        case _:
            return False


def _key_claims(key: ast.expr | None) -> bool:
    name = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else ""
    return bool(_PASSED.search(name)) or name in {"status", "verdict"}


def _is_success(value: ast.expr) -> bool:
    if isinstance(value, ast.Constant):
        return value.value is True or str(value.value).upper() in {"PASS", "PASSED", "OK", "SUCCESS", "GO"}
    return isinstance(value, ast.Attribute) and value.attr == "PASS"


def _inside(handler: ast.ExceptHandler) -> Iterator[ast.AST]:
    """What the handler does itself: a function it defines runs elsewhere, if at all."""
    waiting: list[ast.AST] = list(handler.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _raised(handler: ast.ExceptHandler) -> str:
    caught = ast.unparse(handler.type) if handler.type else "OSError"
    return textwrap.dedent(f"""\
        except {caught} as error:
            raise RuntimeError(f"what was being done, and for which row: {{error}}") from error""")


SWALLOWED = Rule(
    "swallowed-exception",
    Category.ERROR_HANDLING,
    Severity.HIGH,
    "Exception swallowed",
    "The run goes on as if the work had been done; a line in a log of thousands is all that is left of it.",
    "Log and raise again. What may fail is answered by a value that says so: an empty list, a reject code, "
    "contextlib.suppress around the one call.",
    "L6.1",
)
_SAYS = re.compile(
    r"^(print|pprint|(.*\.)?(log|logger|logging|_log|_logger|LOG|LOGGER)\.\w+|warnings\.warn|typer\.echo|click\.echo"
    r"|(.*\.)?console\.(print|log)|sys\.std(err|out)\.write|traceback\.print_\w+)$"
)
_ENDS_OF_THINGS = frozenset(
    [
        "StopIteration",
        "StopAsyncIteration",
        "GeneratorExit",
        "KeyboardInterrupt",
        "Empty",
        "Full",
        "CancelledError",
    ]
)
"""Exceptions that say something ended or was asked to, not that it failed."""


def swallowed_exception(script: Script) -> Iterator[Hit]:
    """A handler that does nothing but talk.

    A handler that answers with a value (``return []``, ``return None``) converts the failure into something
    its caller can see. One after ``try: return …`` goes on to another way of having the thing; one in a loop
    that counts attempts, or looks through alternatives, is followed by the next. None of these is reported.
    """
    for handler in script.find(ast.ExceptHandler):
        caught = {last_name(node) for node in ast.walk(handler.type)} if handler.type else set()
        if not caught & _ENDS_OF_THINGS and _only_talks(script, handler):
            yield hit(SWALLOWED, script, handler, _raised(handler))


def _only_talks(script: Script, handler: ast.ExceptHandler) -> bool:
    owner = next(script.around(handler))
    falls_through = isinstance(owner, ast.Try) and isinstance(owner.body[-1], ast.Return)
    if _tries_again(script, handler):
        return False
    rest = [s for s in handler.body if not _is_message(s)]
    said = len(rest) < len(handler.body)
    if all(isinstance(s, ast.Pass | ast.Continue) or _is_constant(s) for s in rest):
        return said or not falls_through
    return said and all(isinstance(s, ast.Return) and _is_nothing(s.value) for s in rest)


def _is_message(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Call(func=function)):
            return bool(_SAYS.match(spelled(function) or ast.unparse(function)))
        case _:
            return False


def _is_constant(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_nothing(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _tries_again(script: Script, handler: ast.ExceptHandler) -> bool:
    """Whether the loop around it counts attempts, or leaves with the first alternative that works."""
    around = script.around(handler)
    loop = next((n for n in around if isinstance(n, ast.For | ast.AsyncFor | ast.While | Function)), None)
    if isinstance(loop, ast.For) and isinstance(loop.iter, ast.Call):
        counted = last_name(loop.iter.func) in {"range", "count"} and len(loop.iter.args) <= 1
    else:
        counted = isinstance(loop, ast.While)
    leaves = isinstance(loop, ast.For) and any(isinstance(n, ast.Return | ast.Break) for n in ast.walk(loop))
    return counted or leaves


HANDLER_RULES = (mock_result, swallowed_exception)
