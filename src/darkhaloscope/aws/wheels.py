"""The wheel set: what runs on the cluster, as a folder of wheels whose name is its content.

``scripts/wheels FOLDER`` makes one. It is uploaded whole below the code prefix with its checksums, and
`bootstrap.sh` installs it, and nothing else, on each node. Everything that can be wrong with it can be seen
here, before a machine is paid for.
"""

import ast
import hashlib
import subprocess
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from functools import cached_property
from importlib import resources
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from darkhaloscope.aws.s3 import S3Files
from darkhaloscope.contracts.errors import DataError

PROJECT = "darkhaloscope"
SUMS, BOOTSTRAP = "SHA256SUMS", "bootstrap.sh"
UPLOADS = 8
"""Files that are sent at once."""
_OLD_NAMES = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
"""What manylinux_2_N was called before it was called so."""


@dataclass(frozen=True)
class WheelSet:
    """A folder of wheels; an archive of an interpreter (``cpython-….tar.gz``) may lie beside them."""

    folder: Path

    @classmethod
    def read(cls, folder: Path) -> "WheelSet":
        """DataError where there is no wheel of the project, or more than one."""
        made = cls(folder)
        if not folder.is_dir():
            raise DataError(str(folder), "there is no wheel set", f"make it: scripts/wheels {folder}")
        ours = [path.name for path in made.wheels if canonicalize_name(path.name.split("-")[0]) == PROJECT]
        if len(ours) != 1:
            found = ", ".join(ours) or "none"
            raise DataError(
                str(folder),
                f"holds not one wheel of {PROJECT}: {found}",
                f"make it anew: scripts/wheels {folder}",
            )
        return made

    @property
    def wheels(self) -> list[Path]:
        """All wheels, by name."""
        return sorted(self.folder.glob("*.whl"))

    @property
    def project(self) -> Path:
        """The project's own wheel."""
        return next(path for path in self.wheels if canonicalize_name(path.name.split("-")[0]) == PROJECT)

    @cached_property
    def files(self) -> dict[str, bytes | Path]:
        """What is uploaded beside the checksums, by name: wheels, an interpreter, the bootstrap."""
        found: dict[str, bytes | Path] = {path.name: path for path in self.wheels}
        found |= {path.name: path for path in sorted(self.folder.glob("cpython-*.tar.gz"))}
        found[BOOTSTRAP] = bootstrap_script()
        return dict(sorted(found.items()))

    @cached_property
    def sums(self) -> str:
        """A line for each file, as ``sha256sum --check`` reads them."""
        return "".join(f"{_sha256(content)}  {name}\n" for name, content in self.files.items())

    @property
    def sums_sha256(self) -> str:
        """Of the checksums: what the bootstrap is told, so that nothing in the bucket is taken on trust."""
        return hashlib.sha256(self.sums.encode()).hexdigest()

    @property
    def identity(self) -> str:
        """Name of the set: same content, same name."""
        return self.sums_sha256[:16]

    def stale(self) -> list[str]:
        """Files of the project that differ between its wheel and the code that runs here."""
        here = Path(str(resources.files(PROJECT)))
        running = {
            path.relative_to(here.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in here.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        packed = {
            name: hashlib.sha256(data).hexdigest()
            for name, data in _members(self.project)
            if name.startswith(f"{PROJECT}/")
        }
        return sorted(
            name for name in running.keys() | packed.keys() if running.get(name) != packed.get(name)
        )

    def broken(self, python: str) -> list[str]:
        """What does not even parse, as the cluster's Python reads it: our modules and the bootstrap."""
        minor = (3, int(python.rpartition(".")[2]))
        problems = []
        for name, data in _members(self.project):
            if name.endswith(".py"):
                try:
                    ast.parse(data, name, feature_version=minor)
                except (SyntaxError, ValueError) as error:
                    problems.append(f"{name}: {error}")
        read = subprocess.run(["bash", "-n"], input=bootstrap_script(), capture_output=True, check=False)  # noqa: S607 - any bash
        if read.returncode:
            problems.append(f"{BOOTSTRAP}: {read.stderr.decode().strip()}")
        return problems

    def misfits(self, python: str, glibc: str, extras: tuple[str, ...]) -> list[str]:
        """Why the set would not import on a cluster: wheels for other machines, requirements it lacks."""
        tags = set(_tags(python, glibc))
        problems = [
            f"{path.name} is not for Python {python} on x86_64 with glibc {glibc}"
            for path in self.wheels
            if not tags & parse_wheel_filename(path.name)[3]
        ]
        held: dict[str, tuple[Version, Message]] = {}
        for path in self.wheels:
            name, version, _, _ = parse_wheel_filename(path.name)
            if name in held:
                problems.append(f"{name} is there twice")
            held[name] = version, _metadata(path)
        return problems + _unmet(held, python, extras)

    def missing(self, there: S3Files) -> list[str]:
        """Files that are not in the bucket, or are there with another length or under other checksums."""
        try:
            same = there.read(SUMS).decode() == self.sums
        except FileNotFoundError:
            same = False
        prefix = f"{there.prefix}/"
        pages = there.aws.pages("s3", "list_objects_v2", Bucket=there.bucket, Prefix=prefix)
        lengths = {
            e["Key"].removeprefix(prefix): e["Size"] for page in pages for e in page.get("Contents", ())
        }
        absent = [name for name, content in self.files.items() if lengths.get(name) != _length(content)]
        return absent + ([] if same else [SUMS])

    def upload(self, there: S3Files) -> list[str]:
        """Put what is missing into the bucket, the checksums last; the names of what was put."""
        put = self.missing(there)
        with ThreadPoolExecutor(UPLOADS) as pool:
            list(pool.map(lambda name: there.write(name, _bytes(self.files[name])), filter(SUMS.__ne__, put)))
        if put:
            there.write(SUMS, self.sums.encode())
        return put


def bootstrap_script() -> bytes:
    """What each node runs first."""
    return resources.files("darkhaloscope.aws").joinpath(BOOTSTRAP).read_bytes()


def _bytes(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _length(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _sha256(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _members(wheel: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.endswith("/"):
                yield name, archive.read(name)


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1)
        return BytesParser().parsebytes(archive.read(name))


def _tags(python: str, glibc: str) -> Iterator[Tag]:
    minor = (3, int(python.rpartition(".")[2]))
    newest = int(glibc.rpartition(".")[2])
    platforms = [f"manylinux_2_{n}_x86_64" for n in range(newest, 4, -1)]
    platforms += [f"{name}_x86_64" for n, name in _OLD_NAMES.items() if n <= newest]
    platforms.append("linux_x86_64")
    interpreter = f"cp{minor[0]}{minor[1]}"
    yield from cpython_tags(minor, [interpreter], platforms)
    yield from compatible_tags(minor, interpreter, platforms)


def _unmet(held: dict[str, tuple[Version, Message]], python: str, extras: tuple[str, ...]) -> list[str]:
    """Requirements of the project, and of what it requires, that no wheel of the set meets."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    problems, seen = [], set()
    waiting: list[tuple[str, str]] = [(PROJECT, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen or name not in held:
            continue
        seen.add((name, extra))
        metadata = held[name][1]
        if extra and name == PROJECT and extra not in (metadata.get_all("Provides-Extra") or []):
            problems.append(f"{PROJECT} has no extra '{extra}'")
        for text in metadata.get_all("Requires-Dist") or []:
            wanted = Requirement(text)
            if wanted.marker and not wanted.marker.evaluate({**machine, "extra": extra}):
                continue
            found = canonicalize_name(wanted.name)
            if found not in held:
                problems.append(f"{name} needs {wanted}, which is not in the set")
            elif not wanted.specifier.contains(held[found][0], prereleases=True):
                problems.append(f"{name} needs {wanted}, the set holds {held[found][0]}")
            waiting += [(found, part) for part in ("", *wanted.extras)]
    return problems
