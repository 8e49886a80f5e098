"""Everything that can go wrong, as one tree. A message says what, where, and what to do.

::

    DarkhaloscopeError
      ConfigError               a key, its file, what was allowed
      LocatedError              where, what is wrong, what to do
        DataError               a file or row that cannot be used
          StampError            a blob that is not a stamp
          SchemaMismatch        declared against found
          SplitLeakage          what crosses between splits
          PairMismatch          stamp and control that do not belong together
          ProtocolChanged       what differs from the protocol that was locked
          StoreError            a dataset that is absent, unfinished, or made by another job
        TrainingFailed          a run that stopped itself (NaN loss, nothing to train on)
      JobFailed                 a row that stopped a job: job, shard, target, cause
      CheckFailed               findings that did not pass
        DataChecksFailed, GateFailed, PreflightFailed, ExitCriteriaNotMet
      CloudError
        CredentialsExpired      STOP: renew, then resume
        BudgetExceeded          asked, allowed, what to shrink
        CloudRefused            what was asked, the cloud's own code for its no, what to do
        CloudUnreachable        no whole answer, after all retries
        StepFailed              a cluster's step that did not complete: which, why, the end of its log

Arguments go to ``super().__init__`` unchanged and the sentence is made in ``__str__``: an exception that
reformats its arguments cannot be unpickled, and a process pool that meets one dies instead of reporting it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

EXIT_FAILED_CHECK = 1
EXIT_USAGE = 2
EXIT_CREDENTIALS = 3


class DarkhaloscopeError(Exception):
    """Root of the tree. `exit_code` is what the command line returns."""

    exit_code = EXIT_FAILED_CHECK


class ConfigError(DarkhaloscopeError):
    """A configuration key that is unknown, missing or out of bounds."""

    exit_code = EXIT_USAGE

    def __init__(self, where: str, key: str, problem: str, allowed: str = "") -> None:
        super().__init__(where, key, problem, allowed)
        self.where, self.key, self.problem, self.allowed = where, key, problem, allowed

    def __str__(self) -> str:
        key = f" key '{self.key}'" if self.key else ""
        tail = f"; allowed: {self.allowed}" if self.allowed else ""
        return f"{self.where}:{key} {self.problem}{tail}".replace("::", ":")


class LocatedError(DarkhaloscopeError):
    """Where, what is wrong, and what to do."""

    def __init__(self, where: str, problem: str, remedy: str = "") -> None:
        super().__init__(where, problem, remedy)
        self.where, self.problem, self.remedy = where, problem, remedy

    def __str__(self) -> str:
        tail = f" ({self.remedy})" if self.remedy else ""
        return f"{self.where}: {self.problem}{tail}"


class DataError(LocatedError):
    """Input that cannot be used."""


class StampError(DataError):
    """A blob that is not a stamp the contract allows."""


class SchemaMismatch(DataError):
    """Columns or types that differ from the declared table."""


class SplitLeakage(DataError):
    """A host, sky cell or image that stands in more than one split."""


class PairMismatch(DataError):
    """A stamp and a control that cannot be the same galaxy."""


class StoreError(DataError):
    """A dataset that is absent, unfinished, or belongs to another job."""


class ProtocolChanged(DataError):
    """A protocol that is no longer the one numbers are read against. `changes` has one line for each key."""

    def __init__(self, where: str, since: str, changes: Sequence[str]) -> None:
        super().__init__(where, since, "")
        self.args = (where, since, tuple(changes))
        self.since, self.changes = since, tuple(changes)

    def __str__(self) -> str:
        return (
            f"{self.where}: the protocol has changed since {self.since}: {'; '.join(self.changes)}"
            " (restore it, or raise its version, lock it again with a reason, and start another folder)"
        )


class TrainingFailed(LocatedError):
    """Training stopped itself."""


class JobFailed(DarkhaloscopeError):
    """One row stopped a job. Shards committed before it are kept."""

    def __init__(self, job: str, shard: str, target: str, cause: str) -> None:
        super().__init__(job, shard, target, cause)
        self.job, self.shard, self.target, self.cause = job, shard, target, cause

    def __str__(self) -> str:
        row = f", {self.target}" if self.target else ""
        return (
            f"job '{self.job}' stopped in shard {self.shard}{row}: {self.cause}"
            " (committed shards are kept: the same command on the same data continues)"
        )


class CheckFailed(DarkhaloscopeError):
    """Checks that did not pass. `lines` holds one sentence for each."""

    title = "check failed"

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__(tuple(lines))
        self.lines = tuple(lines)

    def __str__(self) -> str:
        return f"{self.title}: " + "; ".join(self.lines)


class DataChecksFailed(CheckFailed):
    """Pairs or splits that nothing should be trained on."""

    title = "the data failed their checks, so nothing was trained"


class GateFailed(CheckFailed):
    """A gate that must hold before a run may continue."""

    title = "gate failed"


class PreflightFailed(CheckFailed):
    """A condition that must hold before money is spent."""

    title = "preflight failed"


class ExitCriteriaNotMet(CheckFailed):
    """A run whose results do not meet the protocol."""

    title = "exit criteria not met"


class CloudError(DarkhaloscopeError):
    """The cloud refused; the message says what to do."""


class CredentialsExpired(CloudError):
    """Stop at once, renew, resume."""

    exit_code = EXIT_CREDENTIALS


class BudgetExceeded(CloudError):
    """More was asked for than is allowed."""

    exit_code = EXIT_USAGE


class CloudRefused(CloudError):
    """The cloud answered, and the answer is no. `code` is its own word for why."""

    def __init__(self, asked: str, code: str, problem: str, remedy: str = "") -> None:
        super().__init__(asked, code, problem, remedy)
        self.asked, self.code, self.problem, self.remedy = asked, code, problem, remedy

    def __str__(self) -> str:
        tail = f" ({self.remedy})" if self.remedy else ""
        return f"{self.asked}: {self.problem} [{self.code}]{tail}"


class CloudUnreachable(CloudError):
    """No whole answer came, after all retries."""


class StepFailed(CloudError):
    """A cluster ended, or its step did, without what it was started for. `log` holds the last lines."""

    def __init__(self, cluster: str, problem: str, log: str = "") -> None:
        super().__init__(cluster, problem, log)
        self.cluster, self.problem, self.log = cluster, problem, log

    def __str__(self) -> str:
        tail = f"\n{self.log}" if self.log else ""
        return f"cluster {self.cluster}: {self.problem}{tail}"


@contextmanager
def naming(**keys: Any) -> Iterator[None]:
    """Add a note such as ``target_id=…`` to whatever exception passes through."""
    try:
        yield
    except Exception as error:
        error.add_note(", ".join(f"{key}={value}" for key, value in keys.items()))
        raise
