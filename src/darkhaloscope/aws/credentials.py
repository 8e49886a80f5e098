"""How long the credentials last: known where they say so, else assumed from when they were first seen.

Temporary keys seldom tell their end. The first sight of each access key id is kept in the user's state folder
under a hash of it: no key, no secret.
"""

import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from darkhaloscope.aws.clients import RENEW, Aws
from darkhaloscope.aws.cluster import load_cluster
from darkhaloscope.contracts.errors import CredentialsExpired
from darkhaloscope.contracts.store import LocalFiles


def state_folder() -> Path:
    """Where the user's programs keep what they remember: XDG_STATE_HOME, or ~/.local/state."""
    given = os.environ.get("XDG_STATE_HOME", "")
    root = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
    return root / "darkhaloscope"


@dataclass(frozen=True)
class CredentialClock:
    """When the credentials end, and how that is known; `ends` is None where they renew themselves."""

    ends: datetime | None
    basis: str

    @classmethod
    def of(
        cls, aws: Aws, *, lasting_hours: float | None = None, now: datetime | None = None
    ) -> "CredentialClock":
        """Of the credentials in use now; CredentialsExpired where there are none.

        lasting_hours  how long they last where they do not say; by default `credential_hours` of cluster.yaml
        """
        key, moment = aws.key(), now or _now()
        if key.renews:
            return cls(None, f"renewed by themselves ({key.method}) as long as what they come from is valid")
        if key.ends is not None:
            return cls(key.ends, f"as they say themselves ({key.method})")
        lasting = load_cluster().credential_hours if lasting_hours is None else lasting_hours
        seen, remark = _first_sight(key.mark, moment)
        basis = f"assumed: {lasting:g} h (credential_hours) from their first sight {_minute(seen)}{remark}"
        return cls(seen + timedelta(hours=lasting), basis)

    def left(self, now: datetime | None = None) -> float:
        """Time left [h]: negative when it is over, infinite where they are renewed by themselves."""
        if self.ends is None:
            return math.inf
        return (self.ends - (now or _now())) / timedelta(hours=1)

    def require(self, hours: float, step: str = "the next step", now: datetime | None = None) -> None:
        """CredentialsExpired where less is left than `step` needs [h]: it would die in the middle."""
        left = self.left(now)
        if left < hours:
            raise CredentialsExpired(
                f"{step} needs AWS credentials for {hours:.1f} h, but {max(left, 0.0):.1f} h are left "
                f"({self.basis}): {RENEW}"
            )

    def sentence(self, now: datetime | None = None) -> str:
        """What is shown at the start."""
        if self.ends is None:
            return f"AWS credentials: {self.basis}"
        left = self.left(now)
        time = f"{left:.1f} h left, until {_minute(self.ends)}" if left > 0 else "no time left"
        return f"AWS credentials: {time} ({self.basis})"


def _first_sight(mark: str, now: datetime) -> tuple[datetime, str]:
    """When this key was first seen, and a remark where that could not be kept."""
    files, name = LocalFiles(str(state_folder())), f"credentials/{mark}"
    try:
        if files.create(
            name, now.isoformat().encode()
        ):  # exclusively: the first of several processes is right
            return now, ""
        seen = datetime.fromisoformat(files.read(name).decode())
    except (OSError, ValueError) as error:
        return now, f" (now: {state_folder()} cannot be used: {error})"
    return min(seen, now), ""  # a clock that was set back adds no time


def _minute(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _now() -> datetime:
    return datetime.now(UTC)
