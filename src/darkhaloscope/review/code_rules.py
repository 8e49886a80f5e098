"""What no linter knows about programs that run on many machines: their randomness, imports and arguments."""

import ast
import re
import textwrap
from collections.abc import Iterator

from darkhaloscope.review.issues import Category, Severity
from darkhaloscope.review.script import (
    Hit,
    Rule,
    Script,
    hit,
    last_name,
    targets,
    written,
)

_STREAM = "from darkhaloscope.contracts.random import stream\n\n"

SALTED = Rule(
    "salted-hash-seed",
    Category.BUG,
    Severity.HIGH,
    "Randomness from the builtin hash",
    "Python salts the hash of text anew in every interpreter: each worker and each run draws something else.",
    "A digest is the same everywhere; stream(seed, purpose, target) makes one and keys a generator with it.",
)
_SEEDED = frozenset(
    [
        "default_rng",
        "seed",
        "manual_seed",
        "manual_seed_all",
        "Random",
        "RandomState",
        "SeedSequence",
        "Generator",
        "Philox",
        "PCG64",
        "PCG64DXSM",
        "MT19937",
        "SFC64",
        "PRNGKey",
        "stream",
        "set_seed",
        "seed_everything",
    ]
)


def salted_hash_seed(script: Script) -> Iterator[Hit]:
    """``hash(...)`` that seeds a generator, or deals rows out by its remainder."""
    for call in script.find(ast.Call):
        if script.is_builtin(call.func, "hash") and _decides_a_draw(script, call):
            digest = f"hashlib.sha256(str({written(call)}).encode()).digest()"
            fixed = script.replaced(call, f'int.from_bytes({digest}[:8], "little")')
            yield hit(SALTED, script, call, f"import hashlib\n\n{fixed}")


def _decides_a_draw(script: Script, call: ast.Call) -> bool:
    for held in script.around(call):
        match held:
            case ast.Call(func=function) if last_name(function) in _SEEDED:
                return True
            case ast.keyword(arg=str(name)) if "seed" in name or name == "random_state":
                return True
            case ast.BinOp(op=ast.Mod(), left=left) if left is call:
                return True
            case ast.stmt():
                return any("seed" in name.lower() for name in targets(held))
    return False


UNSEEDED = Rule(
    "unseeded-rng",
    Category.BUG,
    Severity.HIGH,
    "Random numbers nobody can draw again",
    "The result cannot be reproduced, and depends on the order in which workers take their rows.",
    "A stream keyed by seed, purpose and target gives each row its own draw, the same on every machine.",
)
_NUMPY_MAKERS = frozenset(
    ["default_rng", "SeedSequence", "PCG64", "PCG64DXSM", "Philox", "MT19937", "SFC64", "RandomState"]
)
_GLOBAL_DRAWS = {
    "random": "random", "uniform": "uniform", "randint": "integers", "randrange": "integers",
    "gauss": "normal", "normalvariate": "normal", "choice": "choice", "choices": "choice",
    "sample": "choice", "shuffle": "shuffle", "betavariate": "beta", "expovariate": "exponential",
    "lognormvariate": "lognormal", "getrandbits": "integers", "triangular": "triangular",
    "gammavariate": "gamma", "paretovariate": "pareto", "weibullvariate": "weibull",
    "vonmisesvariate": "vonmises", "seed": "",
}  # fmt: skip


def unseeded_rng(script: Script) -> Iterator[Hit]:
    """A generator without a seed, or the one that the whole interpreter shares."""
    for call in script.find(ast.Call):
        module, _, name = script.imported(call.func).rpartition(".")
        if (module == "numpy.random" and name in _NUMPY_MAKERS and _without_seed(call)) or (
            module == "random" and name == "Random" and _without_seed(call)
        ):
            made = 'stream(seed, "what is drawn", target_id)'
            yield hit(UNSEEDED, script, call, _STREAM + script.replaced(call, made))
        elif module == "random" and name in _GLOBAL_DRAWS:
            rng = 'rng = stream(seed, "what is drawn", target_id)'
            if modern := _GLOBAL_DRAWS[name]:
                rng += "\n" + script.replaced(call.func, f"rng.{modern}")
            yield hit(
                UNSEEDED, script, call, _STREAM + rng, f"`{name}` draws from the interpreter's one generator."
            )


def _without_seed(call: ast.Call) -> bool:
    given = [*call.args, *(word.value for word in call.keywords)]
    return all(isinstance(value, ast.Constant) and value.value is None for value in given)


VENDOR = Rule(
    "vendor-import",
    Category.BUG,
    Severity.HIGH,
    "Cloud or engine imported at the top",
    "Workers pickle what a module holds: a client or a missing module is captured, and fails far away.",
    "Imported where it is used, it is looked up on the machine that runs it.",
    "L1.1",
)
_VENDORS = frozenset({"boto3", "botocore", "pyspark"})
_DOORS = frozenset({"aws/clients.py", "runners/spark.py"})


def vendor_import(script: Script) -> Iterator[Hit]:
    """boto3 or pyspark outside their doors in our own package, or at the top of anybody's file."""
    optional = {node for tried in _optional_imports(script) for node in tried.body}
    for statement in script.find(ast.stmt):
        names = _imports(statement)
        if not _VENDORS & {name.split(".")[0] for name in names} or statement in optional:
            continue
        code = ast.unparse(statement)
        if script.room and script.room not in _DOORS:
            fixed = "from darkhaloscope.aws import clients  # what AWS does is asked of its one door"
            if "pyspark" in code:
                fixed = "# hand the Job to a runner: runners/spark.py is the only file that knows the engine"
            yield hit(VENDOR, script, statement, fixed, "In this package each vendor has one door.")
        elif not script.room and script.runs_at_import(statement) and not _for_types_only(script, statement):
            yield hit(
                VENDOR,
                script,
                statement,
                f"def work(batch):\n    {code}  # found on the machine that runs this\n    …",
            )


def _imports(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case _:
            return []


def _for_types_only(script: Script, node: ast.AST) -> bool:
    return any(
        isinstance(held, ast.If) and "TYPE_CHECKING" in ast.unparse(held.test) for held in script.around(node)
    )


OPTIONAL = Rule(
    "module-level-optional-import",
    Category.BUG,
    Severity.HIGH,
    "Missing module becomes None",
    "Where the import fails the name is None: a closure carries that None to the executors, and the failure "
    "comes rows later as an attribute of NoneType.",
    "Imported inside the function, a missing module is named at once, on the machine that lacks it.",
    "L1.1",
)


def module_level_optional_import(script: Script) -> Iterator[Hit]:
    """``try: import x`` with ``x = None`` where it fails."""
    for tried in _optional_imports(script):
        code = ast.unparse(tried.body[0])
        last = tried.end_lineno or tried.lineno
        yield Hit(OPTIONAL, script, tried.lineno, last, f"def work(batch):\n    {code}\n    …")


def _optional_imports(script: Script) -> Iterator[ast.Try]:
    for tried in script.find(ast.Try):
        if script.runs_at_import(tried) and any(_imports(statement) for statement in tried.body):
            for handler in tried.handlers:
                caught = ast.unparse(handler.type) if handler.type else "ImportError"
                if re.search(r"\b(ImportError|ModuleNotFoundError|Exception)\b", caught) and _sets_none(
                    handler
                ):
                    yield tried
                    break


def _sets_none(handler: ast.ExceptHandler) -> bool:
    return any(
        isinstance(s, ast.Assign) and isinstance(s.value, ast.Constant) and s.value.value is None
        for s in handler.body
    )


AT_IMPORT = Rule(
    "import-time-work",
    Category.BUG,
    Severity.HIGH,
    "Work at import time",
    "Importing the file does the work: so does every worker that a process pool starts, each anew.",
    "Work belongs in a function that the entry point calls.",
)


def import_time_work(script: Script) -> Iterator[Hit]:
    """Loops and with-blocks that an import runs; what stands under ``if __name__ == "__main__"`` is not."""
    waiting = list(script.tree.body)
    while waiting:
        statement = waiting.pop(0)
        if isinstance(statement, ast.For | ast.While | ast.With):
            code = textwrap.indent(
                script.snippet(statement.lineno, statement.end_lineno or statement.lineno), "    "
            )
            main = 'if __name__ == "__main__":\n    main()'
            yield hit(AT_IMPORT, script, statement, f"def main() -> None:\n{code}\n\n\n{main}")
        elif isinstance(statement, ast.If) and "__name__" not in ast.unparse(statement.test):
            waiting += [*statement.body, *statement.orelse]
        elif isinstance(statement, ast.Try):
            waiting += [*statement.body, *statement.orelse, *statement.finalbody]


SPLIT = Rule(
    "split-args",
    Category.BUG,
    Severity.MEDIUM,
    "Command line split at every space",
    "A quoted argument or a path with a space falls apart, and the program gets other words than were meant.",
    "shlex.split reads quotes as the shell does.",
    "L3.1",
)
_COMMAND = re.compile(
    r"(^|_)(args|argv|arguments|command|command_line|commandline|cmd|cmdline)$", re.IGNORECASE
)


def split_args(script: Script) -> Iterator[Hit]:
    """``.split()`` of what is handed to a program."""
    for call in script.find(ast.Call):
        match call:
            case ast.Call(func=ast.Attribute(value=value, attr="split"), args=[] | [ast.Constant(value=" ")]):
                constant = value.value if isinstance(value, ast.Constant) else None
                safe = isinstance(constant, str) and not set(constant) & set("'\"\\")
                if not safe and _is_command(script, call, value):
                    fixed = script.replaced(call, f"shlex.split({ast.unparse(value)})")
                    yield hit(SPLIT, script, call, f"import shlex\n\n{fixed}")


def _is_command(script: Script, call: ast.Call, value: ast.expr) -> bool:
    if _COMMAND.search(last_name(value)):
        return True
    inner: ast.AST = call
    for held in script.around(call):
        match held:
            case ast.Call(func=function) if script.imported(function).startswith(
                ("subprocess.", "os.exec", "os.spawn")
            ):
                return True
            case ast.keyword(arg=str(name)) if _COMMAND.search(name):
                return True
            case ast.Dict(keys=keys, values=values) if inner in values:
                key = keys[values.index(inner)] if isinstance(inner, ast.expr) else None
                return isinstance(key, ast.Constant) and bool(_COMMAND.search(str(key.value)))
            case ast.stmt():
                return any(_COMMAND.search(name) for name in targets(held))
        inner = held
    return False


SCRIPT_RULES = (
    salted_hash_seed,
    unseeded_rng,
    vendor_import,
    module_level_optional_import,
    import_time_work,
    split_args,
)
