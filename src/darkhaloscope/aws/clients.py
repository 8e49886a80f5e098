"""The one door to AWS: nothing else imports boto3 or botocore, and nothing of theirs leaves this file.

Clients are made when first used, once per process, with a region, timeouts and adaptive retries; a value of
`Aws` holds none, so it travels to workers. Lists are paged, because nothing else is offered. Every error of
botocore becomes one of ours, in `translated`: credentials that are no longer valid stop at once, whatever the
call; what is worth another try has had its tries before it arrives here.
"""

import hashlib
import io
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from darkhaloscope.aws.cluster import load_cluster
from darkhaloscope.contracts.errors import CloudError, CloudRefused, CloudUnreachable, CredentialsExpired

CONNECT_SECONDS = 10
READ_SECONDS = {"s3": 60}
RETRIES = {"s3": 10}
_READ_SECONDS, _RETRIES = 30, 5
AT_ONCE = 32
"""Requests that one process has in flight at most."""
BODY_TRIES = 5
"""How often a body is asked for that breaks off: botocore retries requests, never what streams after them."""

_INVALID = frozenset({
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "InvalidToken",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "MissingSecurityHeader",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UnrecognizedClientException",
})  # fmt: skip
THROTTLED = frozenset({
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
})  # fmt: skip
_ELSEWHERE = frozenset({
    "301",
    "307",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "Redirect",
    "TemporaryRedirect",
})  # fmt: skip
_DENIED = frozenset({
    "403",
    "AccessDenied",
    "AccessDeniedException",
    "AllAccessDisabled",
    "UnauthorizedOperation",
})  # fmt: skip
_REMEDIES: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        THROTTLED,
        "AWS asks for fewer requests, and still did after all tries",
        "use fewer workers, or run it again later: it continues",
    ),
    (
        _ELSEWHERE,
        "the bucket is in {right}, but {region} was asked",
        "set AWS_REGION to the bucket's, or choose a bucket in this region",
    ),
    (frozenset({"NoSuchBucket"}), "there is no such bucket", "check its name, or make it first"),
    (_DENIED, "access denied: {message}", "ask for the permission, or check the address"),
    (frozenset({"RequestTimeTooSkewed"}), "this machine's clock is wrong: {message}", "set it"),
)
# Errors of botocore itself that mean: there is nothing valid to sign with.
_NOTHING_TO_SIGN_WITH = (
    "NoCredentialsError",
    "NoAuthTokenError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "MetadataRetrievalError",
    "TokenRetrievalError",
    "RefreshWithMFAUnsupportedError",
    "SSOError",
    "LoginError",
)
_NO_WHOLE_ANSWER = (
    "ConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "FlexibleChecksumError",
    "ChecksumError",
)
# Instance and container roles, and logins that botocore itself renews from their source.
_RENEWED = frozenset({
    "iam-role",
    "container-role",
    "assume-role",
    "assume-role-with-web-identity",
    "sso",
    "login",
    "custom-process",
})  # fmt: skip
# What programs that write temporary keys into a profile call their end.
_ENDS = ("x_security_token_expires", "expiration")

RENEW = "renew them, then run the same command again: it continues where it stopped"


@dataclass(frozen=True)
class Key:
    """What may be known of the credentials in use; never the credentials.

    mark    of the access key id, by which it is recognised
    method  where botocore found them
    ends    when they end; None where they do not say
    renews  whether botocore renews them by itself
    """

    mark: str
    method: str
    ends: datetime | None
    renews: bool


@dataclass(frozen=True)
class Aws:
    """How AWS is asked. Holds no client.

    region    every request goes there
    bucket    the project's own
    endpoint  another server that speaks the protocols of AWS
    retries   instead of what botocore is told for each service
    """

    region: str
    bucket: str
    endpoint: str = ""
    retries: int | None = None

    @classmethod
    def configured(cls, environment: Mapping[str, str] = os.environ) -> "Aws":
        """As configs/cluster.yaml and the environment say (AWS_REGION, S3_BUCKET, AWS_ENDPOINT_URL)."""
        cluster = load_cluster(environment=environment)
        return cls(cluster.region, cluster.bucket, environment.get("AWS_ENDPOINT_URL", ""))

    def call(self, service: str, operation: str, **args: Any) -> dict[str, Any]:
        """One answer; `operation` is spelled as a method of the client (``describe_step``).

        Raises CredentialsExpired, CloudRefused (its `code` is AWS's), CloudUnreachable, CloudError.
        """
        if operation.startswith("head_"):
            raise ValueError(f"{operation}: a refused HEAD has no body that says why; ask with a GET")
        with translated(_asked(service, operation, args), self.region):
            client = self._client(service)
            if client.can_paginate(operation):
                raise ValueError(f"{operation} gives one page of many: use pages()")
            answer: dict[str, Any] = getattr(client, operation)(**args)
            return answer

    def pages(self, service: str, operation: str, **args: Any) -> Iterator[dict[str, Any]]:
        """Every page of a listing, in order. Raises as `call` does, from the page that failed."""
        with translated(_asked(service, operation, args), self.region):
            yield from self._client(service).get_paginator(operation).paginate(**args)

    def body(self, bucket: str, key: str, **args: Any) -> tuple[bytes, dict[str, Any]]:
        """An object's bytes and the rest of the answer; asked for again where the body breaks off.

        Length and checksum (where S3 sends one) are compared by botocore. Raises as `call` does.
        """
        asked = _asked("s3", "get_object", {"Bucket": bucket, "Key": key})
        patience = wait_random_exponential(multiplier=0.2, max=10)
        for attempt in Retrying(
            stop=stop_after_attempt(BODY_TRIES),
            wait=patience,
            retry=retry_if_exception_type(_BrokenOff),
            reraise=True,
        ):
            with attempt:
                answer = self.call("s3", "get_object", Bucket=bucket, Key=key, **args)
                try:
                    with translated(asked, self.region):
                        return answer.pop("Body").read(), answer
                except CloudUnreachable as error:
                    raise _BrokenOff(*error.args) from error
        raise AssertionError  # pragma: no cover - Retrying returns or raises

    def upload(self, bucket: str, key: str, data: bytes, *, part_bytes: int, **extra: Any) -> None:
        """An object in parts, several at once; on failure the parts are given up. Raises as `call` does."""
        with translated(_asked("s3", "upload", {"Bucket": bucket, "Key": key}), self.region):
            client = self._client("s3")
            from boto3.s3.transfer import TransferConfig

            plan = TransferConfig(multipart_threshold=part_bytes, multipart_chunksize=part_bytes)
            client.upload_fileobj(io.BytesIO(data), bucket, key, ExtraArgs=extra, Config=plan)

    def key(self) -> Key:
        """What is known of the credentials in use; CredentialsExpired where there are none."""
        asked = "looking for AWS credentials"
        with translated(asked, self.region):
            with _ONE_AT_A_TIME:
                session = _session(os.getpid())
            found = session.get_credentials()
            if found is None:
                raise CredentialsExpired(f"{asked}: none were found: {RENEW}")
            held = found.get_frozen_credentials()
            ends = getattr(found, "_expiry_time", None)  # botocore tells nobody else
            if ends is None and found.method == "shared-credentials-file":
                from botocore.session import get_session

                ends = _written_end(get_session().get_scoped_config())  # boto3 does not show the profile
        mark = hashlib.sha256(f"access key id {held.access_key}".encode()).hexdigest()[:16]
        return Key(mark, found.method, ends, found.method in _RENEWED)

    def _client(self, service: str) -> Any:
        with _ONE_AT_A_TIME:  # making a client from a session is not safe in two threads, using one is
            return _made(self, service, os.getpid())


class _BrokenOff(CloudUnreachable):
    """A body that ended before its end."""


_ONE_AT_A_TIME = threading.Lock()


@cache
def _session(process: int) -> Any:  # noqa: ARG001 a forked child makes its own
    try:
        import boto3  # never at the top: a closure would carry the module, or its absence, to workers
    except ImportError as error:
        raise CloudError("s3:// and EMR need boto3: pip install 'darkhaloscope[aws]'") from error
    return boto3.session.Session()


@cache
def _made(aws: Aws, service: str, process: int) -> Any:
    from botocore.config import Config

    retries = RETRIES.get(service, _RETRIES) if aws.retries is None else aws.retries
    config = Config(
        region_name=aws.region,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS.get(service, _READ_SECONDS),
        retries={"mode": "adaptive", "max_attempts": retries},
        max_pool_connections=AT_ONCE,
    )
    client = _session(process).client(
        service, region_name=aws.region, endpoint_url=aws.endpoint or None, config=config
    )
    client.meta.events.register("before-call.s3", _stay_in_region)
    return client


def _stay_in_region(params: dict[str, Any], **_: Any) -> None:
    """Botocore would follow a bucket into another region without a word, and that traffic costs."""
    params.get("context", {}).setdefault("s3_redirect", {})["redirected"] = True


def forget_clients() -> None:
    """Drop this process's clients, so that the next call looks for credentials anew."""
    with _ONE_AT_A_TIME:
        _made.cache_clear()
        _session.cache_clear()


@contextmanager
def translated(asked: str, region: str) -> Iterator[None]:
    """Errors of boto3 and botocore as ours. Errors of anybody else pass."""
    try:
        yield
    except CredentialsExpired:
        raise
    except Exception as error:
        ours = _ours(error, asked, region)
        if ours is None:
            raise
        if isinstance(ours, CredentialsExpired):
            forget_clients()
        raise ours from error


def _ours(error: Exception, asked: str, region: str) -> CloudError | None:
    try:
        from botocore import exceptions
    except ImportError:
        return None
    said = " ".join(str(error).split()) or type(error).__name__

    def is_one_of(names: tuple[str, ...]) -> bool:  # older releases lack the newer names
        return isinstance(error, tuple(getattr(exceptions, n) for n in names if hasattr(exceptions, n)))

    ours: CloudError | None = None
    if isinstance(error, exceptions.ClientError):
        ours = _refusal(error.response, asked, region)
    elif isinstance(error, RuntimeError) and "still expired" in said:  # AWS_CREDENTIAL_EXPIRATION has passed
        ours = CredentialsExpired(f"{asked}: the AWS credentials have expired: {RENEW}")
    elif is_one_of(_NOTHING_TO_SIGN_WITH):
        ours = CredentialsExpired(f"{asked}: no valid AWS credentials ({said}): {RENEW}")
    elif is_one_of(_NO_WHOLE_ANSWER):
        ours = CloudUnreachable(
            f"{asked}: no whole answer after all tries: {said} (run it again: it continues)"
        )
    elif isinstance(error, exceptions.BotoCoreError):
        ours = CloudError(f"{asked}: {said}")
    return ours


def _refusal(answer: Mapping[str, Any], asked: str, region: str) -> CloudError:
    """An error that AWS sent, by its code."""
    error, metadata = answer.get("Error", {}), answer.get("ResponseMetadata", {})
    code, message = str(error.get("Code", "unknown")), str(error.get("Message", "")) or "refused"
    if code in _INVALID or (code in _DENIED and "expired" in message.lower()):
        problem = "the AWS credentials have expired or are not valid"
        return CredentialsExpired(f"{asked}: {problem} [{code}]: {RENEW}")
    for codes, problem, remedy in _REMEDIES:
        if code in codes:
            right = metadata.get("HTTPHeaders", {}).get("x-amz-bucket-region") or error.get("Region")
            told = problem.format(message=message, region=region, right=right or "another region")
            return CloudRefused(asked, code, told, remedy)
    if metadata.get("HTTPStatusCode", 0) >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return CloudRefused(asked, code, "AWS failed, and still did after all tries", "run it again later")
    return CloudRefused(asked, code, message)


def _written_end(profile: Mapping[str, Any]) -> datetime | None:
    for name in _ENDS:
        try:
            end = datetime.fromisoformat(str(profile.get(name, "")))
        except ValueError:  # not written, or not as a time: then it is not known
            continue
        return end if end.tzinfo else end.replace(tzinfo=UTC)
    return None


def _asked(service: str, operation: str, args: Mapping[str, Any]) -> str:
    place = next((str(args[name]) for name in ("ClusterId", "JobFlowId") if name in args), "")
    if "Bucket" in args:
        place = f"s3://{args['Bucket']}/{args.get('Key', args.get('Prefix', ''))}".rstrip("/")
    return f"{service} {operation} {place}".rstrip()
