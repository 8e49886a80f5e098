"""What `dhs protocol` does: lock, status, diff."""

import getpass
from collections.abc import Iterator
from pathlib import Path

from darkhaloscope.contracts.config import find_config, fingerprint
from darkhaloscope.contracts.lock import differences, lock_protocol, plain, read_locks
from darkhaloscope.contracts.protocol import load_protocol


def lock(path: str, *, reason: str, user: str | None) -> str:
    """Lock a protocol file; one sentence on what came of it."""
    found = find_config(path)
    made, new = lock_protocol(found, user=user or getpass.getuser(), reason=reason)
    verb = "locked" if new else "was already locked"
    return f"{found}: version {made.version} {verb} on {made.date} by {made.user} ({made.fingerprint})"


def status(path: str) -> tuple[bool, list[str]]:
    """Whether a protocol is locked and unchanged, and what there is to say of it."""
    found = find_config(path)
    protocol, locks = load_protocol(found), read_locks(found)
    unchanged = bool(locks) and locks[-1].fingerprint == fingerprint(protocol)
    state = "locked" if unchanged else ("changed since its lock" if locks else "not locked")
    gates = protocol.gates
    lines = [
        f"{found}: version {protocol.version}, {state}",
        f"gates: {len(gates.v1)} of the brief (v1, reported), {len(gates.v2)} that decide (v2)",
        f"fingerprint {fingerprint(protocol)}",
    ]
    lines += [f"{k.date}  version {k.version}  {k.fingerprint}  {k.user}: {k.reason}" for k in locks]
    return unchanged, lines + list(_since(path))


def _since(path: str) -> Iterator[str]:
    found = find_config(path)
    locks = read_locks(found)
    if locks:
        yield from differences(locks[-1].content, plain(load_protocol(found)))


def diff(path: str, other: str | None) -> list[str]:
    """What differs between a protocol and its lock, or from another protocol file."""
    if other is None:
        return list(_since(path))
    return differences(plain(load_protocol(find_config(path))), plain(load_protocol(find_config(other))))


def is_locked(path: str) -> bool:
    """Whether there is a lock to compare with."""
    return bool(read_locks(Path(find_config(path))))
