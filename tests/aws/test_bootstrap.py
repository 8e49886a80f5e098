"""The bootstrap of a node, run as a node runs it: a clean environment, its own interpreter, no network."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.aws.packed import closure, interpreter, pack, pack_installed, pack_project

from darkhaloscope import __version__
from darkhaloscope.aws.wheels import SUMS, WheelSet, bootstrap_script

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(interpreter()).name.removeprefix("python")
NEEDED = {"pip", *closure(["typer", "rich"])}
"""What `dhs --version` imports."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The project whole, said to need no more than its command line does."""
    folder = tmp_path_factory.mktemp("wheels")
    pack_project(folder, requirements=["typer", "rich"])
    for name in NEEDED:
        pack_installed(folder, name)
    return folder


@pytest.fixture
def code(wheels, tmp_path):
    """The set as it lies in the bucket."""
    folder = tmp_path / "code"
    shutil.copytree(wheels, folder)
    return folder, lay(folder)


def lay(folder):
    """Checksums and bootstrap beside the wheels, as an upload puts them; the checksum of the checksums."""
    made = WheelSet.read(folder)
    (folder / "bootstrap.sh").write_bytes(bootstrap_script())
    (folder / SUMS).write_text(made.sums)
    return made.sums_sha256


def bootstrap(tmp_path, folder, sums, *more, python=PYTHON, path=None, **environment):
    clean = {
        "PATH": path or f"{Path(interpreter()).parent}:/usr/bin:/bin",
        "DHS_HOME": str(tmp_path / "node"),
    }
    words = [f"file://{folder}", sums, python, *more]
    return subprocess.run(
        ["bash", str(folder / "bootstrap.sh"), *words],
        env=clean | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_shellcheck_finds_nothing():
    scripts = [ROOT / "src/darkhaloscope/aws/bootstrap.sh", ROOT / "scripts/wheels"]
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    found = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
    seen = subprocess.run(
        [shellcheck, "-"], input="#!/bin/bash\ncd $1\n", capture_output=True, text=True, check=False
    )
    assert "SC2086" in seen.stdout  # it does find something where there is something


def test_a_node_gets_the_wheel_set_and_nothing_else(code, tmp_path):
    folder, sums = code
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a network.onnx").write_bytes(b"weights")
    done = bootstrap(tmp_path, folder, sums, f"file://{tmp_path / 'files'}")
    assert done.returncode == 0, done.stderr
    node = tmp_path / "node"
    assert (node / "files" / "a network.onnx").read_bytes() == b"weights"
    python = node / "venv/bin/python"
    # What spark-submit is handed, from a folder that has nothing to do with it.
    said = subprocess.run(
        [python, node / "dhs.py", "--version"], cwd="/", capture_output=True, text=True, check=True
    )
    assert said.stdout == f"dhs {__version__}\n"
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    names = {line.partition("==")[0].lower().replace("_", "-") for line in listed.stdout.split()}
    assert names == {"darkhaloscope", *NEEDED}
    assert (node / "installed").read_text().strip() == sums

    before = (node / "venv").stat().st_mtime_ns
    again = bootstrap(tmp_path, folder, sums)
    assert again.returncode == 0, again.stderr
    assert "installed already" in again.stdout
    assert (node / "venv").stat().st_mtime_ns == before


def refused(done, tmp_path):
    assert done.returncode == 1
    assert not (tmp_path / "node" / "installed").exists()
    return done.stderr


def test_a_changed_wheel_is_refused(code, tmp_path):
    folder, sums = code
    wheel = next(folder.glob("rich-*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    assert "is not the one that was uploaded" in refused(bootstrap(tmp_path, folder, sums), tmp_path)
    assert not (tmp_path / "node" / "venv").exists()


def test_changed_checksums_are_refused(code, tmp_path):
    """Whoever can change a wheel can change the file beside it: the cluster is told the sum of the sums."""
    folder, sums = code
    wheel = next(folder.glob("rich-*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    lay(folder)
    assert "SHA256SUMS is not the one that was uploaded" in refused(
        bootstrap(tmp_path, folder, sums), tmp_path
    )


def test_a_file_that_nobody_named_is_refused(code, tmp_path):
    folder, sums = code
    metadata = "Metadata-Version: 2.1\nName: stray\nVersion: 1.0\n"
    pack(folder, "stray", "1.0", tag="py3-none-any", files={"stray.py": b""}, metadata=metadata)
    assert "does not name: stray-1.0" in refused(bootstrap(tmp_path, folder, sums), tmp_path)


def test_an_incomplete_set_is_refused(code, tmp_path):
    folder, _ = code
    next(folder.glob("mdurl-*.whl")).unlink()
    done = bootstrap(tmp_path, folder, lay(folder))
    assert "not complete" in refused(done, tmp_path)
    assert "mdurl" in done.stdout


def test_a_node_without_the_interpreter_says_so(code, tmp_path):
    folder, sums = code
    assert "no python3.99" in refused(bootstrap(tmp_path, folder, sums, python="3.99"), tmp_path)


def test_the_interpreter_of_the_set_comes_first_and_code_that_does_not_start_is_refused(code, tmp_path):
    """An archive laid out as the standalone builds of CPython are; this one leads to the tests' own."""
    folder, _ = code
    layout = tmp_path / "made" / "python" / "bin"
    layout.mkdir(parents=True)
    real = Path(os.path.realpath(interpreter()))
    (layout / f"python{PYTHON}").write_text(f'#!/bin/sh\necho archive >&2\nexec "{real}" "$@"\n')
    (layout / f"python{PYTHON}").chmod(0o755)
    subprocess.run(
        ["tar", "-czf", folder / "cpython-3.test.tar.gz", "-C", layout.parents[1], "python"], check=True
    )
    next(folder.glob("darkhaloscope-*.whl")).unlink()
    pack_project(
        folder, changed={"darkhaloscope/cli.py": b"raise ImportError('stale')\n"}, requirements=["typer"]
    )
    said = refused(bootstrap(tmp_path, folder, lay(folder), path="/usr/bin:/bin"), tmp_path)
    assert "archive" in said
    assert "what was installed does not start" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "usage"),
        (("file:///x", "0" * 64), "usage"),
        (("file:///x", "0" * 63, "3.11"), "no SHA-256"),
        (("file:///x", "0" * 64, "3.11; rm -rf /"), "no version"),
        (("https://x", "0" * 64, "3.11"), "neither s3:// nor file://"),
        (("file:///nowhere", "0" * 64, "3.11"), "cannot be copied"),
    ],
)
def test_what_it_cannot_use_is_refused(words, said, tmp_path):
    script = tmp_path / "bootstrap.sh"
    script.write_bytes(bootstrap_script())
    done = subprocess.run(
        ["bash", script, *words], env={"PATH": "/usr/bin:/bin", "DHS_HOME": str(tmp_path / "node")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said in refused(done, tmp_path)


def test_sums_are_what_sha256sum_says(wheels):
    for line in WheelSet.read(wheels).sums.splitlines():
        digest, name = line.split("  ", 1)
        data = bootstrap_script() if name == "bootstrap.sh" else (wheels / name).read_bytes()
        assert digest == hashlib.sha256(data).hexdigest()
