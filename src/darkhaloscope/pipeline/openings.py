"""When the test split of a run was opened, and for which networks.

A test split that is looked at again and again chooses the model, and its figures are no longer those of
unseen rows. So each opening is written down in the run's folder, with the checkpoint and the date: a run's
own networks as they are judged, any other one with the reason that it was given. The record knows one folder:
that another configuration judges the same rows in another folder, it cannot see.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.pipeline.data import save_json

OPENED = "test_opened.json"


class Openings:
    """The record of one folder and its test rows."""

    def __init__(self, out: Path, rows: str) -> None:
        self.path, self.rows = out / "results" / OPENED, rows

    @property
    def openings(self) -> list[dict[str, str]]:
        """Those of the same test rows, oldest first."""
        if not self.path.exists():
            return []
        return [entry for entry in json.loads(self.path.read_text("utf-8")) if entry["rows"] == self.rows]

    def open(self, checkpoint: str, *, reason: str = "") -> list[dict[str, str]]:
        """Write down that a checkpoint is looked at; DataError if another one was and no reason is given."""
        before = self.openings
        if any(entry["checkpoint"] == checkpoint for entry in before):
            return before
        if before and not reason:
            first = before[0]
            raise DataError(
                str(self.path),
                f"says that the test split was opened for checkpoint {first['checkpoint'][:12]} on "
                f"{first['date']}: another look would choose between models by their test rows",
                'choose on the select split, or say why: --again "REASON"',
            )
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        entry = {"checkpoint": checkpoint, "date": day, "rows": self.rows, "reason": reason}
        held = json.loads(self.path.read_text("utf-8")) if self.path.exists() else []
        save_json(self.path, [*held, entry])
        return self.openings
