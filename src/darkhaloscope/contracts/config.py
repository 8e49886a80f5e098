"""Strict, frozen configuration with a fingerprint; the object is what you run.

Unknown keys fail with their path. YAML is read strictly: PyYAML takes ``1e-3`` for a string, so such a value
is refused with the key that holds it rather than becoming text.
"""

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from darkhaloscope.contracts.errors import ConfigError

Tag = Literal["M", "S", "C", "A", "K"]
"""Where a number comes from: Measured on real pixels, Stated in a publication, Computed, Assumed, Known
(general knowledge of the field, not re-checked)."""


class Frozen(BaseModel):
    """A value: immutable, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    unfingerprinted: ClassVar[frozenset[str]] = frozenset()
    """Fields that say where things lie rather than what they are."""


Model = TypeVar("Model", bound=BaseModel)


def tagged(default: Any, tag: Tag, basis: str, unit: str = "", **bounds: Any) -> Any:
    """A field whose default carries its provenance: tag, basis in words, unit."""
    return Field(
        default=default,
        description=basis,
        json_schema_extra={"tag": tag, "basis": basis, "unit": unit},
        **bounds,
    )


def find_config(name: str | Path) -> Path:
    """The file a name means: a path as given, else one of the configurations that come with the package."""
    path = Path(name)
    if path.exists():
        return path
    shipped = Path(str(resources.files("darkhaloscope").joinpath("configs")))
    for folder in (shipped, shipped / "experiments", shipped / "jobs"):
        candidate = folder / path.name
        if candidate.exists():
            return candidate
    have = ", ".join(sorted(p.name for p in (shipped / "experiments").glob("*.yaml")))
    raise ConfigError(str(name), "", "no such configuration file", f"a path, or one of {have}")


def load(path: str | Path, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read a YAML file into a frozen model, with ``key.subkey=value`` overrides applied first."""
    where = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(where, "", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(where, "", "is not UTF-8 text") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(where, "", f"is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise ConfigError(where, "", "must hold a mapping of keys to values")
    for override in overrides:
        _apply(data, override)
    return parse(data, model, where)


def parse(data: dict[str, Any], model: type[Model], where: str) -> Model:
    """Validate plain data as `model`; the first problem becomes one sentence with its key."""
    try:
        # JSON mode stays strict about numbers and text, and still reads lists as tuples and text as enums.
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise _explain(error, where) from error
    except TypeError as error:
        raise ConfigError(where, "", f"holds a value that is not plain data: {error}") from error


def _explain(error: ValidationError, where: str) -> ConfigError:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    problem, found = first["msg"].lower(), first.get("input")
    if first["type"] == "extra_forbidden":
        problem = "is not a known key"
    elif first["type"] == "missing":
        problem = "is missing"
    else:
        problem = f"= {found!r}: {problem}"
        if isinstance(found, str) and _looks_like_number(found):
            problem += " (YAML reads this as text: write 1.0e-3, with a point and a signed exponent)"
    more = len(error.errors()) - 1
    return ConfigError(where, key, problem + (f" (and {more} more)" if more else ""))


def _looks_like_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _apply(data: dict[str, Any], override: str) -> None:
    key, mark, value = override.partition("=")
    if not mark or not key:
        raise ConfigError("--set", override, "must read key=value, for example survey.bricks=20")
    *parents, last = key.split(".")
    node: Any = data
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError("--set", key, f"'{parent}' is a value, not a section")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError("--set", key, f"value {value!r} is not YAML") from error


def canonical(value: Any) -> Any:
    """Plain data for hashing: models become mappings without the fields that only say where things lie."""
    if isinstance(value, BaseModel):
        skip: frozenset[str] = getattr(type(value), "unfingerprinted", frozenset())
        return {
            name: canonical(getattr(value, name)) for name in type(value).model_fields if name not in skip
        }
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(canonical(item) for item in value)
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


def fingerprint(value: Any) -> str:
    """Sixteen hex digits that change when, and only when, the meaning of `value` does."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
