"""From the call that starts a cluster to its end, with everything between that can go wrong."""

import dataclasses
import gzip
import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from tests.aws.test_preflight import job_file, packed, sound_order, wheels  # noqa: F401 - fixtures
from typer.testing import CliRunner

from darkhaloscope.aws.clients import forget_clients
from darkhaloscope.aws.cluster import load_cluster
from darkhaloscope.aws.launcher import (
    clusters,
    describe,
    find_cluster,
    launch,
    steps_of,
    terminate,
    verify_output,
    watch,
)
from darkhaloscope.cli import app
from darkhaloscope.contracts.config import find_config
from darkhaloscope.contracts.errors import (
    EXIT_CREDENTIALS,
    EXIT_FAILED_CHECK,
    CloudRefused,
    CloudUnreachable,
    ConfigError,
    CredentialsExpired,
    StepFailed,
    StoreError,
)
from darkhaloscope.pipeline.jobs import Engine, read_job, run_job

STEP = "dhs job assign_target_splits"
EXPIRED = (400, "ExpiredToken", "The security token included in the request is expired")
QUICK = {"poll_seconds": 0.1, "settle_seconds": 1.5, "log_wait_seconds": 0.3}


@pytest.fixture
def order(cloud, wheels, tmp_path, monkeypatch):  # noqa: F811 - a fixture
    """A sound order, in a folder whose cluster.yaml waits for tenths of seconds instead of minutes."""
    written = yaml.safe_load(find_config("cluster.yaml").read_text())
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(written | QUICK))
    monkeypatch.chdir(tmp_path)
    made = sound_order(cloud, wheels, tmp_path)
    cloud.weather.steps = {STEP: ["PENDING"]}
    assert made.cluster.poll_seconds == QUICK["poll_seconds"]
    return made


class Said(list):
    def __call__(self, text):
        self.append(text)

    def __contains__(self, part):
        return any(part in text for text in self)


def do_the_work(order, cloud):
    """What the step of the cluster would do: the job file that was uploaded, by the words of the step."""
    found = next(clusters(cloud.aws))
    (page,) = cloud.aws.pages("emr", "list_steps", ClusterId=found.cluster_id)
    words = page["Steps"][0]["Config"]["Args"]
    assert words[-4:-2] == ["job", f"s3://{order.folder.bucket}/{order.folder.prefix}/job.json"]
    assert words[-2:] == ["--on", "spark"]
    made, _ = run_job(read_job(words[-3]), Engine("local", 1))
    cloud.weather.steps = {STEP: ["COMPLETED"]}
    return made


def worker(order, cloud):
    """A cluster that does its work some time after it was started."""

    def wait_and_work():
        until = time.monotonic() + 60
        while not cloud.weather.count("RunJobFlow"):
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.5)
        do_the_work(order, cloud)

    made = threading.Thread(target=wait_and_work)
    made.start()
    return made


def started(cloud):
    return [c for c in clusters(cloud.aws) if c.launch_id]


# --- starting


def test_a_launch_starts_one_cluster_and_a_second_finds_it(order, cloud):
    said = Said()
    first = launch(order, said)
    again = launch(order, said)
    assert (first.cluster_id, cloud.weather.count("RunJobFlow")) == (again.cluster_id, 1)
    assert said[0].startswith("AWS credentials: ")
    assert f"cluster {first.cluster_id} is under way" in said
    body = json.loads(order.folder.read("job.json"))
    assert body["out"] == f"s3://{order.out.bucket}/{order.out.prefix}"
    record = json.loads(order.folder.read("calls/0000.json"))
    assert (record["launch_id"], record["vcores"]) == (order.launch_id, 12)
    assert order.folder.read("calls/0000.cluster").decode() == first.cluster_id
    tags = cloud.aws.call("emr", "describe_cluster", ClusterId=first.cluster_id)["Cluster"]["Tags"]
    assert {"Key": "dhs-launch", "Value": order.launch_id} in tags


def test_a_lost_answer_never_starts_a_second_cluster(order, cloud):
    cloud.weather.first = {"RunJobFlow": ["lost"]}
    said = Said()
    found = launch(order, said)
    assert "the answer to RunJobFlow is lost" in said
    assert "was started by an earlier call" in said
    assert [c.cluster_id for c in started(cloud)] == [found.cluster_id]
    assert cloud.weather.count("RunJobFlow") == 1
    assert cloud.weather.did["lost"] == 1


def test_a_call_that_never_arrived_is_made_again(order, cloud):
    cloud.weather.first = {"RunJobFlow": ["reset"]}
    launch(order, Said())
    assert cloud.weather.count("RunJobFlow") == 2
    assert len(started(cloud)) == 1
    assert sorted(order.folder.names("calls")) == ["0000.json", "0001.cluster", "0001.json"]


def test_a_throttled_call_is_made_again(order, cloud):
    cloud.weather.first = {"RunJobFlow": ["slowdown"]}
    launch(order, Said())
    assert len(started(cloud)) == 1
    assert order.folder.read("calls/0000.refused").decode() == "ThrottlingException"


def test_calls_are_not_made_for_ever(order, cloud):
    hasty = order.cluster.model_copy(update={"settle_seconds": 0.1})
    order = dataclasses.replace(order, plan=dataclasses.replace(order.plan, cluster=hasty))
    cloud.weather.first = {"RunJobFlow": ["reset"] * 9}
    with pytest.raises(CloudUnreachable, match="4 calls, and no cluster"):
        launch(order, Said())
    assert started(cloud) == []


def test_a_refusal_is_told_and_the_next_launch_does_not_wait(order, cloud):
    cloud.weather.refuse = {"RunJobFlow": (400, "ValidationException", "Invalid InstanceProfile")}
    with pytest.raises(CloudRefused, match="Invalid InstanceProfile"):
        launch(order, Said())
    cloud.weather.refuse = {}
    said = Said()
    launch(order, said)
    assert "no outcome yet" not in said


def test_a_launch_that_was_killed_after_its_call_is_found(order, cloud):
    """A record without an outcome, and a cluster that shows up in listings."""
    killed = launch(order, Said())
    key = f"{order.folder.prefix}/calls/0000.cluster"
    cloud.aws.call("s3", "delete_object", Bucket=order.folder.bucket, Key=key)
    assert launch(order, Said()).cluster_id == killed.cluster_id
    assert cloud.weather.count("RunJobFlow") == 1


def test_a_launch_that_was_killed_before_its_call_starts_after_looking(order, cloud):
    order.folder.create("calls/0000.json", json.dumps({"at": datetime.now(UTC).isoformat()}).encode())
    said, before = Said(), time.monotonic()
    launch(order, said)
    assert "an earlier call has no outcome yet" in said
    assert time.monotonic() - before > 1.0
    assert len(started(cloud)) == 1


def test_two_launches_at_once_start_one_cluster(order, cloud):
    found, errors = [], []

    def start():
        try:
            found.append(launch(order, Said()).cluster_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            errors.append(error)

    both = [threading.Thread(target=start) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert errors == []
    assert len(found) == 2
    assert len(set(found)) == len(started(cloud)) == 1


def test_a_cluster_that_no_listing_shows_yet_is_known_by_its_record(order, cloud):
    first = launch(order, Said())
    cloud.weather.answer = {"ListClusters": {"Clusters": []}}
    again = launch(order, Said())
    assert (again.cluster_id, cloud.weather.count("RunJobFlow")) == (first.cluster_id, 1)


def test_after_a_dead_cluster_another_may_start(order, cloud):
    dead = launch(order, Said())
    terminate(cloud.aws, order.cluster, dead.cluster_id, Said())
    assert launch(order, Said()).cluster_id != dead.cluster_id
    assert len(started(cloud)) == 2


def test_a_finished_output_starts_nothing(order, cloud):
    launch(order, Said())
    do_the_work(order, cloud)
    terminate(cloud.aws, order.cluster, started(cloud)[0].cluster_id, Said())
    assert launch(order, Said()) is None
    assert cloud.weather.count("RunJobFlow") == 1


def test_too_little_time_starts_nothing(order, cloud, monkeypatch):
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", (datetime.now(UTC) + timedelta(minutes=12)).isoformat())
    forget_clients()
    with pytest.raises(CredentialsExpired, match="the upload needs AWS credentials"):
        launch(order, Said())
    assert cloud.weather.count("RunJobFlow") == 0


# --- watching


def test_a_running_cluster_is_no_end_and_completed_steps_are(order, cloud):
    found = launch(order, Said())
    cloud.weather.cluster = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]
    cloud.weather.steps = {STEP: ["PENDING"] * 4 + ["RUNNING"] * 2 + ["COMPLETED"]}
    said, before = Said(), cloud.weather.count("ListSteps")
    watch(cloud.aws, order.cluster, found.cluster_id, said)
    assert cloud.weather.count("ListSteps") - before == 7
    assert "WAITING" in said
    assert said[-1].endswith(f"{STEP}: COMPLETED")


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "INTERRUPTED"])
def test_a_step_that_did_not_complete_fails_with_the_end_of_its_log(order, cloud, state):
    found = launch(order, Said())
    (step,) = steps_of(cloud.aws, found.cluster_id)
    lines = "\n".join(f"line {k}" for k in range(100))
    key = f"{order.cluster.prefixes.logs}/{found.cluster_id}/steps/{step.step_id}/stderr.gz"
    cloud.aws.call(
        "s3", "put_object", Bucket=order.cluster.bucket, Key=key, Body=gzip.compress(lines.encode())
    )
    failed = {"State": state, "FailureDetails": {"Reason": "Unknown", "Message": "exit code 1"}}
    cloud.weather.steps = {STEP: ["RUNNING", failed]}
    with pytest.raises(StepFailed, match="exit code 1") as caught:
        watch(cloud.aws, order.cluster, found.cluster_id, Said())
    assert caught.value.exit_code == EXIT_FAILED_CHECK
    assert f"{state.lower()}: exit code 1" in str(caught.value)
    assert caught.value.log.endswith("line 98\nline 99")
    assert "line 59\n" not in caught.value.log


def test_a_step_whose_log_never_comes_fails_all_the_same(order, cloud):
    found = launch(order, Said())
    cloud.weather.steps = {STEP: ["FAILED"]}
    with pytest.raises(StepFailed, match="no log has come"):
        watch(cloud.aws, order.cluster, found.cluster_id, Said())


@pytest.mark.parametrize("state", ["TERMINATED", "TERMINATED_WITH_ERRORS"])
def test_a_cluster_that_ends_before_its_steps_fails_with_the_bootstraps_log(order, cloud, state):
    found = launch(order, Said())
    folder = f"{order.cluster.prefixes.logs}/{found.cluster_id}/node/i-1/bootstrap-actions/1"
    log = gzip.compress(b"bootstrap: no python3.11\n")
    cloud.aws.call("s3", "put_object", Bucket=order.cluster.bucket, Key=f"{folder}/stderr.gz", Body=log)
    why = {"Code": "BOOTSTRAP_FAILURE", "Message": "bootstrap action 1 returned 1"}
    cloud.weather.cluster = ["BOOTSTRAPPING", {"State": state, "StateChangeReason": why}]
    with pytest.raises(StepFailed, match="0 of 1 steps completed: BOOTSTRAP_FAILURE") as caught:
        watch(cloud.aws, order.cluster, found.cluster_id, Said())
    assert "no python3.11" in caught.value.log


def test_a_poll_without_an_answer_is_made_again(order, cloud):
    found = launch(order, Said())
    cloud.weather.steps = {STEP: ["COMPLETED"]}
    cloud.weather.first = {"DescribeCluster": ["reset"] * 5}  # one more than botocore tries in this test
    said = Said()
    watch(cloud.aws, order.cluster, found.cluster_id, said)
    assert "asking again" in said


def test_a_completed_step_without_output_is_no_success(order, cloud):
    found = launch(order, Said())
    cloud.weather.steps = {STEP: ["COMPLETED"]}
    watch(cloud.aws, order.cluster, found.cluster_id, Said())
    with pytest.raises(StoreError, match="no manifest"):
        verify_output(order)


# --- listing and ending


def test_listings_are_read_to_their_last_page(order, cloud):
    body = order.request() | {"Steps": []}
    for k in range(53):  # moto gives fifty a page
        cloud.aws.call("emr", "run_job_flow", **(body | {"Name": f"dhs-{k:016x}"}))
    cloud.aws.call("emr", "run_job_flow", **(body | {"Name": "somebody's own"}))
    assert len(list(clusters(cloud.aws))) == 53
    assert find_cluster(cloud.aws, f"{0:016x}").name == "dhs-" + "0" * 16
    with pytest.raises(ConfigError, match="is no cluster of us-west-2"):
        find_cluster(cloud.aws, "somebody's own")


def test_termination_is_waited_for_and_may_be_asked_for_twice(order, cloud):
    found = launch(order, Said())
    said = Said()
    terminate(cloud.aws, order.cluster, found.cluster_id, said)
    assert describe(cloud.aws, found.cluster_id).state == "TERMINATED"
    asked = cloud.weather.count("TerminateJobFlows")
    terminate(cloud.aws, order.cluster, found.cluster_id, said)
    assert cloud.weather.count("TerminateJobFlows") == asked


# --- the command, as a process


def dhs(*words):
    return subprocess.run(
        [sys.executable, "-m", "darkhaloscope", *words],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def launch_words(order):
    words = ["emr", "launch", "job.json", "--preset", "small", "--wheels", str(order.wheels.folder)]
    return [*words, "--subnet", order.subnets[0]]


def here(*words):
    """The command without a process of its own: its libraries are loaded."""
    return CliRunner().invoke(app, words)


@pytest.mark.slow
def test_the_command_goes_from_preflight_to_teardown(order, cloud):
    work = worker(order, cloud)
    done = dhs(*launch_words(order))
    work.join()
    assert done.returncode == 0, done.stderr
    assert f"{STEP}: COMPLETED" in done.stderr
    assert "5 rows of splits" in done.stderr
    (only,) = started(cloud)
    assert only.state == "TERMINATED"
    assert only.cluster_id in here("emr", "list", "--all").stdout
    assert only.cluster_id not in here("emr", "list").stdout
    assert f"{STEP}  COMPLETED" in here("emr", "status", order.launch_id).stdout
    assert "TERMINATED" in here("emr", "terminate", only.cluster_id).stderr
    again = here(*launch_words(order))
    assert (again.exit_code, "nothing to start" in again.stderr) == (0, True)


@pytest.mark.slow
def test_the_command_fails_with_its_step_and_ends_the_cluster(order, cloud):
    cloud.weather.steps = {STEP: ["RUNNING", "FAILED"]}
    done = dhs(*launch_words(order))
    assert done.returncode == EXIT_FAILED_CHECK
    assert f"step '{STEP}' failed" in done.stderr
    (only,) = started(cloud)
    assert only.state == "TERMINATED"
    assert isinstance(here("emr", "watch", only.cluster_id).exception, StepFailed)


MOMENTS = {
    "before": {"Action=GetCallerIdentity": EXPIRED},
    "upload": {"PUT planb/emr/code": EXPIRED},
    "call": {"RunJobFlow": EXPIRED},
    "watch": {"ListSteps": EXPIRED},
    "teardown": {"TerminateJobFlows": EXPIRED},
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_credentials_that_expire_stop_with_code_3_and_the_same_command_resumes(
    order, cloud, moment, monkeypatch
):
    for name in order.code.names("") if moment == "upload" else ():
        key = f"{order.code.prefix}/{name}"
        cloud.aws.call("s3", "delete_object", Bucket=order.code.bucket, Key=key)
    cloud.weather.refuse = MOMENTS[moment]
    work = worker(order, cloud) if moment == "teardown" else None
    stopped = dhs(*launch_words(order))
    assert stopped.returncode == EXIT_CREDENTIALS, stopped.stderr
    assert "renew them, then run the same command again" in stopped.stderr
    assert ("goes on by its own role" in stopped.stderr) == (moment == "watch")
    assert cloud.weather.count("RunJobFlow") == (moment in {"call", "watch", "teardown"})

    cloud.weather.refuse, cloud.weather.expire = {}, {"first": 0}
    if moment == "call":  # the refused call had no effect: another is made
        cloud.weather.seen.clear()
    monkeypatch.setenv("AWS_SESSION_TOKEN", "second")
    forget_clients()
    work = work or worker(order, cloud)
    resumed = here(*launch_words(order))
    work.join()
    assert resumed.exit_code == 0, resumed.output
    assert verify_output(order).num_rows == 5
    assert [c.state for c in started(cloud)] == ["TERMINATED"]  # one in all, and it has ended


def test_the_waiting_times_of_the_tests_are_not_those_of_the_house():
    house = load_cluster(str(find_config("cluster.yaml")), environment={})
    assert house.settle_seconds >= 60
    assert house.poll_seconds >= 10
