"""What is looked at while a run trains: expected ranges every epoch, the model's gates every few.

Nothing here changes a number of the run. What was seen is printed and kept in ``watch.json``, one entry for
each epoch; a resumed run goes on with it.
"""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkhaloscope.contracts.checks import Findings
from darkhaloscope.contracts.protocol import Expected
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.gates.detection import Predict
from darkhaloscope.training.model import LensClassifier, Scorer
from darkhaloscope.training.resume import Epoch
from darkhaloscope.training.scorer import Card

WATCH = "watch.json"


@dataclass(frozen=True)
class Watch:
    """Who looks, and what is done with what is seen.

    expected   the protocol's ranges by epoch, counted from 1
    gates      findings of a model on the select split; asked every `gates_every` epochs
    say        takes one line
    """

    expected: Expected
    gates: Callable[[Predict], Findings] | None = None
    say: Callable[[str], None] = field(default=lambda _line: None)

    def look(
        self, epoch: Epoch, predict: Callable[[], Predict], out_dir: Path, *, gates_every: int
    ) -> Findings:
        """Look at an epoch that has ended; what the gates found, if it was their turn."""
        odd = unexpected(epoch, self.expected)
        due = self.gates is not None and gates_every > 0 and (epoch.epoch + 1) % gates_every == 0
        found = self.gates(predict()) if due and self.gates is not None else Findings()
        for line in (*odd, *(f"epoch {epoch.epoch + 1}, select split: {f}" for f in found if not f.passed)):
            self.say(line)
        _keep(out_dir / WATCH, {"epoch": epoch.epoch, "unexpected": odd, "gates": found.to_json()})
        return found


def unexpected(epoch: Epoch, expected: Expected) -> list[str]:
    """One sentence for each curve that is outside the range expected at this epoch."""
    number = epoch.epoch + 1
    seen = {"train_loss": epoch.train_loss, "select_auroc": epoch.select_auroc}
    lines = []
    for name, value in seen.items():
        low, high = getattr(expected, name).get(number, (value, value))
        if not low <= value <= high:
            lines.append(f"epoch {number}: {name} {value:.3f} is outside the expected [{low:g}, {high:g}]")
    return lines


def _keep(path: Path, entry: dict[str, Any]) -> None:
    held: Sequence[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    entries = [other for other in held if other["epoch"] < entry["epoch"]]
    write_whole(path, (json.dumps([*entries, entry], indent=1) + "\n").encode())


def as_it_is(network: LensClassifier, card: Card) -> Scorer:
    """A scorer with a copy of a network in training, on the CPU."""
    return Scorer(card, "in training", copy.deepcopy(network).cpu().eval())
