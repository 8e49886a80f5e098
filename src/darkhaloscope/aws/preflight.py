"""What must hold before money is spent, as findings: each is asked for, none is taken for granted.

A check that AWS does not answer (a quota nobody may see) is NOT_EVALUATED and says so; it never counts as a
pass. Credentials that have expired are no finding: they end everything at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

from darkhaloscope.aws.credentials import CredentialClock
from darkhaloscope.aws.launcher import ACTIVE, clusters
from darkhaloscope.aws.order import Order, address
from darkhaloscope.aws.s3 import S3Files
from darkhaloscope.contracts.checks import Check, Finding, Findings, above, exactly, inside
from darkhaloscope.contracts.errors import (
    CloudError,
    CloudRefused,
    CredentialsExpired,
    DarkhaloscopeError,
)
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.store import JOB, SHARDS, Dataset, Writer
from darkhaloscope.contracts.tables import Table

DRY_ROWS = 3
_QUOTAS = {"on demand": "L-1216C47A", "spot": "L-34B43A08"}
"""EC2's quotas of vCPUs of standard instances."""
_PROBE = ".preflight"

IDENTITY = Check(name="credentials_valid", bound=exactly(1), why="nothing can be asked for without")
HOURS = Check(name="credentials_hours", bound=above(0), why="hours left beyond what the plan is held for")
REGIONS = Check(
    name="region_equal", bound=exactly(0), why="traffic between regions costs, and subnets are not found"
)
BUCKET = Check(name="bucket_exists", bound=exactly(1), why="code, logs and results lie in it")
READABLE = Check(name="bucket_readable", bound=exactly(1), why="the store lists and reads")
WRITABLE = Check(name="bucket_writable", bound=exactly(1), why="code, records and results are written")
COMMITTED = Check(
    name="inputs_committed", bound=exactly(0), why="unfinished inputs, or shards that are not there"
)
SCHEMA = Check(name="input_schema", bound=exactly(0), why="inputs of another table or with other columns")
OUT = Check(name="output_free", bound=exactly(0), why="a folder belongs to one job")
CURRENT = Check(
    name="code_current", bound=exactly(0), why="files of the wheel that differ from the code here"
)
PARSES = Check(name="code_parses", bound=exactly(0), why="files that the cluster's Python could not read")
FITS = Check(
    name="wheels_fit", bound=exactly(0), why="wheels for other machines, requirements that are absent"
)
UPLOADED = Check(name="code_uploaded", bound=exactly(0), why="files that the bucket lacks or holds otherwise")
ALONE = Check(name="output_alone", bound=exactly(0), why="clusters that already write to the same place")
BUDGET = "vcores_with_running"
QUOTA = "vcpu_quota"
SUBNETS = Check(name="subnet_in_region", bound=above(0), why="fleets need a list of subnets of this region")
ROLES = Check(name="roles_exist", bound=exactly(2), why="the cluster acts by them")
DRY_RUN = Check(name="dry_run", bound=exactly(0), why="rows of the input that the job fails on, here")


def preflight(order: Order, *, fix: bool = False) -> Findings:
    """Every check of an order. With `fix`, what is safe to mend is mended: the wheel set is uploaded.

    Raises CredentialsExpired.
    """
    found = [*_credentials(order), *_places(order), *_code(order, fix=fix), *_machines(order)]
    for source in _opened(order):
        found += source
    return Findings([*found, *_output(order), _dry_run(order)])


def _credentials(order: Order) -> list[Finding]:
    who = order.aws.call("sts", "get_caller_identity")
    clock = CredentialClock.of(order.aws)
    # A plan longer than any credentials is watched in turns.
    needed = min(order.plan.hours, order.cluster.credential_hours * 0.9)
    left = clock.left()
    check = HOURS.model_copy(update={"bound": above(needed)})
    hours = check.measure(min(left, 1e6), detail=clock.sentence())  # without an end: a bound needs a number
    return [IDENTITY.measure(1, detail=str(who.get("Arn", ""))), hours]


def _places(order: Order) -> list[Finding]:
    """Bucket and region: of the plan, of the clients, and of every bucket that is read or written."""
    region, aws = order.cluster.region, order.aws
    places = {"requests": aws.region}
    exists, why = 1, ""
    for bucket in sorted({order.cluster.bucket, order.out.bucket, *(s.bucket for s, _ in order.sources)}):
        try:
            answer = aws.call("s3", "get_bucket_location", Bucket=bucket)
        except CredentialsExpired:
            raise
        except CloudError as error:
            if getattr(error, "code", "") == "NoSuchBucket":
                exists, why = 0, str(error)
            elif "is in " in str(error):
                places[f"bucket {bucket}"] = str(error)
            else:
                exists, why = 0, str(error)
            continue
        # S3 does not name the oldest region.
        places[f"bucket {bucket}"] = answer.get("LocationConstraint") or "us-east-1"
    other = [f"{name}: {place}" for name, place in places.items() if place != region]
    found = [
        REGIONS.measure(len(other), n=len(places), detail=f"the plan's is {region}", examples=other),
        BUCKET.measure(exists, detail=why),
    ]
    ours = order.launches
    found.append(_tried(READABLE, lambda: ours.names("")))
    found.append(_tried(WRITABLE, lambda: ours.write(_PROBE, b"")))
    return found


def _tried(check: Check, act: Callable[[], Any]) -> Finding:
    try:
        act()
    except CredentialsExpired:
        raise
    except (CloudError, OSError) as error:
        return check.measure(0, detail=str(error))
    return check.measure(1)


def _code(order: Order, *, fix: bool) -> list[Finding]:
    wheels, cluster = order.wheels, order.cluster
    anew = f"make it anew: scripts/wheels {wheels.folder}"
    current = _listed(CURRENT, wheels.stale(), anew)
    parses = _listed(PARSES, wheels.broken(cluster.python), anew)
    fits = _listed(FITS, wheels.misfits(cluster.python, cluster.glibc, cluster.extras), anew)
    found = [current, parses, fits]
    try:
        if fix and all(finding.passed for finding in found):
            wheels.upload(order.code)
        found.append(_listed(UPLOADED, wheels.missing(order.code), "dhs emr preflight --fix uploads them"))
    except CredentialsExpired:
        raise
    except CloudError as error:
        found.append(UPLOADED.measure(len(wheels.files), detail=str(error)))
    return found


def _listed(check: Check, problems: Sequence[str], remedy: str) -> Finding:
    return check.measure(len(problems), detail=remedy if problems else "", examples=problems[:3])


def _machines(order: Order) -> list[Finding]:
    return [*_rivals(order), *_quotas(order), _subnets(order), _roles(order)]


def _rivals(order: Order) -> list[Finding]:
    """Other clusters of this project: their vCores count, and none may write to the same place.

    The cluster of this very order is no rival, unless it is ending and another is about to be started.
    """
    limit = inside(0, order.cluster.vcore_budget)
    budget = Check(name=BUDGET, bound=limit, why="vCores of all clusters at once")
    try:
        rivals = {
            c.name: c.tags(order.aws)
            for c in clusters(order.aws, ACTIVE)
            if c.launch_id != order.launch_id or c.state == "TERMINATING"
        }
    except CredentialsExpired:
        raise
    except CloudError as error:
        return [budget.not_evaluated(str(error)), ALONE.not_evaluated(str(error))]
    vcores = {name: int(tags.get("dhs-vcores", 0)) for name, tags in rivals.items()}
    same = [name for name, tags in rivals.items() if tags.get("dhs-out") == address(order.out)]
    total = order.plan.vcores + sum(vcores.values())
    running = [f"{name}: {n}" for name, n in vcores.items()]
    return [
        budget.measure(total, n=len(rivals), examples=running),
        ALONE.measure(len(same), n=len(rivals), examples=same),
    ]


def _quotas(order: Order) -> list[Finding]:
    plan = order.plan
    worker = order.cluster.instance(plan.instance).vcores
    spot = 0 if plan.on_demand else (plan.workers - 1) * worker
    # What spot does not give is bought on demand: both quotas must hold.
    needed = {"on demand": plan.vcores, "spot": spot}
    found = []
    for kind, code in _QUOTAS.items():
        check = Check(
            name=f"{QUOTA}_{kind.replace(' ', '_')}",
            bound=above(needed[kind] - 0.5),
            why="EC2 refuses more vCPUs",
        )
        try:
            answer = order.aws.call("service-quotas", "get_service_quota", ServiceCode="ec2", QuotaCode=code)
        except CredentialsExpired:
            raise
        except CloudError as error:
            found.append(check.not_evaluated(str(error)))
        else:
            found.append(check.measure(float(answer["Quota"]["Value"]), detail=f"{code}, {kind}"))
    return found


def _subnets(order: Order) -> Finding:
    try:
        if not order.subnets:
            pages = order.aws.pages(
                "ec2", "describe_subnets", Filters=[{"Name": "default-for-az", "Values": ["true"]}]
            )
            have = [str(s["SubnetId"]) for page in pages for s in page["Subnets"]]
            return SUBNETS.measure(
                0, detail="none is named: --subnet, such as one of the default ones", examples=have
            )
        pages = order.aws.pages("ec2", "describe_subnets", SubnetIds=list(order.subnets))
        usable = [s for page in pages for s in page["Subnets"] if s.get("State") == "available"]
    except CredentialsExpired:
        raise
    except CloudRefused as error:
        return SUBNETS.measure(0, n=len(order.subnets), detail=str(error))
    except CloudError as error:
        return SUBNETS.not_evaluated(str(error))
    return SUBNETS.measure(len(usable), n=len(order.subnets))


def _roles(order: Order) -> Finding:
    wanted = {
        "get_role": {"RoleName": order.cluster.service_role},
        "get_instance_profile": {"InstanceProfileName": order.cluster.instance_profile},
    }
    absent = []
    for operation, name in wanted.items():
        try:
            order.aws.call("iam", operation, **name)
        except CredentialsExpired:
            raise
        except CloudRefused as error:
            if error.code != "NoSuchEntity":
                return ROLES.not_evaluated(str(error))
            absent.append(next(iter(name.values())))
        except CloudError as error:
            return ROLES.not_evaluated(str(error))
    remedy = "aws emr create-default-roles makes them" if absent else ""
    return ROLES.measure(len(wanted) - len(absent), detail=remedy, examples=absent)


def _opened(order: Order) -> list[list[Finding]]:
    return [[_committed(files), _schema(order, files, table)] for files, table in order.sources]


def _committed(files: S3Files) -> Finding:
    """The manifest is there, and every shard that it names."""
    where = address(files)
    try:
        dataset = Dataset(files, where)
        present = set(files.names(SHARDS))
    except CredentialsExpired:
        raise
    except DarkhaloscopeError as error:
        return COMMITTED.measure(1, detail=str(error))
    named = [shard.file.removeprefix(f"{SHARDS}/") for shard in dataset.manifest.shards]
    absent = [name for name in named if name not in present]
    return COMMITTED.measure(len(absent), n=len(named), detail=where, examples=absent[:3])


def _schema(order: Order, files: S3Files, table: Table) -> Finding:
    """The table that is expected, and the columns that the job reads, in the first shard."""
    where = address(files)
    try:
        dataset = Dataset(files, where).expect(table)
        if dataset.keys:
            columns = order.job.columns if isinstance(order.job, Job) else None
            dataset.read_shard(dataset.keys[0], columns)
    except CredentialsExpired:
        raise
    except DarkhaloscopeError as error:
        return SCHEMA.measure(1, detail=str(error))
    return SCHEMA.measure(0, n=dataset.num_rows, detail=where)


def _output(order: Order) -> list[Finding]:
    """Nothing there, or what this very job began."""
    try:
        begun = JOB in order.out.names("")
        if begun and isinstance(order.job, Job):
            writer = Writer(order.out, address(order.out), order.job.writes)
            inputs = {"source": Dataset(*_source(order)).fingerprint}
            writer.begin(order.job.model_dump(mode="json"), order.job.identity, inputs)  # refuses another's
    except CredentialsExpired:
        raise
    except DarkhaloscopeError as error:
        return [OUT.measure(1, detail=str(error))]
    return [OUT.measure(0, detail="is continued" if begun else "")]


def _source(order: Order) -> tuple[S3Files, str]:
    files = order.sources[0][0]
    return files, address(files)


def _dry_run(order: Order) -> Finding:
    """The job on the first rows of its input, here, with this code: what fails on every row fails now."""
    if not isinstance(order.job, Job):
        return DRY_RUN.not_evaluated("the job reads all rows together")
    try:
        dataset = Dataset(*_source(order)).expect(order.job.reads)
        key = next((shard.key for shard in dataset.manifest.shards if shard.rows), None)
        if key is None:
            return DRY_RUN.not_evaluated("the input has no rows", n=0)
        rows = dataset.read_shard(key, order.job.columns).slice(0, DRY_ROWS)
        made = order.job.writes.conform(order.job.run(rows), where=f"output of job '{order.job.job}'")
    except CredentialsExpired:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a row does wrong is the finding
        return DRY_RUN.measure(DRY_ROWS, detail=f"{type(error).__name__}: {error}")
    return DRY_RUN.measure(0, n=rows.num_rows, detail=f"{made.num_rows} rows of {order.job.writes.name}")
