"""The training loop: Lightning runs it, this module says what is trained, watched, kept and resumed.

Resume is the default, within an epoch too. ``last.ckpt`` is written every few minutes and at the end of every
epoch, by rename: a kill leaves the old one or the new one. A run killed at any point and started again ends,
on a CPU, with the weights of an undisturbed run, bit for bit.
"""

import json
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from darkhaloscope.contracts.checks import Findings
from darkhaloscope.contracts.config import canonical, fingerprint, parse
from darkhaloscope.contracts.errors import ConfigError, DataError, TrainingFailed
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.dataset.pairs import (
    EvenBatches,
    PairDataset,
    TrainingRows,
    ViewDataset,
    ViewRows,
    collate,
    first,
)
from darkhaloscope.dataset.pixels import HardSource, PairSource, StampSource
from darkhaloscope.dataset.sampling import PairSampling
from darkhaloscope.stamps.measure import CORE_RADIUS_PIX
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.stats import auroc
from darkhaloscope.training.config import MONITOR, NetworkConfig, TrainConfig
from darkhaloscope.training.frameworks import import_lightning
from darkhaloscope.training.model import LensClassifier, encoder_mark, load_checkpoint, save_checkpoint
from darkhaloscope.training.resume import KEY, AtomicCheckpoints, Curves, Epoch, SaveOften
from darkhaloscope.training.scorer import Card
from darkhaloscope.training.watch import Watch, as_it_is

if TYPE_CHECKING:
    from lightning import LightningModule
else:  # at run time it must come through the door
    LightningModule = import_lightning().LightningModule
L: Any = import_lightning()

CHECKPOINT, LAST, TIMES = "checkpoint.pt", "last", "times.json"


@dataclass(frozen=True)
class TrainResult:
    """What training leaves behind. `seconds` per epoch are not part of equality."""

    checkpoint_path: Path
    checkpoint_sha256: str
    history: tuple[Epoch, ...]
    best_epoch: int
    seconds: tuple[float, ...] = field(compare=False, default=())

    @classmethod
    def of(cls, checkpoint: Path) -> Self:
        """What a checkpoint says of its own training; DataError if it is none of ours."""
        scorer = load_checkpoint(checkpoint)
        rows = [{**row, "epoch": int(row["epoch"])} for row in scorer.card.history]  # a card holds floats
        history = tuple(parse(row, Epoch, str(checkpoint)) for row in rows)
        return cls(checkpoint, scorer.sha256, history, scorer.card.best_epoch)


def train(
    config: TrainConfig,
    *,
    sampling: PairSampling,
    preprocess: Preprocess,
    train_pairs: PairSource,
    select_pairs: PairSource,
    out_dir: Path,
    fingerprints: Mapping[str, str],
    negatives: StampSource | None = None,
    hard: HardSource | None = None,
    watch: Watch | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train a classifier, or continue the training that `out_dir` holds; write ``checkpoint.pt`` there.

    train_pairs, select_pairs   disjoint in hosts; select decides the best epoch and when to stop
    negatives                   disc galaxies and contaminants of the train split, if any
    hard                        hard negatives of the train pairs, where `sampling` asks for stored kinds
    watch                       looks at every epoch; changes no number
    fingerprints                of the datasets read; they are stored in the checkpoint, and a change of any
                                of them, or of a configuration, makes it another run
    progress                    draw a progress bar

    Raises DataError for pairs that cannot be used, StoreError when `out_dir` holds another run,
    TrainingFailed when the loss is not finite.
    """
    _refuse_unusable(train_pairs, select_pairs)
    fingerprints = {**fingerprints, **encoder_mark(config.network)}
    whole = {"config": config, "sampling": sampling, "preprocess": preprocess, "inputs": dict(fingerprints)}
    run = fingerprint(whole)
    curves = Curves.read(out_dir / f"{LAST}.ckpt", run)
    shape = _shape(train_pairs)

    def card() -> Card:
        return Card(
            network=parse(curves.network, NetworkConfig, "network") if curves.network else config.network,
            preprocess=preprocess,
            stamp_shape=shape,
            training=canonical(config),
            sampling=canonical(sampling),
            fingerprints={**fingerprints, "run": run},
            history=tuple(epoch.model_dump() for epoch in curves.history),
            best_epoch=curves.best_epoch,
        )

    if not curves.finished(epochs=config.epochs, patience=config.patience):
        rows = PairDataset(
            train_pairs, sampling, preprocess, seed=config.seed, negatives=negatives, hard=hard
        )
        matched = sampling.core_dropout_fill == "matched"
        views = ViewDataset(select_pairs, preprocess, radius_pix=CORE_RADIUS_PIX, matched=matched)
        loaders = _loaders(config, rows, views, curves)
        module = Training(config, curves, bands=shape[0], steps=len(loaders[0]))
        if watch is not None:
            module.look = _looker(watch, module.network, card, out_dir, config.gates_every)
        _fit(config, module, loaders, out_dir, progress=progress)
    path = out_dir / CHECKPOINT
    sha256 = save_checkpoint(path, curves.best_weights, card())
    write_whole(out_dir / TIMES, json.dumps({"seconds_per_epoch": curves.seconds}).encode())
    return TrainResult(path, sha256, tuple(curves.history), curves.best_epoch, tuple(curves.seconds))


def _looker(
    watch: Watch, network: LensClassifier, card: Callable[[], Card], out_dir: Path, every: int
) -> Callable[[Epoch], Findings]:
    def look(epoch: Epoch) -> Findings:
        return watch.look(epoch, lambda: as_it_is(network, card()), out_dir, gates_every=every)

    return look


def _refuse_unusable(train_pairs: PairSource, select_pairs: PairSource) -> None:
    for name, pairs in (("train", train_pairs), ("select", select_pairs)):
        if len(pairs.keys) == 0:
            raise DataError(f"split '{name}'", "holds no pair", "draw more targets or lower snr_floor_mf")
    shared = sorted(set(train_pairs.hosts) & set(select_pairs.hosts))
    if shared:
        raise DataError("splits 'train' and 'select'", f"share {len(shared)} hosts, for instance {shared[0]}")


def _shape(pairs: PairSource) -> tuple[int, int, int]:
    band, y, x = pairs.take([0]).stamp.shape[1:]
    return band, y, x


class Training(LightningModule):  # type: ignore[misc]
    """Loss, optimiser, schedule, and the select split's curves."""

    def __init__(self, config: TrainConfig, curves: Curves, *, bands: int, steps: int) -> None:
        super().__init__()
        self.config, self.curves, self.steps = config, curves, steps
        self.network = LensClassifier.seeded(config.network, bands=bands, seed=config.seed)
        curves.network = self.network.plain.model_dump(mode="json")
        self._train = _Mean()
        self._select = _Mean()
        self._views: list[np.ndarray] = []
        self._selected: dict[str, float] = {}
        self._began = time.monotonic()
        self.look: Callable[[Epoch], Findings] | None = None

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW; the learning rate follows the step."""
        c = self.config
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=c.lr, weight_decay=c.weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_share(c, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Start the clock and the mean of the loss."""
        self._began, self._train = time.monotonic(), _Mean()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """An epoch that was cut off goes on with the losses that it had."""
        del checkpoint  # `curves` was read from the same file
        self._train = _Mean(*self.curves.begun_loss)

    def training_step(self, batch: TrainingRows, batch_idx: int) -> torch.Tensor:
        """Mean cross-entropy of the 2B rows; a loss that is not finite ends the run."""
        smooth = self.config.label_smoothing
        target = batch.y * (1 - smooth) + smooth / 2
        losses = binary_cross_entropy_with_logits(self.network(batch.x).float(), target, reduction="none")
        loss = losses.mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise _not_finite(self.current_epoch, batch_idx, batch, losses.detach())
        self._train.add(value, len(batch.y))
        self.curves.begun, self.curves.begun_loss = batch_idx + 1, (self._train.total, self._train.n)
        self.log("train_loss", loss.detach(), prog_bar=True, batch_size=len(batch.y))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the views of the epoch before."""
        self._views, self._select = [], _Mean()

    def validation_step(self, batch: ViewRows, batch_idx: int) -> None:
        """Score the full and the core-masked view of the select split."""
        del batch_idx
        full = self.network(batch.x).float()
        masked = self.network(batch.hidden).float()
        self._select.add(float(binary_cross_entropy_with_logits(full, batch.y)), len(batch.y))
        self._views.append(torch.stack([batch.y, full, masked]).cpu().numpy().astype(np.float64))

    def on_validation_epoch_end(self) -> None:
        """AUROC of both views, by the same function that evaluation uses."""
        label, full, masked = np.concatenate(self._views, axis=1)
        if not np.isfinite(full + masked).all():
            where = f"epoch {self.current_epoch}"
            raise TrainingFailed(where, "scores on the select split are not finite", "lower lr")
        self._selected = {
            "select_loss": self._select.value,
            "select_auroc": _rounded_auroc(full, label),
            MONITOR: _rounded_auroc(masked, label),
        }
        self.log_dict(self._selected, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        """Keep the curves, and the weights of a best epoch. Runs before ``last.ckpt`` is written."""
        lr = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        epoch = Epoch(epoch=self.current_epoch, train_loss=self._train.value, lr=lr, **self._selected)
        self.curves.add(epoch, time.monotonic() - self._began, self.network.state_dict())
        self.log("lr", lr)
        for found in self.look(epoch) if self.look is not None else ():
            if found.value is not None:
                self.log(f"gates/{found.name}", found.value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Everything learned so far goes into the file that a resumed run reads."""
        checkpoint[KEY] = self.curves.dump()


@dataclass
class _Mean:
    total: float = 0.0
    n: int = 0

    def add(self, mean: float, n: int) -> None:
        self.total, self.n = self.total + mean * n, self.n + n

    @property
    def value(self) -> float:
        return self.total / self.n


def _rounded_auroc(scores: np.ndarray, label: np.ndarray) -> float:
    # Six decimals survive float32, in which Lightning compares: its best epoch is then ours.
    return round(float(auroc(scores[label == 1], scores[label == 0])), 6)


def _not_finite(epoch: int, step: int, batch: TrainingRows, losses: torch.Tensor) -> TrainingFailed:
    pair = torch.nonzero(~torch.isfinite(losses)).flatten() // 2
    names = ", ".join(dict.fromkeys(batch.keys[int(i)] for i in pair[:3]))
    return TrainingFailed(
        f"epoch {epoch}, batch {step}",
        f"the loss is not finite for {names or 'the whole batch'}",
        "look at these rows; if they are fine, lower lr",
    )


def lr_share(config: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate's share of `lr` at each step: linear warm-up, then a half cosine or a constant."""
    warm = config.warmup_epochs * steps_per_epoch
    whole = max(config.epochs * steps_per_epoch, warm + 1)

    def share(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        if config.schedule == "constant":
            return 1.0
        fallen = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / (whole - warm))))
        return config.final_lr_share + (1 - config.final_lr_share) * fallen

    return share


def _loaders(
    config: TrainConfig, rows: PairDataset, views: ViewDataset, curves: Curves
) -> tuple[DataLoader[TrainingRows], DataLoader[ViewRows]]:
    # The first epoch is given here: Lightning starts the workers before it names the epoch.
    order = rows.order(epoch=len(curves.history))
    many: dict[str, Any] = {"num_workers": config.num_workers}
    if config.num_workers:
        # spawn: a fork of a process with threads can hang
        many |= {"multiprocessing_context": "spawn", "persistent_workers": True}
    train_loader = DataLoader(
        rows,
        batch_sampler=EvenBatches(order, config.batch_size, begun=curves.begun),
        collate_fn=collate,
        generator=torch.Generator().manual_seed(config.seed),  # else it draws from the global one
        **many,
    )
    select_loader = DataLoader(
        views,
        batch_size=config.batch_size,
        collate_fn=first,
        generator=torch.Generator().manual_seed(config.seed),
        **many,
    )
    return train_loader, select_loader


def _fit(
    config: TrainConfig,
    module: Training,
    loaders: tuple[DataLoader[TrainingRows], DataLoader[ViewRows]],
    out_dir: Path,
    *,
    progress: bool,
) -> None:
    out_dir.mkdir(parents=True, exist_ok=True)
    last = out_dir / f"{LAST}.ckpt"
    with _settings(config):
        trainer = L.Trainer(
            max_epochs=config.epochs,
            accelerator=_accelerator(config),
            devices=1,
            precision=_precision(config),
            gradient_clip_val=config.grad_clip,
            deterministic=config.deterministic,
            callbacks=_callbacks(config, out_dir, progress=progress),
            logger=_logger(config, out_dir),
            plugins=[AtomicCheckpoints()],
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            enable_progress_bar=progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=out_dir,
        )
        try:
            trainer.fit(module, *loaders, ckpt_path=last if last.exists() else None, weights_only=True)
        except SystemExit as error:
            if isinstance(error, L.pytorch.utilities.exceptions.SIGTERMException):
                raise TrainingFailed("training", "stopped by SIGTERM", "run it again to continue") from error
            raise KeyboardInterrupt from error  # Lightning's answer to Ctrl-C is to exit


def _callbacks(config: TrainConfig, out_dir: Path, *, progress: bool) -> Sequence[Any]:
    callbacks = L.pytorch.callbacks
    stop = callbacks.EarlyStopping(
        MONITOR, mode="max", patience=config.patience, check_on_train_epoch_end=True
    )
    keep = callbacks.ModelCheckpoint(
        out_dir,
        filename=LAST,
        monitor=None,  # the latest epoch; the best weights are inside it
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    often = SaveOften(out_dir / f"{LAST}.ckpt", 60 * config.save_minutes)
    return [stop, keep, often, *([callbacks.RichProgressBar()] if progress else [])]


def _logger(config: TrainConfig, out_dir: Path) -> Any:
    loggers = L.pytorch.loggers
    if config.logger == "tensorboard":
        return loggers.TensorBoardLogger(save_dir=out_dir, name="tensorboard", version="")
    try:
        return loggers.WandbLogger(save_dir=out_dir, project="darkhaloscope", log_model=False)
    except ModuleNotFoundError as error:
        remedy = "tensorboard, or: pip install wandb"
        raise ConfigError("training", "logger", "= 'wandb', which is not installed", remedy) from error


def _accelerator(config: TrainConfig) -> str:
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("training", "accelerator", "= 'gpu', but PyTorch sees none here", "auto, cpu")
    return "gpu" if config.accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def _precision(config: TrainConfig) -> str:
    on_gpu = _accelerator(config) == "gpu"
    if config.precision == "auto":
        return "bf16-mixed" if on_gpu else "32"
    if config.precision == "16-mixed" and not on_gpu:
        raise ConfigError("training", "precision", "= '16-mixed' needs a GPU", "auto, 32, bf16-mixed")
    return config.precision


@contextmanager
def _settings(config: TrainConfig) -> Iterator[None]:
    """PyTorch's process-wide switches for the time of one training."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    chatter = logging.getLogger("lightning.pytorch")
    level, on_interrupt = chatter.level, signal.getsignal(signal.SIGINT)
    torch.set_num_threads(config.num_threads)
    chatter.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Reading rows in the main process is a choice here, and so is an existing folder: it is resumed.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
            # The order of batches is resumed by `EvenBatches`, which Lightning cannot know.
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
            warnings.filterwarnings("ignore", message=".*treespec.*is deprecated.*")  # within Lightning
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
        chatter.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_interrupt)  # Lightning leaves it ignored after a Ctrl-C
