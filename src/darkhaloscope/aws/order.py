"""What a cluster is started for: a plan, the code, a job, and where it reads and writes. Sends nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from darkhaloscope.aws.clients import Aws
from darkhaloscope.aws.cluster import Cluster, ClusterPlan, build_request, spark_step
from darkhaloscope.aws.s3 import S3Files
from darkhaloscope.aws.wheels import BOOTSTRAP, WheelSet
from darkhaloscope.contracts.config import Frozen, fingerprint
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.tables import Table

JOB_FILE, FILES = "job.json", "files"


@dataclass(frozen=True)
class Order:
    """One job on one cluster. The same order has the same launch id, wherever and whenever it is made.

    aws        how the cloud is asked
    content    of the JOB.json, as plain data
    job        what it says, as a value; a job over shards, or one that reads all rows together
    sources    datasets that are read, each with the table that it must hold
    out        where the dataset is written
    files      local files that the job names, by the address they have on each node
    subnets    EMR chooses the one with capacity
    """

    aws: Aws
    plan: ClusterPlan
    wheels: WheelSet
    content: Mapping[str, Any]
    job: Job | Frozen
    sources: tuple[tuple[S3Files, Table], ...]
    out: S3Files
    files: Mapping[str, Path] = field(default_factory=dict)
    subnets: tuple[str, ...] = ()
    keep_alive: bool = False

    @property
    def cluster(self) -> Cluster:
        """The limits it is planned in."""
        return self.plan.cluster

    @cached_property
    def launch_id(self) -> str:
        """Fingerprint of all that is asked for."""
        plan = self.plan
        machines = [plan.workers, plan.instance, plan.master, plan.on_demand, list(self.subnets)]
        return fingerprint([self.content, self.wheels.identity, machines, self.keep_alive, self._place])

    @property
    def _place(self) -> list[str]:
        return [self.cluster.region, self.cluster.bucket, self.cluster.release]

    @property
    def code(self) -> S3Files:
        """Where the wheel set lies."""
        return self._files(self.cluster.prefixes.code, self.wheels.identity)

    @property
    def launches(self) -> S3Files:
        """Where the records of launches lie; those of this order are below its launch id."""
        return self._files(self.cluster.prefixes.launches)

    @property
    def folder(self) -> S3Files:
        """What belongs to this order alone: its job file and the files that it names."""
        return self._files(self.cluster.prefixes.launches, self.launch_id)

    def _files(self, *parts: str) -> S3Files:
        return S3Files(self.aws, self.cluster.bucket, "/".join(parts))

    def uploads(self) -> dict[str, bytes]:
        """Of `folder`: name and content."""
        text = json.dumps(self.content, indent=1, sort_keys=True) + "\n"
        return {JOB_FILE: text.encode()} | {
            f"{FILES}/{name}": path.read_bytes() for name, path in self.files.items()
        }

    def request(self) -> dict[str, Any]:
        """The body of RunJobFlow."""
        cluster, name = self.cluster, str(self.content["job"]["job"])
        code = cluster.address(cluster.prefixes.code, self.wheels.identity)
        folder = cluster.address(cluster.prefixes.launches, self.launch_id)
        bootstrap = [f"{code}/{BOOTSTRAP}", code, self.wheels.sums_sha256, cluster.python]
        if self.files:
            bootstrap.append(f"{folder}/{FILES}")
        step = spark_step(f"dhs job {name}", ("job", f"{folder}/{JOB_FILE}", "--on", "spark"))
        return build_request(
            self.plan,
            launch_id=self.launch_id,
            out=address(self.out),
            steps=(step,),
            bootstrap=bootstrap,
            subnets=self.subnets,
            keep_alive=self.keep_alive,
        )


def address(files: S3Files) -> str:
    """As it is written in a JOB.json."""
    return f"s3://{files.bucket}/{files.prefix}"
