"""Each check of the preflight passes on a sound order, and fails by its own fault."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.aws.packed import FEW, pack_metadata, pack_project

from darkhaloscope.aws.clients import forget_clients
from darkhaloscope.aws.launcher import launch
from darkhaloscope.aws.order import Order
from darkhaloscope.aws.preflight import preflight
from darkhaloscope.aws.wheels import WheelSet
from darkhaloscope.contracts.errors import BudgetExceeded, ConfigError, CredentialsExpired, DataError
from darkhaloscope.contracts.store import Writer, write_rows
from darkhaloscope.contracts.tables import BRICKS, STAMPS
from darkhaloscope.dataset.splits import AssignTargetSplits
from darkhaloscope.pipeline.emr import Machines, make_order

ROWS = STAMPS.mock(n=5, seed=1)
GROUPS = sorted(set(ROWS.column("group").to_pylist()))
EXPECTED = {
    "bucket_exists",
    "bucket_readable",
    "bucket_writable",
    "code_current",
    "code_parses",
    "code_uploaded",
    "credentials_hours",
    "credentials_valid",
    "dry_run",
    "input_schema",
    "inputs_committed",
    "output_alone",
    "output_free",
    "region_equal",
    "roles_exist",
    "subnet_in_region",
    "vcores_with_running",
    "vcpu_quota_on_demand",
    "vcpu_quota_spot",
    "wheels_fit",
}


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    return pack_metadata(tmp_path_factory.mktemp("set") / "wheels")


@pytest.fixture
def wheels(packed, tmp_path):
    """A wheel set of this test's own: small files, linked where they stay as they are."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for path in packed.iterdir():
        (folder / path.name).hardlink_to(path)
    return folder


@pytest.fixture
def order(cloud, wheels, tmp_path):
    """A sound order: a committed input on S3, roles, a subnet, code that is uploaded."""
    return sound_order(cloud, wheels, tmp_path)


def sound_order(cloud, wheels, tmp_path):
    account(cloud)
    write_rows(Writer(cloud.files("data/stamps"), "s3", STAMPS), ROWS, shard_rows=2, job={"job": "mock"})
    made = make_order(str(job_file(cloud, tmp_path)), Machines("small"), wheels, subnets=[subnet(cloud)])
    made = dataclasses.replace(made, aws=cloud.aws)
    made.wheels.upload(made.code)
    return made


def account(cloud):
    """What an account has before any of this: roles, and quotas that nobody may see."""
    policy = json.dumps({"Version": "2012-10-17", "Statement": []})
    cloud.aws.call("iam", "create_role", RoleName="EMR_DefaultRole", AssumeRolePolicyDocument=policy)
    cloud.aws.call("iam", "create_instance_profile", InstanceProfileName="EMR_EC2_DefaultRole")


def subnet(cloud):
    pages = cloud.aws.pages("ec2", "describe_subnets")
    return next(s["SubnetId"] for page in pages for s in page["Subnets"])


def job_file(cloud, tmp_path, **changes):
    """Splits of a table of stamps: a job that needs neither pixels nor a network."""
    bucket = cloud.aws.bucket
    content = {
        "job": AssignTargetSplits(plan=dict.fromkeys(GROUPS, "train")).model_dump(mode="json"),
        "source": f"s3://{bucket}/data/stamps",
        "out": f"s3://{bucket}/data/splits",
    }
    path = tmp_path / "job.json"
    path.write_text(json.dumps(content | changes))
    return path


def failed(order, **given):
    found = preflight(order, **given)
    assert {f.name for f in found} == EXPECTED
    return {f.name for f in found.failed}, found


def test_a_sound_order_passes_all_that_can_be_asked(order):
    names, found = failed(order)
    assert names == set()
    assert len(found) >= 10
    assert {f.name for f in found.not_evaluated} == {"vcpu_quota_on_demand", "vcpu_quota_spot"}
    assert found.named("inputs_committed").n == 3
    assert found.named("dry_run").n == 2  # a shard of two rows


def test_expired_credentials_end_it_at_once(order, cloud):
    cloud.weather.expire = {"first": 0}
    with pytest.raises(CredentialsExpired):
        preflight(order)


def test_credentials_that_end_before_the_plan_fail(order, monkeypatch):
    end = datetime.now(UTC) + timedelta(minutes=50)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", end.isoformat())
    forget_clients()
    names, found = failed(order)
    assert names == {"credentials_hours"}
    assert "0.8 h left" in str(found.named("credentials_hours"))


def test_a_plan_in_another_region_fails(order):
    elsewhere = order.cluster.model_copy(update={"region": "us-east-2"})
    there = dataclasses.replace(order, plan=dataclasses.replace(order.plan, cluster=elsewhere))
    names, found = failed(there)
    assert "region_equal" in names
    assert "requests: us-west-2" in str(found.named("region_equal"))


def test_a_missing_bucket_fails(order):
    nowhere = dataclasses.replace(order.out, bucket="no-such-bucket-anywhere")
    names, found = failed(dataclasses.replace(order, out=nowhere))
    assert names == {"bucket_exists", "output_free"}
    assert "no such bucket" in str(found.named("bucket_exists"))


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("GET list-type=2 launches", {"bucket_readable"}),
        ("PUT .preflight", {"bucket_writable"}),
        ("GET data/stamps/manifest.json", {"inputs_committed", "input_schema", "dry_run"}),
    ],
)
def test_what_may_not_be_read_or_written_fails(order, cloud, words, names):
    cloud.weather.refuse = {words: (403, "AccessDenied", "Access Denied")}
    got, found = failed(order)
    assert got == names
    assert "access denied" in str(found.named(min(names)))


def test_unfinished_input_fails(order, cloud):
    cloud.aws.call("s3", "delete_object", Bucket=cloud.aws.bucket, Key="data/stamps/manifest.json")
    names, found = failed(order)
    assert names == {"inputs_committed", "input_schema", "dry_run"}
    assert "unfinished" in str(found.named("inputs_committed"))


def test_a_shard_that_is_gone_fails(order, cloud):
    name = cloud.files("data/stamps").names("shards")[1]
    cloud.aws.call("s3", "delete_object", Bucket=cloud.aws.bucket, Key=f"data/stamps/shards/{name}")
    names, found = failed(order)
    assert names == {"inputs_committed"}
    assert name in str(found.named("inputs_committed"))


def test_input_of_another_table_fails(order, cloud):
    bricks = cloud.files("data/bricks")
    write_rows(Writer(bricks, "s3", BRICKS), BRICKS.mock(n=2, seed=1), shard_rows=2, job={"job": "mock"})
    names, found = failed(dataclasses.replace(order, sources=((bricks, STAMPS),)))
    assert names == {"input_schema", "dry_run"}
    assert "stamps is needed" in str(found.named("input_schema"))


def test_output_of_another_job_fails(order, cloud):
    Writer(cloud.files("data/splits"), "s3", order.job.writes).begin({"job": "another"}, "0" * 16, {})
    names, found = failed(order)
    assert names == {"output_free"}
    assert "belongs to another job" in str(found.named("output_free"))


def test_stale_code_fails(order, wheels):
    order.wheels.project.unlink()
    pack_project(wheels, changed={"darkhaloscope/stats/roc.py": b"# of last week\n"}, requirements=FEW)
    stale = dataclasses.replace(order, wheels=WheelSet.read(wheels))
    stale.wheels.upload(stale.code)
    names, found = failed(stale)
    assert names == {"code_current"}
    assert "darkhaloscope/stats/roc.py" in str(found.named("code_current"))


def test_code_that_does_not_parse_fails(order, wheels):
    order.wheels.project.unlink()
    pack_project(wheels, changed={"darkhaloscope/stats/roc.py": b"def f(:\n"}, requirements=FEW)
    names, found = failed(dataclasses.replace(order, wheels=WheelSet.read(wheels)), fix=True)
    assert names == {"code_current", "code_parses", "code_uploaded"}  # and --fix uploads no such code
    assert "stats/roc.py" in str(found.named("code_parses"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: next(folder.glob("numpy-*")).unlink(), "needs numpy"),
        (
            lambda folder: next(folder.glob("numpy-*")).rename(
                folder / "numpy-1.0-cp311-cp311-manylinux_2_17_x86_64.whl"
            ),
            "the set holds 1.0",
        ),
        (lambda folder: _retag(folder, "numpy", "cp313-cp313-manylinux_2_17_x86_64"), "not for Python 3.11"),
        (lambda folder: _retag(folder, "numpy", "cp311-cp311-macosx_11_0_arm64"), "not for Python 3.11"),
        (lambda folder: _retag(folder, "numpy", "cp311-cp311-manylinux_2_39_x86_64"), "glibc 2.34"),
    ],
    ids=["absent", "old", "python", "machine", "glibc"],
)
def test_wheels_that_would_not_import_there_fail(order, wheels, change, said):
    change(wheels)
    other = dataclasses.replace(order, wheels=WheelSet.read(wheels))
    other.wheels.upload(other.code)
    names, found = failed(other)
    assert names == {"wheels_fit"}
    assert said in str(found.named("wheels_fit"))


def _retag(folder, name, tag):
    path = next(folder.glob(f"{name}-*"))
    version = path.name.split("-")[1]
    path.rename(folder / f"{name}-{version}-{tag}.whl")


def test_code_that_is_not_uploaded_fails_and_fix_uploads_it(order, cloud):
    victim = order.wheels.project.name
    cloud.aws.call("s3", "delete_object", Bucket=order.code.bucket, Key=f"{order.code.prefix}/{victim}")
    names, found = failed(order)
    assert names == {"code_uploaded"}
    assert victim in str(found.named("code_uploaded"))
    assert failed(order, fix=True)[0] == set()
    assert failed(order)[0] == set()


def test_code_that_was_changed_in_the_bucket_fails(order):
    order.code.write("SHA256SUMS", b"something else")
    assert failed(order)[0] == {"code_uploaded"}


def test_quotas_are_compared_where_they_answer(order, cloud):
    """moto knows no quotas of EC2: its refusal is what an account without the permission sees."""
    cloud.weather.answer = {"GetServiceQuota L-1216C47A": {"Quota": {"Value": 11.0}}}
    names, found = failed(order)
    assert names == {"vcpu_quota_on_demand"}
    assert found.named("vcpu_quota_on_demand").value == 11.0
    cloud.weather.answer = {"GetServiceQuota L-1216C47A": {"Quota": {"Value": 12.0}}}
    assert failed(order)[0] == set()


def test_other_clusters_count_against_the_budget(order, cloud):
    account_of_another = dataclasses.replace(order, plan=Machines("large").plan(order.cluster))
    launch(account_of_another, [].append)
    names, found = failed(order)
    assert names == {"vcores_with_running", "output_alone"}
    assert found.named("vcores_with_running").value == 284 + 12
    assert failed(account_of_another)[0] == set()  # a cluster is not its own rival
    elsewhere = dataclasses.replace(order, out=cloud.files("data/other-splits"))
    assert failed(elsewhere)[0] == {"vcores_with_running"}


def test_285_vcores_do_not_even_make_an_order(cloud, wheels, tmp_path):
    """One more than 284 with real machines is two: no table has a machine of an odd number."""
    with pytest.raises(BudgetExceeded, match="292"):
        make_order(str(job_file(cloud, tmp_path)), Machines("large", workers=36), wheels, subnets=[])


def test_a_subnet_of_nowhere_fails_and_none_is_not_enough(order):
    names, found = failed(dataclasses.replace(order, subnets=("subnet-0",)))
    assert names == {"subnet_in_region"}
    names, found = failed(dataclasses.replace(order, subnets=()))
    assert names == {"subnet_in_region"}
    assert "none is named" in str(found.named("subnet_in_region"))
    assert "subnet-" in found.named("subnet_in_region").examples[0]


def test_roles_that_are_not_there_fail(order, cloud):
    cloud.aws.call("iam", "delete_role", RoleName="EMR_DefaultRole")
    names, found = failed(order)
    assert names == {"roles_exist"}
    assert "EMR_DefaultRole" in str(found.named("roles_exist"))


def test_a_job_that_fails_on_its_rows_fails_here(order):
    """On three rows, before two hundred cores do."""

    class Breaks(AssignTargetSplits):
        def run(self, batch):
            raise ValueError(f"{batch.num_rows} rows are too many")

    broken = Breaks.model_validate(order.job.model_dump())
    names, found = failed(dataclasses.replace(order, job=broken))
    assert names == {"dry_run"}
    assert "rows are too many" in str(found.named("dry_run"))


def test_files_that_a_job_names_are_sent_and_found_by_the_nodes(cloud, wheels, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"weights")
    job = {"job": "score_stamps", "checkpoint": str(tmp_path / "net.onnx"), "checkpoint_sha256": "0" * 64}
    made = make_order(str(job_file(cloud, tmp_path, job=job)), Machines("small"), wheels, subnets=[])
    sent = {name: data for name, data in made.uploads().items() if name != "job.json"}
    (name,) = sent
    assert (name.startswith("files/"), name.endswith(".onnx"), sent[name]) == (True, True, b"weights")
    told = json.loads(made.uploads()["job.json"])
    assert told["job"]["checkpoint"] == f"/opt/darkhaloscope/{name}"
    arguments = made.request()["BootstrapActions"][0]["ScriptBootstrapAction"]["Args"]
    assert arguments[-1] == f"s3://{made.folder.bucket}/{made.folder.prefix}/files"
    job["checkpoint"] = str(tmp_path)
    with pytest.raises(ConfigError, match="nodes see no folder of this machine"):
        make_order(str(job_file(cloud, tmp_path, job=job)), Machines("small"), wheels, subnets=[])


def test_a_folder_of_this_machine_is_no_source(cloud, wheels, tmp_path):
    path = job_file(cloud, tmp_path, source=str(tmp_path))
    with pytest.raises(ConfigError, match="which no cluster sees"):
        make_order(str(path), Machines("small"), wheels, subnets=[])


def test_a_folder_without_the_project_is_no_wheel_set(tmp_path):
    with pytest.raises(DataError, match="scripts/wheels"):
        WheelSet.read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not one wheel"):
        WheelSet.read(tmp_path)


def test_the_same_order_has_the_same_launch(order):
    assert isinstance(order, Order)
    again = dataclasses.replace(order, aws=order.aws)
    assert again.launch_id == order.launch_id
    other = dataclasses.replace(order, content={**order.content, "batch_rows": 7})
    assert other.launch_id != order.launch_id
    assert Path(order.wheels.folder).exists()
