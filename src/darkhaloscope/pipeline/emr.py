"""What `dhs emr` does: a JOB.json on a cluster, from its plan to its teardown."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table as Grid

from darkhaloscope.aws.clients import Aws
from darkhaloscope.aws.cluster import HOME, Cluster, ClusterPlan, load_cluster, refreshed
from darkhaloscope.aws.credentials import CredentialClock
from darkhaloscope.aws.launcher import (
    ACTIVE,
    clusters,
    describe,
    find_cluster,
    launch,
    steps_of,
    terminate,
    verify_output,
    watch,
)
from darkhaloscope.aws.order import Order
from darkhaloscope.aws.preflight import preflight
from darkhaloscope.aws.s3 import S3Files
from darkhaloscope.aws.wheels import WheelSet
from darkhaloscope.contracts.checks import Findings
from darkhaloscope.contracts.errors import ConfigError, CredentialsExpired, PreflightFailed, StepFailed
from darkhaloscope.contracts.tables import PAIR_AUDIT, SPLITS, Table
from darkhaloscope.pipeline.addresses import ALLOWED, dataset_at, s3_place
from darkhaloscope.pipeline.bring_in import say_what_was_made

if TYPE_CHECKING:  # all jobs are all libraries: imported where a job file is read
    from darkhaloscope.pipeline.jobs import JobFile

NODE_FILES = f"{HOME}/files"


@dataclass(frozen=True)
class Machines:
    """What the command line says of the cluster; None where the preset decides."""

    preset: str
    workers: int | None = None
    instance: str | None = None
    master: str | None = None
    on_demand: bool = False

    def plan(self, cluster: Cluster) -> ClusterPlan:
        """Raises BudgetExceeded, ConfigError."""
        return ClusterPlan.of(
            cluster,
            self.preset,
            workers=self.workers,
            instance=self.instance,
            master=self.master,
            on_demand=self.on_demand,
        )


def say_plans(
    job_file: str | None,
    machines: Machines | None,
    *,
    job: str,
    targets: int,
    refresh: bool = False,
) -> None:
    """Print vCores, executors, hours and price: of one plan, or of every preset.

    job, targets   what is predicted, where no job file says it
    refresh        ask EC2 for vCores and memory instead of trusting the table
    """
    cluster, console = load_cluster(), Console()
    if refresh:
        names = sorted(cluster.instances)
        pages = Aws.configured().pages("ec2", "describe_instance_types", InstanceTypes=names)
        cluster, changes = refreshed(cluster, [entry for page in pages for entry in page["InstanceTypes"]])
        _say(console, "\n".join(changes) or f"{len(names)} instances are as the table says")
    if job_file is None:
        cluster.rate(job)  # a name that is asked for must be one
    else:
        from darkhaloscope.pipeline.jobs import read_job

        file = read_job(job_file)
        job, targets = file.job.job, dataset_at(file.source).num_rows
    chosen = [machines] if machines else [Machines(name) for name in cluster.presets]
    grid = Grid(
        "preset",
        "workers",
        "vCores",
        "executors",
        "of cores, MiB heap + MiB Python",
        "USD/h",
        title=cluster.release,
    )
    plans = [given.plan(cluster) for given in chosen]
    for plan in plans:
        has = plan.executors
        grid.add_row(
            plan.preset,
            f"{plan.workers} × {plan.instance}",
            f"{plan.vcores} of {cluster.vcore_budget}",
            str(has.total),
            f"{has.cores}, {has.heap_mib} + {has.overhead_mib}",
            f"{plan.usd_per_hour:.2f}",
        )
    console.print(grid)
    if job not in cluster.rates:
        _say(
            console, f"hours and price: no rate of '{job}' has been measured (rates of configs/cluster.yaml)"
        )
        return
    for plan in plans:
        _say(console, f"{plan.preset}, {job}: {plan.predict(job, targets).arithmetic()}")
    _say(console, f"rate of {job}: {cluster.rates[job].measured_on}")


def make_order(
    job_file: str, machines: Machines, wheels: Path, *, subnets: Sequence[str], keep_alive: bool = False
) -> Order:
    """All that is asked for, checked as far as it can be without asking AWS."""
    from darkhaloscope.pipeline.jobs import read_job

    cluster, aws, file = load_cluster(), Aws.configured(), read_job(job_file)
    plan = machines.plan(cluster)
    local, content = _local_files(file)
    return Order(
        aws=aws,
        plan=plan,
        wheels=WheelSet.read(wheels),
        content=content,
        job=file.job,
        sources=tuple((_on_s3(aws, place), table) for place, table in _read(file)),
        out=_on_s3(aws, file.out),
        files=local,
        subnets=tuple(subnets),
        keep_alive=keep_alive,
    )


def check_order(order: Order, *, fix: bool = False) -> Findings:
    """Print every finding of the preflight; PreflightFailed where one failed."""
    console = Console()
    findings = preflight(order, fix=fix)
    for finding in findings:
        _say(console, f"{finding.status:<14} {finding}")
    findings.raise_if_failed(PreflightFailed)
    return findings


def launch_order(order: Order, *, follow: bool = True) -> None:
    """Preflight, launch, watch, verify, tear down; whatever of it is done already is passed over."""
    console = Console(stderr=True)

    def say(text: str) -> None:
        _say(console, text)

    check_order(order, fix=True)
    running = launch(order, say)
    if running is None:
        say_what_was_made(verify_output(order))
        return
    say(f"s3://{order.cluster.bucket}/{order.cluster.prefixes.logs}/{running.cluster_id}/ will hold its logs")
    if not follow:
        say(f"dhs emr watch {running.cluster_id}")
        return
    _warn_of_time(order, say)
    try:
        watch(order.aws, order.cluster, running.cluster_id, say)
    except CredentialsExpired:
        say(f"cluster {running.cluster_id} goes on by its own role; the same command takes it up again")
        raise
    except StepFailed:
        if not order.keep_alive:
            terminate(order.aws, order.cluster, running.cluster_id, say)
        raise
    say_what_was_made(verify_output(order))
    if not order.keep_alive:
        terminate(order.aws, order.cluster, running.cluster_id, say)


def watch_cluster(name: str) -> None:
    """Follow the steps of a cluster to their end. StepFailed where one did not complete."""
    cluster, aws, console = load_cluster(), Aws.configured(), Console(stderr=True)
    _say(console, CredentialClock.of(aws).sentence())
    watch(aws, cluster, find_cluster(aws, name).cluster_id, lambda text: _say(console, text))


def terminate_clusters(names: Sequence[str]) -> None:
    """End clusters, and wait until they have ended."""
    cluster, aws, console = load_cluster(), Aws.configured(), Console(stderr=True)
    for name in names:
        terminate(aws, cluster, find_cluster(aws, name).cluster_id, lambda text: _say(console, text))


def list_clusters(*, ended: bool = False) -> None:
    """Clusters of this project; those that have ended too, if asked."""
    aws, console = Aws.configured(), Console()
    for found in clusters(aws, () if ended else ACTIVE):
        created = f"{found.created:%Y-%m-%d %H:%M}" if found.created else ""
        _say(
            console,
            f"{found.cluster_id}  {found.launch_id}  {created}  {found.state}  {found.reason}".rstrip(),
        )


def say_status(name: str) -> None:
    """A cluster and its steps, now."""
    aws, console = Aws.configured(), Console()
    found = describe(aws, find_cluster(aws, name).cluster_id)
    _say(console, f"{found.cluster_id}  {found.name}  {found.state}  {found.reason}".rstrip())
    for step in steps_of(aws, found.cluster_id):
        _say(console, f"  {step.step_id}  {step.name}  {step.state}  {step.reason}".rstrip())


def _warn_of_time(order: Order, say: Any) -> None:
    left = CredentialClock.of(order.aws).left()
    if left < order.plan.hours:
        say(
            f"the credentials may end before the plan's {order.plan.hours:g} h: then this stops with exit "
            "code 3, the cluster goes on, and the same command takes it up again"
        )


def _read(file: "JobFile") -> list[tuple[str, Table]]:
    """Addresses that the job reads and the table each must hold."""
    from darkhaloscope.pipeline.jobs import VerifySplits

    if isinstance(file.job, VerifySplits):
        splits = [(place, SPLITS) for place in (file.source, *file.job.more)]
        return splits + [(place, PAIR_AUDIT) for place in file.job.audits]
    return [(file.source, file.job.reads)]


def _on_s3(aws: Aws, address: str) -> S3Files:
    place = s3_place(address)
    if place is None:
        raise ConfigError(
            address, "", "is a folder of this machine, which no cluster sees", ALLOWED.rpartition(" ")[2]
        )
    return S3Files(aws, *place)


def _local_files(file: "JobFile") -> tuple[dict[str, Path], dict[str, Any]]:
    """Files of this machine that the job names, and the job file with the places they have on nodes.

    Fields that only say where things lie are exactly the unfingerprinted ones: the job stays the same job.
    """
    content, found = file.model_dump(mode="json"), dict[str, Path]()
    _find_files(file.job, content["job"], found)
    return found, content


def _find_files(model: BaseModel, content: dict[str, Any], found: dict[str, Path]) -> None:
    for key in sorted(getattr(model, "unfingerprinted", ())):
        value = content.get(key)
        if isinstance(value, str) and value and s3_place(value) is None:
            path = Path(value.removeprefix("file://"))
            if not path.is_file():
                problem = f"= '{value}' is not a file here, and nodes see no folder of this machine"
                raise ConfigError("job", key, problem, "a file, or s3://bucket/prefix")
            name = f"{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}{path.suffix}"
            found[name], content[key] = path, f"{NODE_FILES}/{name}"
    for key in type(model).model_fields:
        inner = getattr(model, key)
        if isinstance(inner, BaseModel) and isinstance(content.get(key), dict):
            _find_files(inner, content[key], found)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
