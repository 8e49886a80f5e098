"""The door to AWS: what is tried again, what each refusal is called; no error of a vendor gets through."""

import contextlib
import pickle
import socket
import subprocess
import sys
import time

import cloudpickle
import pytest

from darkhaloscope.aws import clients
from darkhaloscope.aws.clients import Aws, forget_clients
from darkhaloscope.aws.cluster import load_cluster
from darkhaloscope.contracts.errors import (
    CloudError,
    CloudRefused,
    CloudUnreachable,
    ConfigError,
    CredentialsExpired,
)

REFUSALS = {
    "AccessDenied": (403, "Not you.", {}, r"access denied: Not you\..*ask for the permission"),
    "PermanentRedirect": (
        301,
        "No.",
        {"x-amz-bucket-region": "eu-west-1"},
        "is in eu-west-1, but us-west-2 was",
    ),
    "AuthorizationHeaderMalformed": (400, "No.", {}, "is in another region, but us-west-2 was asked"),
    "IllegalLocationConstraintException": (400, "No.", {}, "is in another region"),
    "RequestTimeTooSkewed": (403, "Off.", {}, "this machine's clock is wrong"),
    "QuotaOfMoons": (400, "Too many moons.", {}, r"Too many moons\. \[QuotaOfMoons\]"),
}
INVALID = [
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "AuthFailure",
    "UnrecognizedClientException",
]
ASKED = {
    "s3": lambda aws: aws.call("s3", "put_object", Bucket=aws.bucket, Key="k", Body=b"x"),
    "listing": lambda aws: list(aws.pages("s3", "list_objects_v2", Bucket=aws.bucket)),
    "emr": lambda aws: aws.call("emr", "describe_cluster", ClusterId="j-1"),
    "sts": lambda aws: aws.call("sts", "get_caller_identity"),
}
ONCE = {
    "s3": ("PUT", "/k"),
    "listing": ("list-type",),
    "emr": ("DescribeCluster",),
    "sts": ("GetCallerIdentity",),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_each_refusal_has_its_own_sentence_and_is_not_asked_again(cloud, code):
    status, message, headers, sentence = REFUSALS[code]
    cloud.weather.refuse["GET k"] = (status, code, message, headers)
    with pytest.raises(CloudRefused, match=sentence) as caught:
        cloud.aws.body(cloud.aws.bucket, "k")
    assert caught.value.code == code
    assert f"s3://{cloud.aws.bucket}/k" in str(caught.value)
    assert cloud.weather.count("GET") == 1  # nor is another region asked without a word


def test_botocore_alone_would_follow_the_bucket(cloud):
    cloud.weather.refuse["GET k"] = (301, "PermanentRedirect", "No.", {"x-amz-bucket-region": "eu-west-1"})
    client = cloud.aws._client("s3")
    client.meta.events.unregister("before-call.s3", clients._stay_in_region)
    with pytest.raises(CloudRefused):
        cloud.aws.body(cloud.aws.bucket, "k")
    assert cloud.weather.count("GET") == 2
    forget_clients()


def test_a_bucket_that_is_not_there_is_told_from_one_that_is_elsewhere(cloud):
    with pytest.raises(CloudRefused, match="s3://no-such-one: there is no such bucket") as caught:
        list(cloud.aws.pages("s3", "list_objects_v2", Bucket="no-such-one"))
    assert caught.value.code == "NoSuchBucket"


@pytest.mark.parametrize(
    ("code", "asked"), [(code, "s3") for code in INVALID] + [(INVALID[0], asked) for asked in ASKED]
)
def test_credentials_that_are_not_valid_stop_at_once_whatever_was_asked(cloud, asked, code):
    cloud.weather.refuse[""] = (403, code, "No.")
    with pytest.raises(CredentialsExpired, match=rf"{code}.*renew them, then run the same command") as caught:
        ASKED[asked](cloud.aws)
    assert caught.value.exit_code == 3
    assert cloud.weather.count(*ONCE[asked]) == 1


def test_a_refusal_that_is_none_of_credentials_is_not_taken_for_one(cloud):
    cloud.weather.refuse[""] = (403, "AccessDenied", "User: first is not authorized to perform this.")
    with pytest.raises(CloudRefused):
        ASKED["emr"](cloud.aws)
    cloud.weather.refuse[""] = (403, "AccessDenied", "Request has expired")
    with pytest.raises(CredentialsExpired):
        ASKED["emr"](cloud.aws)


def _nothing(monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def _half(monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def _past(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2020-01-01T00:00:00Z")


def _program_that_fails(monkeypatch, tmp_path):
    _nothing(monkeypatch, tmp_path)
    (tmp_path / "aws-config").write_text("[default]\ncredential_process = false\n")


def _login_not_made(monkeypatch, tmp_path):
    _nothing(monkeypatch, tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "aws-config").write_text(
        "[default]\nsso_start_url = https://x.invalid\nsso_region = us-west-2\n"
        "sso_account_id = 1\nsso_role_name = r\n"
    )


@pytest.mark.parametrize("lack", [_nothing, _half, _past, _program_that_fails, _login_not_made])
def test_without_valid_credentials_nothing_is_sent(cloud, monkeypatch, tmp_path, lack):
    lack(monkeypatch, tmp_path)
    forget_clients()
    for ask in (*ASKED.values(), Aws.key):
        with pytest.raises(CredentialsExpired, match="renew them"):
            ask(cloud.aws)
    assert cloud.weather.count() == 0


@pytest.mark.parametrize("fault", ["reset", "lost", "slowdown", "slow", "truncated", "altered"])
def test_one_fault_is_outlived(cloud, fault):
    content = bytes(range(256)) * 300
    cloud.files("p").write("k", content)
    cloud.weather.first["GET p/k"] = [fault]
    assert cloud.files("p").read("k") == content
    assert cloud.weather.did[fault] == 1


def test_a_body_that_always_breaks_off_is_not_asked_for_forever(cloud):
    cloud.files("p").write("k", b"x" * 1000)
    cloud.weather.first["GET p/k"] = ["truncated"] * 100
    with pytest.raises(CloudUnreachable, match="no whole answer after all tries"):
        cloud.files("p").read("k")
    assert cloud.weather.did["truncated"] == 5


def test_throttling_that_does_not_end_says_so(cloud):
    cloud.weather.refuse["GET k"] = (503, "SlowDown", "Please.")
    with pytest.raises(CloudRefused, match=r"asks for fewer requests.*use fewer workers"):
        Aws(cloud.aws.region, cloud.aws.bucket, cloud.url, retries=1).body(cloud.aws.bucket, "k")
    assert cloud.weather.count("GET") == 2


def test_a_failing_service_says_so(cloud):
    cloud.weather.refuse["GET k"] = (500, "InternalError", "Oh.")
    with pytest.raises(CloudRefused, match="AWS failed, and still did after all tries"):
        Aws(cloud.aws.region, cloud.aws.bucket, cloud.url, retries=1).body(cloud.aws.bucket, "k")


def test_nobody_there_is_told_from_a_refusal(cloud):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(CloudUnreachable, match=r"s3 put_object s3://.*no whole answer after all tries"):
        ASKED["s3"](Aws(cloud.aws.region, cloud.aws.bucket, nowhere, retries=0))


def test_the_patience_is_the_stated_one(cloud):
    aws = Aws(cloud.aws.region, cloud.aws.bucket, cloud.url)
    found = {service: aws._client(service).meta.config for service in ("s3", "emr")}
    assert [found[s].connect_timeout for s in found] == [10, 10]
    assert [found[s].read_timeout for s in found] == [60, 30]
    assert [found[s].retries["total_max_attempts"] for s in found] == [11, 6]
    assert {found[s].retries["mode"] for s in found} == {"adaptive"}
    assert {found[s].region_name for s in found} == {load_cluster(environment={}).region}


def test_lists_are_whole_and_nothing_else_is_offered(cloud):
    for name in ("a", "b", "c"):
        cloud.files("p").write(name, b"")
    pages = list(
        cloud.aws.pages("s3", "list_objects_v2", Bucket=cloud.aws.bucket, PaginationConfig={"PageSize": 2})
    )
    assert [len(page["Contents"]) for page in pages] == [2, 1]
    with pytest.raises(ValueError, match=r"use pages\(\)"):
        cloud.aws.call("s3", "list_objects_v2", Bucket=cloud.aws.bucket)
    with pytest.raises(ValueError, match="HEAD"):
        cloud.aws.call("s3", "head_bucket", Bucket=cloud.aws.bucket)
    with pytest.raises(CloudError, match=r"emr describe_cluster.*ClusterId"):
        cloud.aws.call("emr", "describe_cluster")


def test_it_travels_without_a_client(cloud):
    ASKED["s3"](cloud.aws)
    assert pickle.loads(pickle.dumps(cloud.aws)) == cloud.aws
    aws = cloud.aws
    assert b"boto" not in cloudpickle.dumps(lambda: aws.call("sts", "get_caller_identity"))


def test_boto3_comes_with_the_first_call_and_its_absence_is_named():
    rooms = (
        "import darkhaloscope.aws.s3, darkhaloscope.aws.credentials, darkhaloscope.pipeline.addresses, sys\n"
    )
    code = rooms + (
        "assert not {'boto3', 'botocore'} & set(sys.modules)\n"
        "sys.modules['boto3'] = None\n"
        "from darkhaloscope.aws.clients import Aws\n"
        "Aws('us-west-2', 'b').call('sts', 'get_caller_identity')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "CloudError: s3:// and EMR need boto3: pip install 'darkhaloscope[aws]'" in done.stderr


def test_region_and_bucket_have_one_home_and_the_environment_may_name_others(cloud):
    home = load_cluster(environment={})
    assert (home.region, home.bucket) == ("us-west-2", "darkhaloscope")
    other = {"AWS_REGION": "eu-west-1", "S3_BUCKET": "another", "AWS_ENDPOINT_URL": cloud.url}
    assert Aws.configured(other) == Aws("eu-west-1", "another", cloud.url)
    assert Aws.configured({"AWS_DEFAULT_REGION": "eu-west-1"}).region == home.region
    with pytest.raises(ConfigError, match=r"cluster.yaml with AWS_REGION: key 'region'"):
        Aws.configured({"AWS_REGION": "Oregon"})


@pytest.mark.parametrize("asked", ["s3", "emr", "sts"])
def test_tokens_expire_in_the_middle_for_every_service(cloud, asked, monkeypatch):
    cloud.weather.expire["first"] = 2
    if asked != "emr":  # there is no such cluster
        ASKED[asked](cloud.aws)
        ASKED[asked](cloud.aws)
    else:
        cloud.weather.expire["first"] = 0
    started = time.monotonic()
    with pytest.raises(CredentialsExpired):
        ASKED[asked](cloud.aws)
    assert time.monotonic() - started < 5  # no retries
    monkeypatch.setenv("AWS_SESSION_TOKEN", "second")
    with pytest.raises(CloudRefused, match="not valid") if asked == "emr" else contextlib.nullcontext():
        ASKED[asked](cloud.aws)
