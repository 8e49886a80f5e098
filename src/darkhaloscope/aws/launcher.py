"""A cluster from the call that starts it to its end: found again after a lost answer, watched by its steps.

Nothing is remembered here. What is under way stands in the bucket (a record of each call, created exclusively
before it is made) and in EMR itself (clusters are named for their launch), so the same command goes on from
wherever it was stopped, on any machine: by a kill, by a network, by credentials that expired.
"""

import gzip
import json
import platform
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from darkhaloscope.aws.clients import THROTTLED, Aws
from darkhaloscope.aws.cluster import Cluster, cluster_name
from darkhaloscope.aws.credentials import CredentialClock
from darkhaloscope.aws.order import Order, address
from darkhaloscope.aws.s3 import S3Files
from darkhaloscope.contracts.errors import CloudRefused, CloudUnreachable, ConfigError, StepFailed
from darkhaloscope.contracts.store import MANIFEST, Dataset

STARTING = ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING")
ACTIVE = (*STARTING, "TERMINATING")
ENDED = ("TERMINATED", "TERMINATED_WITH_ERRORS")
_STEP_BAD = ("FAILED", "INTERRUPTED", "CANCELLED")
_FAILED_THERE = frozenset({
    "500",
    "502",
    "503",
    "504",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServerException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
})  # fmt: skip
"""Refusals after which nobody knows whether the call had its effect."""
_NAMED = "dhs-"

UPLOAD_HOURS = START_HOURS = 0.25
"""Credentials are asked for so much time before uploads, and before a cluster is started [h]."""
CALLS = 4
"""How often RunJobFlow is called at most in one run of the command."""
UNREACHED = 10
"""How many polls in a row may go unanswered."""
TAIL_LINES = 40

Say = Callable[[str], None]


@dataclass(frozen=True)
class Running:
    """A cluster as a listing shows it."""

    cluster_id: str
    name: str
    state: str
    reason: str
    created: datetime | None

    @property
    def launch_id(self) -> str:
        """By which it was named; empty for clusters of others."""
        return self.name.removeprefix(_NAMED) if self.name.startswith(_NAMED) else ""

    def tags(self, aws: Aws) -> dict[str, str]:
        """Its tags, which listings do not show."""
        answer = aws.call("emr", "describe_cluster", ClusterId=self.cluster_id)
        return {tag["Key"]: tag["Value"] for tag in answer["Cluster"].get("Tags", ())}


@dataclass(frozen=True)
class StepState:
    """A step, and what EMR says of it."""

    step_id: str
    name: str
    state: str
    reason: str


def clusters(aws: Aws, states: Sequence[str] = ()) -> Iterator[Running]:
    """Clusters that this project started, newest first, from every page of the listing."""
    wanted = {"ClusterStates": list(states)} if states else {}
    for page in aws.pages("emr", "list_clusters", **wanted):
        for entry in page["Clusters"]:
            found = _running(entry)
            if found.launch_id:
                yield found


def find_cluster(aws: Aws, name: str) -> Running:
    """A cluster by its id (``j-…``) or by its launch, the newest. ConfigError where there is none."""
    if name.startswith("j-"):
        return describe(aws, name)
    found = next((c for c in clusters(aws) if c.launch_id == name.removeprefix(_NAMED)), None)
    if found is None:
        raise ConfigError(
            "emr", "cluster", f"'{name}' is no cluster of {aws.region}", "an id or launch of `dhs emr list`"
        )
    return found


def describe(aws: Aws, cluster_id: str) -> Running:
    """What EMR says of a cluster now."""
    return _running(aws.call("emr", "describe_cluster", ClusterId=cluster_id)["Cluster"])


def steps_of(aws: Aws, cluster_id: str) -> list[StepState]:
    """Steps of a cluster in their order, from every page."""
    found = [
        StepState(s["Id"], s["Name"], s["Status"]["State"], _step_reason(s["Status"]))
        for page in aws.pages("emr", "list_steps", ClusterId=cluster_id)
        for s in page["Steps"]
    ]
    return found[::-1]  # EMR gives the newest first


def launch(order: Order, say: Say) -> Running | None:
    """Upload what is missing and start the cluster, unless it was started; None where the output stands.

    Before each call to RunJobFlow stands a record, created exclusively, and a look for the cluster that an
    earlier call may have started: an answer that was lost never starts a second one.

    Raises CredentialsExpired, CloudError.
    """
    clock = CredentialClock.of(order.aws)
    say(clock.sentence())
    say(f"launch {order.launch_id}: {order.plan.workers} × {order.plan.instance}, {order.plan.vcores} vCores")
    found = _under_way(order)
    if found is not None:
        say(f"cluster {found.cluster_id} is under way ({found.state})")
        return found
    if MANIFEST in order.out.names(""):
        say(f"{address(order.out)} is finished already: nothing to start")
        return None
    clock.require(UPLOAD_HOURS, "the upload")
    put = order.wheels.upload(order.code)
    for name, data in order.uploads().items():
        order.folder.write(name, data)
    say(f"code {order.wheels.identity}: {len(put)} files uploaded to {address(order.code)}")
    clock.require(START_HOURS, "starting a cluster")
    return _start(order, say)


def _start(order: Order, say: Say) -> Running:
    calls, once = _Calls(order), replace(order.aws, retries=0)  # botocore would call twice without a look
    for _ in range(CALLS):
        found, number = calls.wait_for_earlier(say)
        if found is not None:
            say(f"cluster {found.cluster_id} was started by an earlier call ({found.state})")
            return found
        if not calls.claim(number):  # somebody else calls at this moment
            continue
        try:
            answer = once.call("emr", "run_job_flow", **order.request())
        except CloudUnreachable as error:
            say(f"the answer to RunJobFlow is lost ({error}); looking for the cluster before another try")
        except CloudRefused as error:
            if error.code in THROTTLED:
                calls.note(number, "refused", error.code)
                time.sleep(order.cluster.poll_seconds)
            elif error.code in _FAILED_THERE:
                say(f"EMR failed ({error}); looking for the cluster before another try")
            else:
                calls.note(number, "refused", error.code)
                raise
        else:
            calls.note(number, "cluster", answer["JobFlowId"])
            say(f"cluster {answer['JobFlowId']} is starting")
            return describe(order.aws, answer["JobFlowId"])
    found, _ = calls.wait_for_earlier(say)
    if found is not None:
        return found
    raise CloudUnreachable(
        f"emr run_job_flow: {CALLS} calls, and no cluster {cluster_name(order.launch_id)} "
        "(run the same command again: it looks for the cluster first)"
    )


def _under_way(order: Order) -> Running | None:
    return next((c for c in clusters(order.aws, STARTING) if c.launch_id == order.launch_id), None)


@dataclass(frozen=True)
class _Calls:
    """Records of the calls of one order: ``calls/0000.json`` before each, and what came of it beside it."""

    order: Order

    @property
    def _files(self) -> S3Files:
        return replace(self.order.folder, prefix=f"{self.order.folder.prefix}/calls")

    def wait_for_earlier(self, say: Say) -> tuple[Running | None, int]:
        """The cluster of an earlier call, and the number of the next.

        A call without an outcome is given the time to show up in listings. The number is that of the records
        this look saw: whoever calls in the meantime takes it.
        """
        told = False
        while True:
            # Records first: a cluster that listings do not show yet may be named there.
            number, cluster_id, left = self._seen()
            if cluster_id:
                noted = describe(self.order.aws, cluster_id)
                if noted.state in STARTING:
                    return noted, number
            found = _under_way(self.order)
            if found is not None or left <= 0:
                return found, number
            if not told:
                say(f"an earlier call has no outcome yet: looking for its cluster for {left:.0f} s")
                told = True
            time.sleep(min(left, self.order.cluster.poll_seconds))

    def _seen(self) -> tuple[int, str, float]:
        """Number of the next call; of the last, its cluster where that is known, and its time left [s]."""
        names = self._files.names("")
        number = max((int(name[:4]) + 1 for name in names if name.endswith(".json")), default=0)
        last = f"{number - 1:04d}"
        if number == 0 or f"{last}.refused" in names:
            return number, "", 0.0
        if f"{last}.cluster" in names:
            return number, self._files.read(f"{last}.cluster").decode(), 0.0
        called = datetime.fromisoformat(json.loads(self._files.read(f"{last}.json"))["at"])
        left = self.order.cluster.settle_seconds - (datetime.now(UTC) - called).total_seconds()
        return number, "", left

    def claim(self, number: int) -> bool:
        """Take a number; False where somebody else took it."""
        record = {
            "launch_id": self.order.launch_id,
            "at": datetime.now(UTC).isoformat(),
            "by": platform.node(),
            "vcores": self.order.plan.vcores,
            "out": address(self.order.out),
        }
        return self._files.create(f"{number:04d}.json", json.dumps(record, indent=1).encode())

    def note(self, number: int, what: str, value: str) -> None:
        """What came of a call."""
        self._files.write(f"{number:04d}.{what}", value.encode())


def watch(aws: Aws, cluster: Cluster, cluster_id: str, say: Say) -> None:
    """Follow the steps of a cluster until all are COMPLETED: a cluster that runs has done nothing yet.

    Raises StepFailed with the end of the log where one failed, was cancelled, or never came to be;
    CredentialsExpired, after which the cluster goes on by its own role, and so does the same command.
    """
    told: dict[str, str] = {}
    unreached = 0
    while True:
        try:
            # The cluster first: what its steps say afterwards is final if it had ended.
            state = describe(aws, cluster_id)
            steps = steps_of(aws, cluster_id)
        except CloudUnreachable as error:
            unreached += 1
            if unreached == UNREACHED:
                raise
            say(f"no answer ({error}): asking again")
        else:
            unreached = 0
            _tell(told, {f"cluster {cluster_id}": state.state, **{s.name: s.state for s in steps}}, say)
            if _complete(aws, cluster, state, steps):
                return
        time.sleep(cluster.poll_seconds)


def _complete(aws: Aws, cluster: Cluster, state: Running, steps: Sequence[StepState]) -> bool:
    bad = sorted((s for s in steps if s.state in _STEP_BAD), key=lambda s: _STEP_BAD.index(s.state))
    if bad:
        problem = f"step '{bad[0].name}' {bad[0].state.lower()}{_because(bad[0].reason)}"
        raise StepFailed(state.cluster_id, problem, _step_log(aws, cluster, state.cluster_id, bad[0].step_id))
    if steps and all(s.state == "COMPLETED" for s in steps):
        return True
    if state.state in ENDED:
        log = _bootstrap_log(aws, cluster, state.cluster_id)
        done = sum(s.state == "COMPLETED" for s in steps)
        problem = f"{state.state.lower()} with {done} of {len(steps)} steps completed{_because(state.reason)}"
        raise StepFailed(state.cluster_id, problem, log)
    return False


def _tell(told: dict[str, str], states: dict[str, str], say: Say) -> None:
    for name, state in states.items():
        if told.get(name) != state:
            say(f"{datetime.now(UTC):%H:%M:%S}  {name}: {state}")
            told[name] = state


def verify_output(order: Order) -> Dataset:
    """The dataset that the job was to write. StoreError where a completed step left none."""
    return Dataset(order.out, address(order.out))


def terminate(aws: Aws, cluster: Cluster, cluster_id: str, say: Say) -> None:
    """End a cluster and wait until EMR says that it has ended. Raises CredentialsExpired, CloudError."""
    state = describe(aws, cluster_id).state
    if state not in ACTIVE:
        say(f"cluster {cluster_id}: {state}")
        return
    aws.call("emr", "terminate_job_flows", JobFlowIds=[cluster_id])
    told: dict[str, str] = {}
    while True:
        state = describe(aws, cluster_id).state
        _tell(told, {f"cluster {cluster_id}": state}, say)
        if state in ENDED:
            return
        time.sleep(cluster.poll_seconds)


def _step_log(aws: Aws, cluster: Cluster, cluster_id: str, step_id: str) -> str:
    """The end of a step's own output; EMR brings it to the bucket minutes after the step."""
    folder = f"{cluster.prefixes.logs}/{cluster_id}/steps/{step_id}"
    files, until = S3Files(aws, cluster.bucket, folder), time.monotonic() + cluster.log_wait_seconds
    while True:
        there = files.names("")
        if there or time.monotonic() >= until:
            break
        time.sleep(min(cluster.poll_seconds, cluster.log_wait_seconds))
    parts = [_tail(files, name) for name in ("stderr.gz", "stdout.gz", "controller.gz") if name in there]
    return "\n".join(parts) or f"(no log has come to {address(files)})"


def _bootstrap_log(aws: Aws, cluster: Cluster, cluster_id: str) -> str:
    """What the bootstrap of a node said last; empty where no node said anything."""
    nodes = S3Files(aws, cluster.bucket, f"{cluster.prefixes.logs}/{cluster_id}/node")
    for node in nodes.names(""):
        folder = f"{node}/bootstrap-actions/1"
        for name in ("stderr.gz", "stdout.gz"):
            if name in nodes.names(folder):
                return _tail(nodes, f"{folder}/{name}")
    return ""


def _tail(files: S3Files, name: str) -> str:
    data = files.read(name)
    try:
        text = gzip.decompress(data).decode(errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        return f"--- {address(files)}/{name}: cannot be read: {error}"
    lines = text.splitlines()[-TAIL_LINES:]
    return "\n".join((f"--- {address(files)}/{name}, the last {len(lines)} lines", *lines))


def _running(entry: dict[str, Any]) -> Running:
    status = entry["Status"]
    why = status.get("StateChangeReason") or {}
    reason = " ".join(str(why[key]) for key in ("Code", "Message") if why.get(key))
    created = (status.get("Timeline") or {}).get("CreationDateTime")
    return Running(entry["Id"], entry["Name"], status["State"], reason, created)


def _step_reason(status: dict[str, Any]) -> str:
    details, why = status.get("FailureDetails") or {}, status.get("StateChangeReason") or {}
    return str(details.get("Message") or details.get("Reason") or why.get("Message") or "")


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
