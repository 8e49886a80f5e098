"""The store's filesystem on S3: what `contracts.store.Files` promises, below a bucket's prefix.

What a finished write put there, every later read and listing sees. `create` is a conditional put, which S3
decides in one step: of many writers one is first. Answers get lost after their effect; each attempt therefore
bears a mark, by which a writer that asks twice recognises its own success.
"""

import errno
import io
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from darkhaloscope.aws.clients import AT_ONCE, Aws
from darkhaloscope.contracts.errors import CloudRefused

PART_BYTES = 32 << 20
"""Larger objects are uploaded in parts of this size, several at once."""
TAIL_BYTES = 64 << 10
"""Read when an object is opened: holds the footer of a Parquet file, or the whole of a small one."""
AHEAD_BYTES = 1 << 20
"""A small read takes this much: neighbouring columns come in one request, those not asked for in none."""
_CONFLICT_TRIES = 10
_MARK = "attempt"


@dataclass(frozen=True)
class S3Files:
    """Files below ``s3://bucket/prefix``. Picklable; clients are each process's own.

    Everything raises CredentialsExpired and the rest of `CloudError`; FileNotFoundError where the protocol
    says so, and never for a bucket that is not there.
    """

    at_once: ClassVar[int] = AT_ONCE

    aws: Aws
    bucket: str
    prefix: str

    def read(self, path: str) -> bytes:
        """The whole content, with its checksum compared."""
        with _absence_as_ours(self._address(path)):
            return self.aws.body(self.bucket, self._key(path))[0]

    def open(self, path: str) -> io.BufferedReader:
        """A seekable file that asks for the ranges that are read."""
        with _absence_as_ours(self._address(path)):
            return io.BufferedReader(_Object(self, self._key(path)), AHEAD_BYTES)

    def write(self, path: str, data: bytes) -> None:
        """One put, or parts that appear together when the last has arrived."""
        key = self._key(path)
        if len(data) < PART_BYTES:
            self.aws.call("s3", "put_object", Bucket=self.bucket, Key=key, Body=data)
            return
        mark = uuid.uuid4().hex
        try:
            self.aws.upload(self.bucket, key, data, part_bytes=PART_BYTES, Metadata={_MARK: mark})
        except CloudRefused as error:
            # Completing asked again after a lost answer: the upload is gone because it was completed.
            if error.code != "NoSuchUpload" or self._mark(key) != mark:
                raise

    def create(self, path: str, data: bytes) -> bool:
        """A put on the condition that there is nothing; False when somebody else was first."""
        key, mark = self._key(path), uuid.uuid4().hex
        for attempt in Retrying(
            stop=stop_after_attempt(_CONFLICT_TRIES),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            retry=retry_if_exception(_is_undecided),
            reraise=True,
        ):
            with attempt:
                try:
                    self.aws.call(
                        "s3",
                        "put_object",
                        Bucket=self.bucket,
                        Key=key,
                        Body=data,
                        IfNoneMatch="*",
                        Metadata={_MARK: mark},
                    )
                except CloudRefused as error:
                    if error.code != "PreconditionFailed":
                        raise
                    return self._mark(key) == mark
        return True

    def names(self, path: str) -> list[str]:
        """Names directly inside a folder, from every page of its listing."""
        folder = self._key(path).rstrip("/") + "/"
        found: set[str] = set()
        for page in self.aws.pages("s3", "list_objects_v2", Bucket=self.bucket, Prefix=folder, Delimiter="/"):
            found |= {entry["Key"] for entry in page.get("Contents", ())}
            found |= {entry["Prefix"] for entry in page.get("CommonPrefixes", ())}
        names = {key.removeprefix(folder).rstrip("/") for key in found}
        return sorted(names - {""})  # an empty name is the marker that consoles leave for a folder

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{path}"

    def _address(self, path: str) -> str:
        return f"s3://{self.bucket}/{self._key(path)}"

    def _mark(self, key: str) -> str:
        """Which attempt wrote what is there."""
        _, answer = self.aws.body(self.bucket, key)
        return str(answer.get("Metadata", {}).get(_MARK, ""))


class _Object(io.RawIOBase):
    """An object as a file. Its end is read at once; the rest when it is asked for, from the same version."""

    def __init__(self, files: S3Files, key: str) -> None:
        super().__init__()
        self._files, self._name, self._at = files, key, 0
        self._tail, answer = self._ending()
        self._version: dict[str, str] = {"IfMatch": answer["ETag"]} if "ETag" in answer else {}
        whole = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.get("ContentRange", ""))
        self._size = int(whole[1]) if whole else len(self._tail)

    def _ending(self) -> tuple[bytes, dict[str, Any]]:
        try:
            return self._files.aws.body(self._files.bucket, self._name, Range=f"bytes=-{TAIL_BYTES}")
        except CloudRefused as error:
            if error.code != "InvalidRange":
                raise
            return b"", {}  # nothing has no last bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"position {start + offset} lies before the start")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._size)
        if end <= self._at:
            return 0
        tail_start = self._size - len(self._tail)
        if self._at >= tail_start:
            data = self._tail[self._at - tail_start : end - tail_start]
        else:
            span = f"bytes={self._at}-{end - 1}"
            data, _ = self._files.aws.body(self._files.bucket, self._name, Range=span, **self._version)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def _is_undecided(error: BaseException) -> bool:
    """Whether S3 asks to try again because another conditional put of the same key is under way."""
    return isinstance(error, CloudRefused) and error.code in {"ConditionalRequestConflict", "409"}


@contextmanager
def _absence_as_ours(address: str) -> Iterator[None]:
    try:
        yield
    except CloudRefused as error:
        if error.code != "NoSuchKey":
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address) from error
