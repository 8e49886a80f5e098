"""The toy problem, by path: test folders are not packages."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def toy():
    path = Path(__file__).with_name("toy.py")
    spec = importlib.util.spec_from_file_location("toy_pairs", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_pairs"] = module
    spec.loader.exec_module(module)
    return module
