"""Wheels made of what is installed here, so that a wheel set can be had without a network."""

import base64
import hashlib
import shutil
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from darkhaloscope import __version__
from darkhaloscope.aws.cluster import load_cluster

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "darkhaloscope"


FEW = ["numpy>=2.0", "pydantic>=2.6", 'boto3>=1.36; extra == "aws"']


def pack(folder, name, version, *, tag, files, metadata):
    """A wheel of `files` (name in the archive -> bytes)."""
    info = f"{name}-{version}.dist-info"
    wheel = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    files = {**files, f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": wheel.encode()}
    lines = []
    for inner, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{inner},sha256={digest},{len(data)}")
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, data in files.items():
            archive.writestr(inner, data)
    return path


def pack_project(folder, requirements, changed=None):
    """This checkout's own wheel, said to need `requirements`. `changed`: other content of some files."""
    files = {
        path.relative_to(SOURCE.parent).as_posix(): path.read_bytes()
        for path in sorted(SOURCE.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = ["Metadata-Version: 2.1", "Name: darkhaloscope", f"Version: {__version__}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras] + [
        f"Requires-Dist: {text}" for text in requirements
    ]
    files, metadata = files | (changed or {}), "\n".join([*lines, ""])
    return pack(folder, "darkhaloscope", __version__, tag="py3-none-any", files=files, metadata=metadata)


def pack_installed(folder, name, *, tag="py3-none-any", content=True):
    """An installed distribution as a wheel; without `content`, its metadata alone."""
    found = distribution(name)
    files = {}
    for path in (found.files or ()) if content else ():
        if ".." not in path.parts and "dist-info" not in str(path.parts[0]) and path.suffix != ".pyc":
            files[path.as_posix()] = found.locate_file(path).read_bytes()
    plain = canonicalize_name(name).replace("-", "_")
    metadata = found.read_text("METADATA")
    return pack(folder, plain, found.version, tag=tag, files=files, metadata=metadata)


def closure(wanted):
    """Names of what requirements need, and what those need, as installed here."""
    seen, waiting = set(), [Requirement(text.partition("; extra")[0]) for text in wanted]
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name not in seen and name != "darkhaloscope":
            seen.add(name)
            inner = [Requirement(text) for text in distribution(name).requires or ()]
            waiting += [r for r in inner if r.marker is None or r.marker.evaluate({"extra": ""})]
    return sorted(seen)


def pack_metadata(folder):
    """A wheel set whose project is whole and asks for a part of what it needs, each as its metadata alone.

    That is all that preflight reads of it; fewer wheels are fewer uploads in each test.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pack_project(folder, FEW)
    minor = f"cp{load_cluster(environment={}).python.replace('.', '')}"
    for name in closure(FEW):
        pack_installed(folder, name, tag=f"{minor}-{minor}-manylinux_2_17_x86_64", content=False)
    return folder


def interpreter():
    """A Python that a node could have: the one that runs the tests, by its own name."""
    return shutil.which(f"python{sys.version_info.major}.{sys.version_info.minor}") or sys.executable
