"""Time left: what credentials say themselves, and what is assumed and said where they are silent."""

import json
import math
from datetime import UTC, datetime, timedelta

import pytest

from darkhaloscope.aws.clients import forget_clients
from darkhaloscope.aws.credentials import CredentialClock
from darkhaloscope.contracts.errors import CredentialsExpired

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def _later(hours):
    return NOW + timedelta(hours=hours)


def _of(cloud, hours=0.0, **given):
    return CredentialClock.of(cloud.aws, now=_later(hours), **given)


def test_silent_credentials_are_taken_to_last_a_day_from_their_first_sight_and_that_is_said(cloud):
    assert _of(cloud).left(NOW) == pytest.approx(24.0)
    again = _of(cloud, hours=5)
    assert again.left(_later(5)) == pytest.approx(19.0)
    assert again.sentence(_later(5)) == (
        "AWS credentials: 19.0 h left, until 2026-03-02 12:00 UTC"
        " (assumed: 24 h (credential_hours) from their first sight 2026-03-01 12:00 UTC)"
    )
    assert "no time left" in again.sentence(_later(30))
    assert _of(cloud, hours=5, lasting_hours=8.0).left(_later(5)) == pytest.approx(3.0)


def test_other_keys_have_a_day_of_their_own(cloud, monkeypatch):
    _of(cloud)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAOTHEROTHEROTHER0")
    forget_clients()
    assert _of(cloud, hours=23).left(_later(23)) == pytest.approx(24.0)


def test_neither_key_nor_secret_is_remembered(cloud, tmp_path):
    _of(cloud)
    (kept,) = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    text = f"{kept.relative_to(tmp_path)} {kept.read_text()}"
    assert not any(word in text for word in ("ASIATEST", "secret", "first"))


def test_a_step_that_the_credentials_would_not_outlive_is_not_begun(cloud):
    clock = _of(cloud)
    clock.require(24.0, now=NOW)
    with pytest.raises(
        CredentialsExpired, match=r"the large cluster needs .* 8\.0 h, but 7\.0 h are left .*assumed"
    ):
        clock.require(8.0, "the large cluster", now=_later(17))
    with pytest.raises(CredentialsExpired, match=r"but 0\.0 h are left"):
        clock.require(0.1, now=_later(48))


def test_a_clock_that_was_set_back_adds_no_time(cloud):
    _of(cloud)
    assert _of(cloud, hours=-100).left(_later(-100)) == pytest.approx(24.0)


def test_what_credentials_say_themselves_is_believed(cloud, monkeypatch):
    end = datetime.now(UTC) + timedelta(hours=3)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", end.isoformat())
    forget_clients()
    clock = CredentialClock.of(cloud.aws)
    assert clock.left() == pytest.approx(3.0, abs=0.01)
    assert "as they say themselves (env)" in clock.sentence()


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("x_security_token_expires = 2026-03-01T16:00:00Z", 4.0),
        ("expiration = 2026-03-01 16:00:00", 4.0),
        ("x_security_token_expires = tomorrow", 24.0),
        ("", 24.0),
    ],
)
def test_the_end_that_a_login_wrote_into_the_profile_is_believed(cloud, monkeypatch, tmp_path, line, left):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    (tmp_path / "aws-credentials").write_text(
        f"[default]\naws_access_key_id = ASIAPROFILE\naws_secret_access_key = s\n{line}\n"
    )
    forget_clients()
    assert _of(cloud).left(NOW) == pytest.approx(left)


def test_credentials_that_renew_themselves_have_no_end_and_that_is_said(cloud, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    end = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    (tmp_path / "keys.json").write_text(
        json.dumps({"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "s", "Expiration": end})
    )
    (tmp_path / "aws-config").write_text(f"[default]\ncredential_process = cat {tmp_path / 'keys.json'}\n")
    forget_clients()
    clock = CredentialClock.of(cloud.aws)
    assert clock.left() == math.inf
    clock.require(1000.0)
    assert "renewed by themselves (custom-process) as long as" in clock.sentence()


def test_a_state_folder_that_cannot_be_used_is_said_and_stops_nothing(cloud, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    clock = _of(cloud)
    assert clock.left(NOW) == pytest.approx(24.0)
    assert "cannot be used" in clock.sentence(NOW)
