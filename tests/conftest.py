"""Fixtures that every room uses."""

import os
from pathlib import Path

import pytest

from darkhaloscope.aws.clients import forget_clients

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real pixels beside the checkout; the test is skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("real data (../shared/data) are not beside this checkout")
    return REAL_DATA


@pytest.fixture(scope="session")
def _cloud():
    from tests.aws.proxy import Cloud

    cloud = Cloud()
    yield cloud
    cloud.close()


@pytest.fixture
def cloud(_cloud, monkeypatch, tmp_path):
    """AWS on loopback behind a proxy that can misbehave; empty, with keys in the environment."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name == "S3_BUCKET":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIATESTTESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "first")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", _cloud.url)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    given = _keys()
    _cloud.fresh()
    yield _cloud
    if _keys() != given:  # clients hold the keys that they were made with
        forget_clients()


def _keys():
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
