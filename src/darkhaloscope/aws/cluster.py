"""What ``configs/cluster.yaml`` says, and a cluster planned from it: vCores, executors, hours, price.

Pure: nothing here asks AWS. A plan over the vCore budget cannot be made, an unknown preset or instance is an
error, and the request is built as plain data; `aws.launcher` sends it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from darkhaloscope.contracts.config import Frozen, find_config, load, parse
from darkhaloscope.contracts.errors import BudgetExceeded, ConfigError

_FROM_ENVIRONMENT = {"region": "AWS_REGION", "bucket": "S3_BUCKET"}

HOME = "/opt/darkhaloscope"
"""Where `bootstrap.sh` puts the interpreter's environment, and what spark-submit is handed, on each node."""

DRIVER_MIB = 896
"""Container of the application master beside the executors; the driver itself is on the master node."""
ROUNDED_MIB = 32
"""YARN rounds containers up to this: sizes that are no multiple of it would not all fit."""
_MIB = 1024
_YARN_SHARE, _SYSTEM_MIB = 0.75, 8 * _MIB


class Instance(Frozen):
    """One kind of machine; prices are rough, in USD per hour, EMR's fee beside the machine's own."""

    vcores: int = Field(ge=1)
    memory_gib: float = Field(gt=0.0)
    on_demand_usd: float = Field(gt=0.0)
    spot_usd: float = Field(gt=0.0)
    emr_usd: float = Field(ge=0.0)

    @property
    def yarn_mib(self) -> int:
        """What containers may use: EMR's own share, three quarters or all but 8 GiB."""
        whole = int(self.memory_gib * _MIB)
        return max(int(whole * _YARN_SHARE), whole - _SYSTEM_MIB)


class Preset(Frozen):
    """A cluster by name; `hours` is the longest that it is meant to be held."""

    workers: int = Field(ge=1)
    instance: str
    master: str
    executor_cores: int = Field(ge=1)
    shuffle_partitions: int = Field(ge=1)
    parallelism: int = Field(ge=1)
    hours: float = Field(gt=0.0)


class Prefixes(Frozen):
    """Where things lie in the bucket."""

    code: str
    logs: str
    launches: str


class Rate(Frozen):
    """Rows per second of one core, and where that was measured."""

    rows_per_core_s: float = Field(gt=0.0)
    measured_on: str


class Cluster(Frozen):
    """The place of cloud work and its limits: ``configs/cluster.yaml`` says what each value is."""

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    credential_hours: float = Field(gt=0.0)
    vcore_budget: int = Field(ge=1)
    release: str = Field(pattern=r"^emr-[0-9]+\.[0-9]+\.[0-9]+$")
    python: str = Field(pattern=r"^3\.[0-9]+$")
    glibc: str = Field(pattern=r"^2\.[0-9]+$")
    extras: tuple[str, ...]
    service_role: str
    instance_profile: str
    prefixes: Prefixes
    volume_gb: int = Field(ge=10)
    volume_iops: int = Field(ge=3000)
    spot_bid_percent: float = Field(gt=0.0)
    spot_timeout_minutes: int = Field(ge=5, le=1440)
    idle_minutes: int = Field(ge=1)
    heap_gib_per_core: int = Field(ge=1)
    python_worker_mib: int = Field(ge=1)
    memory_fraction: float = Field(gt=0.0, lt=1.0)
    storage_fraction: float = Field(gt=0.0, lt=1.0)
    speculation: bool
    poll_seconds: float = Field(gt=0.0)
    settle_seconds: float = Field(ge=0.0)
    log_wait_seconds: float = Field(ge=0.0)
    instances: dict[str, Instance]
    presets: dict[str, Preset]
    start_minutes: float = Field(ge=0.0)
    vcpu_share: float = Field(gt=0.0, le=1.0)
    rates: dict[str, Rate]

    def instance(self, name: str) -> Instance:
        """A machine of the table; ConfigError for any other."""
        if name not in self.instances:
            raise ConfigError(
                "cluster", "instance", f"= '{name}' is not in the table", ", ".join(self.instances)
            )
        return self.instances[name]

    def preset(self, name: str) -> Preset:
        """A preset of the table; ConfigError for any other: nothing is chosen instead."""
        if name not in self.presets:
            raise ConfigError("cluster", "preset", f"= '{name}' is not known", ", ".join(self.presets))
        return self.presets[name]

    def rate(self, job: str) -> Rate:
        """Of a job; ConfigError where none was measured."""
        if job not in self.rates:
            raise ConfigError(
                "cluster", "rates", f"has no measured rate of the job '{job}'", ", ".join(self.rates)
            )
        return self.rates[job]

    def address(self, prefix: str, *parts: str) -> str:
        """``s3://`` address below a prefix of the bucket."""
        return "/".join((f"s3://{self.bucket}", prefix, *parts))


def load_cluster(path: str = "cluster.yaml", environment: Mapping[str, str] = os.environ) -> Cluster:
    """The configuration, with AWS_REGION and S3_BUCKET in the place of what the file says."""
    written = load(find_config(path), Cluster)
    given = {key: environment[name] for key, name in _FROM_ENVIRONMENT.items() if environment.get(name)}
    names = ", ".join(_FROM_ENVIRONMENT[key] for key in given)
    return parse(
        {**written.model_dump(mode="json"), **given}, Cluster, f"{path} with {names}" if given else path
    )


@dataclass(frozen=True)
class Executors:
    """How the workers' memory and cores are shared out. Memory in MiB; no core of the budget is left idle."""

    per_node: int
    cores: int
    heap_mib: int
    overhead_mib: int
    total: int


@dataclass(frozen=True)
class ClusterPlan:
    """A cluster that may be started. Make it with `of`, which refuses what may not."""

    cluster: Cluster
    preset: str
    workers: int
    instance: str
    master: str
    on_demand: bool
    hours: float

    @classmethod
    def of(
        cls,
        cluster: Cluster,
        preset: str,
        *,
        workers: int | None = None,
        instance: str | None = None,
        master: str | None = None,
        on_demand: bool = False,
    ) -> "ClusterPlan":
        """A preset, with what is given in the place of its own.

        Raises BudgetExceeded over the vCore budget, ConfigError for unknown names and for nodes that are too
        small for an executor with its Python workers.
        """
        base = cluster.preset(preset)
        n = base.workers if workers is None else workers
        if n < 1:
            raise ConfigError("cluster", "workers", f"= {n}: there must be one at least")
        plan = cls(
            cluster, preset, n, instance or base.instance, master or base.master, on_demand, base.hours
        )
        plan._keep_to_budget()
        plan.executors  # noqa: B018 - raises where the nodes are too small
        return plan

    def _keep_to_budget(self) -> None:
        budget, worker = self.cluster.vcore_budget, self.cluster.instance(self.instance)
        if self.vcores > budget:
            most = (budget - self.cluster.instance(self.master).vcores) // worker.vcores
            raise BudgetExceeded(
                f"{self.workers} × {self.instance} and a master {self.master} have {self.vcores} vCores, "
                f"{self.vcores - budget} more than the budget of {budget}: use {max(most, 0)} workers at most"
            )

    @property
    def vcores(self) -> int:
        """Of all nodes: master + workers × vCores of a worker."""
        return self.cluster.instance(self.master).vcores + self.worker_vcores

    @property
    def worker_vcores(self) -> int:
        """Those that do the work."""
        return self.workers * self.cluster.instance(self.instance).vcores

    @property
    def executors(self) -> Executors:
        """Containers that fill the nodes: as many as cores give, each with an equal share of YARN's memory.

        Raises ConfigError where the share leaves a core's Python worker too little: such a job hangs or is
        killed for memory, and no setting saves it.
        """
        node, base = self.cluster.instance(self.instance), self.cluster.preset(self.preset)
        # The largest number of cores up to the preset's that leaves none over.
        cores = next(c for c in range(min(base.executor_cores, node.vcores), 0, -1) if node.vcores % c == 0)
        per_node = node.vcores // cores
        share = (node.yarn_mib - DRIVER_MIB) // per_node // ROUNDED_MIB * ROUNDED_MIB
        heap = cores * self.cluster.heap_gib_per_core * _MIB
        overhead = share - heap
        if overhead < cores * self.cluster.python_worker_mib:
            raise ConfigError(
                "cluster",
                "instance",
                f"= '{self.instance}' has {share} MiB for an executor of {cores} cores: {heap} MiB of heap "
                f"leave {max(overhead, 0) // cores} MiB a Python worker, which needs "
                f"{self.cluster.python_worker_mib}",
                "an instance with more memory per vCore",
            )
        return Executors(per_node, cores, heap, overhead, per_node * self.workers)

    @property
    def usd_per_hour(self) -> float:
        """Rough price: master and one worker on demand, the rest on spot unless `on_demand`."""
        master, worker = self.cluster.instance(self.master), self.cluster.instance(self.instance)
        bought = self.workers if self.on_demand else 1
        return (
            master.on_demand_usd
            + bought * worker.on_demand_usd
            + (self.workers - bought) * worker.spot_usd
            + master.emr_usd
            + self.workers * worker.emr_usd
        )

    @property
    def usd_per_hour_at_most(self) -> float:
        """If no spot is to be had, and all of it is bought on demand."""
        master, worker = self.cluster.instance(self.master), self.cluster.instance(self.instance)
        return master.on_demand_usd + master.emr_usd + self.workers * (worker.on_demand_usd + worker.emr_usd)

    def predict(self, job: str, rows: int) -> "Prediction":
        """Hours and price of a job over so many rows. ConfigError for a job whose rate was not measured."""
        return Prediction(self, self.cluster.rate(job), job, rows)

    def spark_settings(self) -> dict[str, str]:
        """Of spark-defaults. All executors from the start, fewer when there is nothing for them to do."""
        given, base = self.executors, self.cluster.preset(self.preset)
        python = f"{HOME}/venv/bin/python"
        return {
            "spark.executor.cores": str(given.cores),
            "spark.executor.memory": f"{given.heap_mib}m",
            "spark.executor.memoryOverhead": f"{given.overhead_mib}m",
            "spark.dynamicAllocation.enabled": "true",
            "spark.dynamicAllocation.minExecutors": "1",
            "spark.dynamicAllocation.initialExecutors": str(given.total),
            "spark.dynamicAllocation.maxExecutors": str(given.total),
            "spark.sql.shuffle.partitions": str(base.shuffle_partitions),
            "spark.default.parallelism": str(base.parallelism),
            "spark.memory.fraction": str(self.cluster.memory_fraction),
            "spark.memory.storageFraction": str(self.cluster.storage_fraction),
            "spark.speculation": str(self.cluster.speculation).lower(),
            "spark.pyspark.python": python,
            "spark.pyspark.driver.python": python,
            # Not from the login of whoever submits: region and bucket are the plan's.
            "spark.executorEnv.AWS_REGION": self.cluster.region,
            "spark.executorEnv.S3_BUCKET": self.cluster.bucket,
        }


@dataclass(frozen=True)
class Prediction:
    """Hours and price from a measured rate, and how they come about."""

    plan: ClusterPlan
    rate: Rate
    job: str
    rows: int

    @property
    def hours(self) -> float:
        """Start and work; teardown is EMR's own time."""
        cluster = self.plan.cluster
        per_second = self.rate.rows_per_core_s * cluster.vcpu_share * self.plan.worker_vcores
        return cluster.start_minutes / 60 + self.rows / per_second / 3600

    @property
    def usd(self) -> float:
        """Rough."""
        return self.hours * self.plan.usd_per_hour

    def arithmetic(self) -> str:
        """The sum, spelled out."""
        plan, cluster = self.plan, self.plan.cluster
        return (
            f"{cluster.start_minutes:g} min + {self.rows:,} / ({self.rate.rows_per_core_s:g} rows/s × "
            f"{cluster.vcpu_share:g} × {plan.worker_vcores} vCores) = {self.hours:.2f} h; × "
            f"{plan.usd_per_hour:.2f} USD/h = {self.usd:.2f} USD "
            f"(at most {self.hours * plan.usd_per_hour_at_most:.2f} without spot)"
            + (f"; longer than the {plan.hours:g} h of '{plan.preset}'" if self.hours > plan.hours else "")
        )


@dataclass(frozen=True)
class Step:
    """One command on the master node, as a list: words are never split or quoted again."""

    name: str
    words: tuple[str, ...]


def spark_step(name: str, arguments: Sequence[str]) -> Step:
    """``dhs`` under spark-submit, its driver on the master node: EMR keeps its output as the step's log."""
    return Step(name, ("spark-submit", "--deploy-mode", "client", f"{HOME}/dhs.py", *arguments))


def build_request(
    plan: ClusterPlan,
    *,
    launch_id: str,
    out: str,
    steps: Sequence[Step],
    bootstrap: Sequence[str],
    subnets: Sequence[str],
    keep_alive: bool = False,
) -> dict[str, Any]:
    """The body of RunJobFlow. Plain data; nothing is sent.

    out         where the job writes: no second cluster is started for it
    bootstrap   address of the script, then its arguments
    subnets     EMR chooses the one with capacity
    keep_alive  do not end with the last step, but after `idle_minutes` without one
    """
    cluster = plan.cluster
    request: dict[str, Any] = {
        "Name": cluster_name(launch_id),
        "ReleaseLabel": cluster.release,
        "LogUri": cluster.address(cluster.prefixes.logs) + "/",
        "Applications": [{"Name": "Spark"}],
        "ServiceRole": cluster.service_role,
        "JobFlowRole": cluster.instance_profile,
        "VisibleToAllUsers": True,
        "Configurations": _configurations(plan),
        "BootstrapActions": [
            {
                "Name": "wheel set",
                "ScriptBootstrapAction": {"Path": bootstrap[0], "Args": list(bootstrap[1:])},
            }
        ],
        "Steps": [
            {
                "Name": step.name,
                "ActionOnFailure": "CANCEL_AND_WAIT" if keep_alive else "TERMINATE_CLUSTER",
                "HadoopJarStep": {"Jar": "command-runner.jar", "Args": list(step.words)},
            }
            for step in steps
        ],
        "Instances": {
            "InstanceFleets": [
                _fleet(plan, "MASTER", plan.master, on_demand=1, spot=0),
                _fleet(plan, "CORE", plan.instance, **_bought(plan)),
            ],
            "Ec2SubnetIds": list(subnets),
            "KeepJobFlowAliveWhenNoSteps": keep_alive,
            "TerminationProtected": False,
        },
        "Tags": [
            {"Key": "dhs-launch", "Value": launch_id},
            {"Key": "dhs-out", "Value": out},
            {"Key": "dhs-vcores", "Value": str(plan.vcores)},
            {"Key": "project", "Value": "darkhaloscope"},
            {"Key": "for-use-with-amazon-emr-managed-policies", "Value": "true"},
        ],
    }
    if keep_alive:
        request["AutoTerminationPolicy"] = {"IdleTimeout": cluster.idle_minutes * 60}
    return request


def cluster_name(launch_id: str) -> str:
    """By which a cluster is found again: listings show names, not tags."""
    return f"dhs-{launch_id}"


def _bought(plan: ClusterPlan) -> dict[str, int]:
    on_demand = plan.workers if plan.on_demand else 1
    return {"on_demand": on_demand, "spot": plan.workers - on_demand}


def _fleet(plan: ClusterPlan, kind: str, instance: str, *, on_demand: int, spot: int) -> dict[str, Any]:
    """Capacity is counted in machines: what the plan says is what is there."""
    cluster = plan.cluster
    volume = {"VolumeType": "gp3", "SizeInGB": cluster.volume_gb, "Iops": cluster.volume_iops}
    fleet: dict[str, Any] = {
        "Name": kind.lower(),
        "InstanceFleetType": kind,
        "TargetOnDemandCapacity": on_demand,
        "TargetSpotCapacity": spot,
        "InstanceTypeConfigs": [
            {
                "InstanceType": instance,
                "WeightedCapacity": 1,
                "EbsConfiguration": {
                    "EbsBlockDeviceConfigs": [{"VolumeSpecification": volume, "VolumesPerInstance": 1}]
                },
            }
        ],
    }
    if spot:
        fleet["InstanceTypeConfigs"][0]["BidPriceAsPercentageOfOnDemandPrice"] = cluster.spot_bid_percent
        fleet["LaunchSpecifications"] = {
            "SpotSpecification": {
                "TimeoutDurationMinutes": cluster.spot_timeout_minutes,
                "TimeoutAction": "SWITCH_TO_ON_DEMAND",
                "AllocationStrategy": "capacity-optimized",
            }
        }
    return fleet


def _configurations(plan: ClusterPlan) -> list[dict[str, Any]]:
    node, cluster = plan.cluster.instance(plan.instance), plan.cluster
    environment = {"AWS_REGION": cluster.region, "S3_BUCKET": cluster.bucket}
    return [
        {"Classification": "spark-defaults", "Properties": plan.spark_settings()},
        {
            "Classification": "spark-env",
            "Properties": {},
            "Configurations": [{"Classification": "export", "Properties": environment}],
        },
        # Written out: the executors' size rests on it.
        {
            "Classification": "yarn-site",
            "Properties": {
                "yarn.nodemanager.resource.memory-mb": str(node.yarn_mib),
                "yarn.scheduler.minimum-allocation-mb": str(ROUNDED_MIB),
                "yarn.scheduler.maximum-allocation-mb": str(node.yarn_mib),
                "yarn.nodemanager.resource.cpu-vcores": str(node.vcores),
            },
        },
    ]


def refreshed(cluster: Cluster, described: Sequence[Mapping[str, Any]]) -> tuple[Cluster, tuple[str, ...]]:
    """The table with vCores and memory as EC2 describes them, and a line for each machine that differs.

    described   ``InstanceTypes`` of DescribeInstanceTypes
    """
    table, changes = dict(cluster.instances), []
    for entry in described:
        name = entry["InstanceType"]
        old = table[name]
        new = old.model_copy(
            update={
                "vcores": int(entry["VCpuInfo"]["DefaultVCpus"]),
                "memory_gib": entry["MemoryInfo"]["SizeInMiB"] / _MIB,
            }
        )
        if new != old:
            table[name] = new
            changes.append(
                f"{name}: {new.vcores} vCores, {new.memory_gib:g} GiB "
                f"(the table says {old.vcores}, {old.memory_gib:g})"
            )
    return cluster.model_copy(update={"instances": table}), tuple(changes)
