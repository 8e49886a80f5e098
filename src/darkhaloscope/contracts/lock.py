"""Locking the protocol: what it was when numbers began to be read against it, and what changed since.

A lock is a file beside the protocol, ``evaluation_protocol.lock.json``. It holds every lock there ever was,
the last one in force, each with the whole protocol as it stood, so that a difference can always be shown.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from darkhaloscope.contracts.checks import Check, Finding, exactly
from darkhaloscope.contracts.config import Frozen, fingerprint
from darkhaloscope.contracts.errors import ConfigError, DataError, PreflightFailed, ProtocolChanged
from darkhaloscope.contracts.protocol import Protocol, check_protocol, load_protocol
from darkhaloscope.contracts.store import write_whole

LOCKED = Check(
    name="protocol_locked",
    bound=exactly(1.0),
    why="numbers are read against a protocol fixed beforehand",
)


class Lock(Frozen):
    """One lock.

    fingerprint   of the protocol's meaning: comments, spaces and the order of keys do not count
    date          of the lock, UTC, ISO 8601
    content       the protocol as it stood
    """

    version: str
    fingerprint: str
    date: str
    user: str
    reason: str
    content: dict[str, Any]


class _LockFile(Frozen):
    locks: tuple[Lock, ...]


def lock_path(protocol: Path) -> Path:
    """The lock file of a protocol file."""
    return protocol.with_suffix(".lock.json")


def read_locks(protocol: Path) -> tuple[Lock, ...]:
    """Every lock of a protocol file, oldest first; DataError for a damaged lock file."""
    path = lock_path(protocol)
    if not path.exists():
        return ()
    try:
        return _LockFile.model_validate_json(path.read_bytes()).locks
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(str(path), f"is not a lock: {key} {first['msg'].lower()}", "restore it") from error


def lock_protocol(path: Path, *, user: str, reason: str = "") -> tuple[Lock, bool]:
    """Lock a protocol file. Returns the lock in force, and whether it is new.

    Raises PreflightFailed for a protocol that does not hold its contract; ConfigError for one that changed
    since its lock and has neither another version nor a reason.
    """
    protocol = load_protocol(path)
    check_protocol(protocol).raise_if_failed(PreflightFailed)
    locks = read_locks(path)
    if locks and locks[-1].fingerprint == fingerprint(protocol):
        return locks[-1], False
    if locks:
        _may_supersede(path, protocol, locks, reason)
    made = Lock(
        version=protocol.version,
        fingerprint=fingerprint(protocol),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        user=user,
        reason=reason or "first lock",
        content=plain(protocol),
    )
    text = _LockFile(locks=(*locks, made)).model_dump_json(indent=1) + "\n"
    write_whole(lock_path(path), text.encode())
    return made, True


def _may_supersede(path: Path, protocol: Protocol, locks: Sequence[Lock], reason: str) -> None:
    changed = "; ".join(differences(locks[-1].content, plain(protocol)))
    if protocol.version in {lock.version for lock in locks}:
        problem = f"= '{protocol.version}' is locked already, and the protocol has changed: {changed}"
        raise ConfigError(str(path), "version", problem, "another version, with --reason")
    if not reason:
        raise ConfigError(str(path), "", f"has changed since its lock: {changed}", "--reason says why")


def plain(protocol: Protocol) -> dict[str, Any]:
    """The protocol as plain data, without the date that old files carry."""
    return protocol.model_dump(mode="json", exclude={"locked_date"})


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each value that differs: ``gates.v1.core_lr_auc.bound: 0.65 -> 0.7``."""
    return list(_differences(old, new, ""))


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield f"{path}: {json.dumps(old)} -> {json.dumps(new)}"


def check_lock(protocol: Protocol, path: Path) -> Finding:
    """`protocol_locked`: PASS under the lock, FAIL with the difference, NOT_EVALUATED without a lock."""
    locks = read_locks(path)
    if not locks:
        return LOCKED.not_evaluated(f"{path.name} has no lock: it may still change")
    lock = locks[-1]
    if lock.fingerprint == fingerprint(protocol):
        return LOCKED.measure(1.0, detail=f"version {lock.version}, locked {lock.date} by {lock.user}")
    changed = differences(lock.content, plain(protocol))
    return LOCKED.measure(
        0.0, detail=f"changed since {lock.date}: {'; '.join(changed)}", examples=changed[:3]
    )


def refuse_changed(protocol: Protocol, path: Path) -> None:
    """ProtocolChanged if a protocol differs from its lock; one without a lock may be used."""
    locks = read_locks(path)
    if locks and locks[-1].fingerprint != fingerprint(protocol):
        since = f"it was locked on {locks[-1].date} by {locks[-1].user}"
        raise ProtocolChanged(str(path), since, differences(locks[-1].content, plain(protocol)))
