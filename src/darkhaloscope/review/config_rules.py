"""Configuration that changes nothing: fields that no file of a tree reads."""

import ast
from collections.abc import Iterator, Sequence

from darkhaloscope.review.issues import Category, Severity
from darkhaloscope.review.script import Hit, Rule, Script, hit, last_name

UNREAD = Rule(
    "unread-config-field",
    Category.INCONSISTENCY,
    Severity.MEDIUM,
    "Configuration field that nothing reads",
    "Whoever sets it believes that it changes the run; it changes nothing.",
    "A field is read where it acts, or it is deleted.",
)
_MODELS = frozenset({"Frozen", "BaseModel"})


def unread_config_field(scripts: Sequence[Script]) -> Iterator[Hit]:
    """Fields of configurations whose name no file of the tree ever reads.

    A frozen value that the tree's own code fills is a record, made to be written down: no configuration.
    """
    read = {name for script in scripts for name in _read(script)}
    given = {pair for script in scripts for pair in _given(script)}
    frozen = _frozen_classes(scripts)
    for script in scripts:
        for made in script.find(ast.ClassDef):
            if _is_config(script, made, frozen):
                for name, node in _fields(made):
                    record = not made.name.endswith("Config") and (made.name, name) in given
                    if name not in read and not record and not script.allows(UNREAD, f"{made.name}.{name}"):
                        fixed = f"value = config.{name}  # where it should act; or delete it from {made.name}"
                        yield hit(UNREAD, script, node, fixed, f"`{made.name}.{name}` is never read.")


def _frozen_classes(scripts: Sequence[Script]) -> frozenset[str]:
    """Names of the classes that are Frozen, at any remove: a base we do not see may read its own fields."""
    parents = {c.name: {last_name(base) for base in c.bases} for s in scripts for c in s.find(ast.ClassDef)}
    found = {"Frozen"}
    while more := {name for name, bases in parents.items() if bases & found} - found:
        found |= more
    return frozenset(found)


def _is_config(script: Script, made: ast.ClassDef, frozen: frozenset[str]) -> bool:
    bases = {last_name(base) for base in made.bases}
    if bases & frozen:
        return True
    decorated = any(script.imported(_called(d)) == "dataclasses.dataclass" for d in made.decorator_list)
    return made.name.endswith("Config") and bool(bases & _MODELS or decorated)


def _called(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def _fields(made: ast.ClassDef) -> Iterator[tuple[str, ast.AnnAssign]]:
    for statement in made.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            if not name.startswith("_") and name != "model_config" and not _is_fixed(statement.annotation):
                yield name, statement


def _is_fixed(annotation: ast.expr) -> bool:
    """A field with one possible value tells kinds apart, or documents; it sets nothing."""
    match annotation:
        case ast.Subscript(value=value, slice=ast.Constant()) if last_name(value) == "Literal":
            return True
        case _:
            return "ClassVar" in ast.unparse(annotation)


def _given(script: Script) -> Iterator[tuple[str, str]]:
    """Class and field of each keyword that a call gives."""
    for call in script.find(ast.Call):
        yield from ((last_name(call.func), word.arg) for word in call.keywords if word.arg)


def _read(script: Script) -> Iterator[str]:
    """Names taken from an object: attributes, textual keys, patterns. Documentation reads nothing."""
    for node in script.nodes:
        match node:
            case ast.Attribute(attr=name, ctx=ast.Load()):
                yield name
            case ast.Constant(value=str(name)) if name.isidentifier():
                yield name
            case ast.MatchClass(kwd_attrs=names):
                yield from names


CONFIG_RULES = (unread_config_field,)
