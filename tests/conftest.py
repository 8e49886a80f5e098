"""Fixtures that every room uses."""

from pathlib import Path

import pytest

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real pixels beside the checkout; the test is skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("real data (../shared/data) are not beside this checkout")
    return REAL_DATA
