"""The proxy itself: what it is told to do it does, and nothing else."""

import http.client

import pytest
from tests.aws.proxy import Weather

from darkhaloscope.contracts.errors import CloudRefused, CredentialsExpired


def _cluster(aws, *steps):
    started = aws.call(
        "emr",
        "run_job_flow",
        Name="test",
        ReleaseLabel="emr-7.0.0",
        Instances={"MasterInstanceType": "m5.xlarge", "SlaveInstanceType": "m5.xlarge", "InstanceCount": 2},
        JobFlowRole="EMR_EC2_DefaultRole",
        ServiceRole="EMR_DefaultRole",
        Steps=[
            {
                "Name": name,
                "ActionOnFailure": "CONTINUE",
                "HadoopJarStep": {"Jar": "command-runner.jar", "Args": []},
            }
            for name in steps
        ],
    )
    return started["JobFlowId"]


def _states(aws, cluster):
    return [
        (step["Name"], step["Status"]["State"])
        for page in aws.pages("emr", "list_steps", ClusterId=cluster)
        for step in page["Steps"]
    ]


def test_states_come_in_the_order_of_the_table_and_the_last_stays(cloud):
    cluster = _cluster(cloud.aws, "one", "two")
    before = dict(_states(cloud.aws, cluster))
    assert before["two"] in {"PENDING", "RUNNING", "STARTING"}
    gone = {"State": "TERMINATED_WITH_ERRORS", "StateChangeReason": {"Code": "STEP_FAILURE", "Message": "no"}}
    cloud.weather.cluster = ["STARTING", "RUNNING", gone]
    cloud.weather.steps = {"one": ["RUNNING", "COMPLETED"]}
    seen = [
        cloud.aws.call("emr", "describe_cluster", ClusterId=cluster)["Cluster"]["Status"] for _ in range(4)
    ]
    assert [status["State"] for status in seen] == ["STARTING", "RUNNING"] + ["TERMINATED_WITH_ERRORS"] * 2
    assert seen[3]["StateChangeReason"]["Code"] == "STEP_FAILURE"
    assert [dict(_states(cloud.aws, cluster))["one"] for _ in range(2)] == ["RUNNING", "COMPLETED"]
    step = next(
        s["Id"]
        for s in next(cloud.aws.pages("emr", "list_steps", ClusterId=cluster))["Steps"]
        if s["Name"] == "one"
    )
    told = cloud.aws.call("emr", "describe_step", ClusterId=cluster, StepId=step)["Step"]["Status"]["State"]
    assert told == "COMPLETED"
    assert dict(_states(cloud.aws, cluster))["two"] == before["two"]


def test_emr_is_throttled_and_expires_in_its_own_words(cloud):
    cluster = _cluster(cloud.aws, "one")
    cloud.weather.first["DescribeCluster"] = ["slowdown", "reset", "lost"]
    assert cloud.aws.call("emr", "describe_cluster", ClusterId=cluster)["Cluster"]["Id"] == cluster
    assert cloud.weather.count("DescribeCluster") == 4
    cloud.weather.expire["first"] = 0
    with pytest.raises(CredentialsExpired, match="ExpiredTokenException"):
        cloud.aws.call("emr", "describe_cluster", ClusterId=cluster)


def test_the_same_seed_meets_the_same_requests_with_the_same_faults():
    def faults(seed):
        weather = Weather(rate={"reset": 0.3, "lost": 0.3}, seed=seed)
        return [weather.fault(f"GET /{k}", ["reset", "lost"]) for k in range(200)]

    assert faults(1) == faults(1)
    assert faults(1) != faults(2)
    assert 40 < faults(1).count("reset") < 80
    assert None in faults(1)
    assert Weather().fault("GET /", ["reset"]) is None


def _plainly(cloud, key):
    """The body as a client gets it that checks nothing."""
    there = http.client.HTTPConnection(cloud.url.removeprefix("http://"))
    headers = {
        "x-amz-checksum-mode": "ENABLED",
        "Authorization": "AWS4-HMAC-SHA256 Credential=A/1/r/s3/aws4_request",
    }
    there.request("GET", f"/{cloud.aws.bucket}/data/{key}", headers=headers)
    try:
        return there.getresponse().read()
    finally:
        there.close()


def test_its_damage_is_real_to_whoever_does_not_look(cloud):
    cloud.files().write("x", b"12345678")
    cloud.weather.first["GET data/x"] = ["altered", "truncated", "reset"]
    assert _plainly(cloud, "x") == b"02345678"
    with pytest.raises(http.client.IncompleteRead):
        _plainly(cloud, "x")
    with pytest.raises(ConnectionError):
        _plainly(cloud, "x")
    assert _plainly(cloud, "x") == b"12345678"


def test_a_scripted_refusal_befalls_only_what_it_names(cloud):
    cloud.weather.refuse["PUT data/one"] = (403, "AccessDenied", "No.")
    cloud.files().write("two", b"1")
    with pytest.raises(CloudRefused):
        cloud.files().write("one", b"1")
