"""The command as a user types it: in this process for many calls, as a process where that matters."""

import contextlib
import io
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import pytest

from darkhaloscope.cli import main

DHS = str(Path(sys.executable).with_name("dhs"))
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TINY = (
    "survey.bricks=24",
    "survey.targets_per_brick=4",
    *(f"survey.lookalikes.{name}=2" for name in ("ring", "spiral", "merger", "spike", "anchors")),
    "survey.lookalikes.bricks=4",
    "training.epochs=2",
    "training.num_threads=1",
)


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def last(self):
        """The last line of stderr."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


def sets(values):
    return [word for value in values for word in ("--set", value)]


@pytest.fixture(scope="session")
def tiny():
    """Settings of the smallest run that has every stage, as words of the command."""
    return sets(TINY)


@pytest.fixture(scope="session")
def start():
    """Start `dhs` as a process of its own."""

    def process(*words, cwd=None, stderr=subprocess.PIPE):
        return subprocess.Popen(
            [DHS, *map(str, words)], cwd=cwd, env=os.environ | ONE_THREAD,
            stdout=subprocess.PIPE, stderr=stderr, text=True,
        )  # fmt: skip

    return process


@pytest.fixture(scope="session")
def typed(start):
    """Run `dhs` as a process of its own, to its end."""

    def run(*words, cwd=None):
        process = start(*words, cwd=cwd)
        out, err = process.communicate(timeout=240)
        return Answer(process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def dhs():
    """Call the entry point of `dhs` in this process; what it lets through is a traceback in `err`."""

    def call(*words):
        out, err, before = io.StringIO(), io.StringIO(), sys.argv
        sys.argv = ["dhs", *map(str, words)]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except Exception:  # noqa: BLE001 - what a user would see as a traceback
            err.write(traceback.format_exc())
            code = 1
        finally:
            sys.argv = before
        return Answer(code, out.getvalue(), err.getvalue())

    return call
