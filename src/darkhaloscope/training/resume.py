"""What survives a kill: the curves and the best weights so far, written by rename.

Everything is in one file, ``last.ckpt``: no second file can disagree with it.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.errors import StoreError
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.training.frameworks import import_lightning

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.plugins.io import TorchCheckpointIO
else:  # at run time it must come through the door
    TorchCheckpointIO = import_lightning().pytorch.plugins.io.TorchCheckpointIO
    Callback = import_lightning().pytorch.callbacks.Callback

KEY = "darkhaloscope"
"""Where Lightning's checkpoint holds what is ours."""


class Epoch(Frozen):
    """One epoch's curves; `lr` is the last step's. Losses are mean binary cross-entropies per row."""

    epoch: int
    train_loss: float
    select_loss: float
    select_auroc: float
    select_core_masked_auroc: float
    lr: float


@dataclass
class Curves:
    """What a run has learned so far: kept in ``last.ckpt``, so that a resumed run has all of it.

    begun, begun_loss   batches of the epoch under way, and the sum of their losses and their rows
    network             its configuration under the architecture's own name (`LensClassifier.plain`)
    """

    run: str
    history: list[Epoch] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    begun: int = 0
    begun_loss: tuple[float, int] = (0.0, 0)
    best_epoch: int = -1
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, last: Path, run: str) -> Self:
        """What `last` holds, or nothing yet. Raises StoreError for another run's file, or no checkpoint."""
        if not last.exists():
            return cls(run)
        try:
            state = torch.load(last, map_location="cpu", weights_only=True)[KEY]
        except Exception as error:
            remedy = "delete it to train again from the start"
            raise StoreError(str(last), f"cannot be read ({type(error).__name__})", remedy) from error
        if state["run"] != run:
            raise StoreError(
                str(last),
                "belongs to another configuration or other data",
                "use another folder, or delete it",
            )
        return cls(**{**state, "history": [Epoch.model_validate(row) for row in state["history"]]})

    def dump(self) -> dict[str, Any]:
        """Tensors and plain data, for `torch.save`."""
        return {**vars(self), "history": [epoch.model_dump() for epoch in self.history]}

    def add(self, epoch: Epoch, seconds: float, weights: Mapping[str, torch.Tensor]) -> None:
        """Append an epoch; keep a copy of its weights if it is the best so far (the first of equals)."""
        better = self.best_epoch < 0 or (
            epoch.select_core_masked_auroc > self.history[self.best_epoch].select_core_masked_auroc
        )
        self.begun, self.begun_loss = 0, (0.0, 0)
        self.history.append(epoch)
        self.seconds.append(round(seconds, 3))
        if better:
            self.best_epoch = epoch.epoch
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def finished(self, *, epochs: int, patience: int) -> bool:
        """Whether nothing is left to train. Lightning would add an epoch to a run that has stopped early."""
        waited = len(self.history) - 1 - self.best_epoch
        return len(self.history) >= epochs or (self.best_epoch >= 0 and waited >= patience)


class SaveOften(Callback):  # type: ignore[misc]
    """Save within an epoch, after the first batch that ends `seconds` after the last save.

    The last batch of an epoch is left to the save at its end, which also holds the curves.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds, self._saved = path, seconds, time.monotonic()

    def on_train_batch_end(self, trainer: Any, *_batch: Any) -> None:
        """Write ``last.ckpt`` if it is time."""
        if trainer.is_last_batch or time.monotonic() - self._saved < self.seconds:
            return
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()


class AtomicCheckpoints(TorchCheckpointIO):  # type: ignore[misc]
    """Lightning's checkpoint files, written by rename within one folder: a torn file is impossible.

    Lightning's own transaction moves a file from the system's temporary folder, which is a copy when that
    lies on another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write to a temporary name, flush, rename."""
        del storage_options
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        write_whole(Path(path), buffer.getvalue())
