"""An address is a word in a JOB.json or on the command line; here it becomes files.

A plain path or ``file://…`` is a folder of this machine, which every worker must see under the same path.
``s3://bucket/prefix`` (``s3a://`` means the same) lies on S3. This is the only place that tells one kind of
address from another.
"""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from darkhaloscope.contracts.errors import ConfigError, StoreError
from darkhaloscope.contracts.store import Dataset, Files, LocalFiles, Writer
from darkhaloscope.contracts.tables import Table

if TYPE_CHECKING:
    from darkhaloscope.aws.clients import Aws

ALLOWED = "a folder, file://FOLDER, or s3://bucket/prefix"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)", re.DOTALL)  # one letter alone is a drive
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def files_at(address: str) -> Files:
    """The files below an address. ConfigError for a kind of address that is not known."""
    place = s3_place(address)
    if place is None:
        # Workers may run in another folder than the driver.
        return LocalFiles(str(Path(address.removeprefix("file://")).absolute()))
    from darkhaloscope.aws.clients import Aws
    from darkhaloscope.aws.s3 import S3Files

    aws = Aws.configured()
    _say_time_left(aws)
    return S3Files(aws, *place)


def dataset_at(address: str) -> Dataset:
    """Open a finished dataset. StoreError where there is none, CloudError."""
    files = files_at(address)
    if isinstance(files, LocalFiles) and not Path(files.root).exists():
        raise StoreError(address, "does not exist", "check the path")
    return Dataset(files, address)


def writer_at(address: str, table: Table) -> Writer:
    """A writer of `table`. StoreError where there is a file in its place, CloudError."""
    files = files_at(address)
    if isinstance(files, LocalFiles) and Path(files.root).is_file():
        raise StoreError(address, "is a file, not a folder", "choose another output folder")
    return Writer(files, address, table)


def text_at(address: str) -> str:
    """A small text file: a JOB.json. ConfigError where it cannot be read, CloudError."""
    folder, slash, name = address.rpartition("/")
    try:
        return files_at(folder + slash or ".").read(name).decode()
    except FileNotFoundError as error:
        raise ConfigError(address, "", "no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(address, "", f"cannot be read: {error}") from error


def s3_place(address: str) -> tuple[str, str] | None:
    """Bucket and prefix of an address on S3; None for a folder of this machine; ConfigError otherwise."""
    parts = _SCHEME.fullmatch(address)
    if parts is None or parts[1] == "file":
        return None
    scheme, slashes, rest = parts[1].lower(), parts[2], parts[3]
    if scheme not in {"s3", "s3a"}:
        raise ConfigError(address, "", f"'{scheme}://' is not a kind of address", ALLOWED)
    if "@" in rest.split("/")[0]:  # not repeated: it may be a secret
        raise ConfigError(f"{scheme}://…", "", "holds credentials", "credentials as AWS tools find them")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.rstrip("/")
    if len(slashes) != len("//") or _BUCKET.fullmatch(bucket) is None:
        raise ConfigError(address, "", "names no bucket", ALLOWED)
    if not prefix:
        raise ConfigError(address, "", "names a whole bucket", "a prefix in it: s3://bucket/prefix")
    if "?" in prefix or any(part in {"", ".", ".."} for part in prefix.split("/")):
        problem = "is no prefix: one of its parts is empty, '.' or '..', or holds '?'"
        raise ConfigError(address, "", problem, ALLOWED)
    return bucket, prefix


@cache
def _say_time_left(aws: "Aws") -> None:
    """Once in each process, before anything long begins."""
    from darkhaloscope.aws.credentials import CredentialClock

    sentence = CredentialClock.of(aws).sentence()
    Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print(sentence)
