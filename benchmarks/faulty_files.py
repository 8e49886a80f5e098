"""A filesystem on which faults happen: it refuses, pauses, or kills the process that asks.

It imports little, so that a worker that was killed is soon back.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from darkhaloscope.contracts.errors import CredentialsExpired, StoreError
from darkhaloscope.contracts.store import LocalFiles

Action = Literal["raise", "expire", "kill", "kill-executor", "pause"]


@dataclass(frozen=True)
class Fault:
    """Something that happens, so many times, at an operation on paths that begin in a certain way."""

    operation: Literal["open", "read", "write", "create"]
    path: str
    when: Literal["before", "after"]
    action: Action
    times: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class FaultyFiles:
    """Files of this machine on which faults happen. `marks` is a folder that remembers which have."""

    inner: LocalFiles
    faults: tuple[Fault, ...]
    marks: str

    def read(self, path: str) -> bytes:
        return self._with("read", path, lambda: self.inner.read(path))

    def open(self, path: str) -> Any:
        return self._with("open", path, lambda: self.inner.open(path))

    def write(self, path: str, data: bytes) -> None:
        self._with("write", path, lambda: self.inner.write(path, data))

    def create(self, path: str, data: bytes) -> bool:
        return self._with("create", path, lambda: self.inner.create(path, data))

    def names(self, path: str) -> list[str]:
        return self.inner.names(path)

    def _with(self, operation: str, path: str, effect: Any) -> Any:
        self._happen(operation, path, "before")
        result = effect()
        self._happen(operation, path, "after")
        return result

    def _happen(self, operation: str, path: str, when: str) -> None:
        for k, fault in enumerate(self.faults):
            here = (fault.operation, fault.when) == (operation, when) and path.startswith(fault.path)
            if here and self._first(k, fault.times):
                _happen(fault, path)

    def _first(self, fault: int, times: int) -> bool:
        """Whether the fault has not happened so many times yet; a mark is made exclusively."""
        Path(self.marks).mkdir(parents=True, exist_ok=True)
        for time_ in range(times):
            try:
                os.close(os.open(f"{self.marks}/{fault}-{time_}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False


def _happen(fault: Fault, path: str) -> None:
    if fault.action == "raise":
        raise StoreError(path, "the store did not answer", "a fault of this benchmark")
    if fault.action == "expire":
        message = "credentials have expired: renew them and run the same command again"
        raise CredentialsExpired(message)
    if fault.action == "pause":
        time.sleep(fault.seconds)
    elif fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "kill-executor":  # worker <- daemon <- the executor's JVM
        daemon = Path(f"/proc/{os.getppid()}/status").read_text(encoding="utf-8")
        os.kill(int(daemon.split("PPid:")[1].split()[0]), signal.SIGKILL)
        time.sleep(10)
