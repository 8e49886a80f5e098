"""Pairs as training sees them: an arc and its negative, normalised, dropped and turned alike.

Order of work for one pair, and why:

1. The negative is chosen: the control; the control plus the azimuthally shuffled arc (HN0); or a disc galaxy.
2. Both members are normalised. Normalising after core dropout would let the drop move the scale.
3. Both members lose their core, or neither does: the drop carries no label.
4. Both members are turned the same way.

Every choice is drawn from ``stream(seed, "train/<purpose>/<epoch>", key)``, so an epoch's rows depend on the
seed, the epoch and the row's key alone: not on workers, batch size, row order or an interruption. An index
into the dataset is ``(epoch, row)``; the dataset holds no state.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch.utils.data import Dataset, Sampler

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.dataset.pixels import Negatives, PairBlock, PairSource
from darkhaloscope.dataset.sampling import PairSampling
from darkhaloscope.stamps.measure import azimuthal_shuffle, core_dropout, core_mask
from darkhaloscope.stamps.preprocess import Preprocess

Index = tuple[int, int]
"""(epoch, row): all that a training row depends on, beside the seed."""


class TrainingRows(NamedTuple):
    """A batch of 2B rows: x float32 (2B, band, y, x); y float32 (2B,), 1 with an arc; keys of the B pairs."""

    x: torch.Tensor
    y: torch.Tensor
    keys: tuple[str, ...]


class PairDataset(Dataset[TrainingRows]):
    """Map-style dataset of training pairs, indexed by (epoch, row).

    ``dataset[(epoch, row)]`` is one pair (two rows: arc, then negative); `collate` joins B of them into 2B
    rows. Raises DataError at construction when unpaired sampling has fewer than two hosts.
    """

    def __init__(
        self,
        pairs: PairSource,
        sampling: PairSampling,
        preprocess: Preprocess,
        *,
        seed: int,
        negatives: Negatives | None = None,
    ) -> None:
        self.pairs, self.sampling, self.preprocess = pairs, sampling, preprocess
        self.seed, self.negatives = seed, negatives
        every = range(len(pairs.keys))
        self.positive_rows, self.control_rows = (every, every) if sampling.paired else self._halves()

    def __len__(self) -> int:
        return len(self.positive_rows)

    def __getitem__(self, index: Index) -> TrainingRows:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[Index]) -> list[TrainingRows]:
        """The pairs of a batch at once (PyTorch's batched fetch): one normalisation for all of them."""
        epochs = [epoch for epoch, _ in indices]
        rows = [self.positive_rows[row] for _, row in indices]
        keys = [self.pairs.keys[row] for row in rows]
        draws = [_Draws(self.seed, epoch, key) for epoch, key in zip(epochs, keys, strict=True)]
        positive = self.pairs.take(rows)
        negative, x_neg, y_neg = self._negatives(draws, positive)
        stack = np.concatenate([positive.stamp, negative])
        x_center = np.concatenate([positive.x_center, x_neg])
        y_center = np.concatenate([positive.y_center, y_neg])
        seen = self.preprocess.apply(stack, x_center, y_center)
        self._drop_cores(draws, seen, x_center, y_center)
        label = torch.tensor([1.0, 0.0])
        n = len(keys)
        return [TrainingRows(self._turned(draws[i], seen[[i, n + i]]), label, (keys[i],)) for i in range(n)]

    def _negatives(
        self, draws: Sequence["_Draws"], positive: PairBlock
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        s = self.sampling
        partner = positive
        if not s.paired:
            choices = [self.control_rows[d.pick(len(self.control_rows), "partner")] for d in draws]
            partner = self.pairs.take(choices)
        negative = partner.control.copy()
        x, y = partner.x_center.copy(), partner.y_center.copy()
        for i, draw in enumerate(draws):
            use_disc, use_hard = draw.negative()
            if use_hard < s.hard_negative_ratio:
                arc = partner.stamp[i] - partner.control[i]
                negative[i] += azimuthal_shuffle(arc, draw.rng("shuffle"), x[i], y[i])
            elif self.negatives is not None and use_disc < s.disc_share:
                # A disc of the partner's own domain: otherwise real pixels would be commoner among arcs
                # than among negatives, and the camera would tell the label.
                discs = self.negatives.of_domain(None if partner.domain is None else str(partner.domain[i]))
                if len(discs):
                    disc = discs[draw.pick(len(discs), "disc")]
                    negative[i] = self.negatives.stamp[disc]
                    x[i], y[i] = self.negatives.x_center[disc], self.negatives.y_center[disc]
        return negative, x, y

    def _drop_cores(
        self, draws: Sequence["_Draws"], seen: np.ndarray, x_center: np.ndarray, y_center: np.ndarray
    ) -> None:
        """Drop, in place, the cores of both members of the pairs that lose theirs."""
        drop = [i for i, draw in enumerate(draws) if draw.core() < self.sampling.core_dropout_prob]
        if not drop:
            return
        both = np.concatenate([drop, len(draws) + np.asarray(drop)])
        radius = self.sampling.core_dropout_radius_pix
        seen[both] = core_dropout(seen[both], x_center[both], y_center[both], radius_pix=radius)

    def _turned(self, draw: "_Draws", members: np.ndarray) -> torch.Tensor:
        quarter_turns, mirrored = draw.orientation()
        if self.sampling.rotations:
            members = np.rot90(members, quarter_turns, axes=(-2, -1))
        if self.sampling.flips and mirrored:
            members = members[..., ::-1]
        return torch.from_numpy(np.ascontiguousarray(members))

    def _halves(self) -> tuple[Sequence[int], Sequence[int]]:
        """Rows of two halves of the hosts: a galaxy that gives arcs never gives a control."""
        hosts = sorted(
            set(self.pairs.hosts), key=lambda host: (stream(self.seed, "train/unpaired", host).random(), host)
        )
        if len(hosts) < 2:
            raise DataError("unpaired sampling", f"needs at least two hosts, found {len(hosts)}")
        giving_arcs = set(hosts[: math.ceil(len(hosts) / 2)])
        arcs = [row for row, host in enumerate(self.pairs.hosts) if host in giving_arcs]
        controls = [row for row, host in enumerate(self.pairs.hosts) if host not in giving_arcs]
        return arcs, controls


@dataclass(frozen=True)
class _Draws:
    """The random choices of one pair in one epoch, one stream for each purpose."""

    seed: int
    epoch: int
    key: str

    def rng(self, purpose: str) -> np.random.Generator:
        return stream(self.seed, f"train/{purpose}/{self.epoch}", self.key)

    def negative(self) -> tuple[float, float]:
        use_disc, use_hard = self.rng("negative").random(2)
        return float(use_disc), float(use_hard)

    def pick(self, n: int, purpose: str) -> int:
        return int(self.rng(purpose).integers(n))

    def core(self) -> float:
        return float(self.rng("core").random())

    def orientation(self) -> tuple[int, bool]:
        turns, mirror = self.rng("orientation").integers((4, 2))
        return int(turns), bool(mirror)


def collate(pairs: Sequence[TrainingRows]) -> TrainingRows:
    """Join B pairs into 2B rows."""
    return TrainingRows(
        torch.cat([pair.x for pair in pairs]),
        torch.cat([pair.y for pair in pairs]),
        tuple(key for pair in pairs for key in pair.keys),
    )


class EpochOrder(Sampler[Index]):
    """The rows of one epoch, each once, in an order keyed by seed and epoch (`set_epoch`)."""

    def __init__(self, n: int, *, seed: int, epoch: int = 0) -> None:
        self.n, self.seed, self.epoch = n, seed, epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Index]:
        epoch = self.epoch
        order = stream(self.seed, "train/order", str(epoch)).permutation(self.n)
        return iter([(epoch, int(row)) for row in order])


class EvenBatches(Sampler[list[Index]]):
    """An epoch cut into batches that differ by at most one pair.

    A remainder of one or two pairs would be a batch whose normalisation statistics are noise; dropping it
    would leave rows out.
    """

    def __init__(self, sampler: EpochOrder, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.batch_size)

    def __iter__(self) -> Iterator[list[Index]]:
        rows = list(self.sampler)
        for part in np.array_split(np.arange(len(rows)), len(self)):
            yield [rows[i] for i in part]


class ViewRows(NamedTuple):
    """Rows to be scored: x (n, band, y, x), core bool (n, 1, y, x), y (n,)."""

    x: torch.Tensor
    core: torch.Tensor
    y: torch.Tensor


class ViewDataset(Dataset[ViewRows]):
    """Arcs and their controls as they are: no augmentation, with the mask of the core for the masked view."""

    def __init__(self, pairs: PairSource, preprocess: Preprocess, *, radius_pix: float) -> None:
        self.pairs, self.preprocess, self.radius_pix = pairs, preprocess, radius_pix

    def __len__(self) -> int:
        return len(self.pairs.keys)

    def __getitem__(self, row: int) -> ViewRows:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[ViewRows]:
        """A batch at once: one ViewRows of 2B rows, arcs first."""
        block = self.pairs.take(rows)
        x_center, y_center = np.tile(block.x_center, 2), np.tile(block.y_center, 2)
        seen = self.preprocess.apply(np.concatenate([block.stamp, block.control]), x_center, y_center)
        core = core_masks(seen.shape[-2:], x_center, y_center, self.radius_pix)
        label = np.repeat(np.array([1, 0], np.float32), len(rows))
        return [ViewRows(torch.from_numpy(seen), torch.from_numpy(core), torch.from_numpy(label))]


def core_masks(
    shape: tuple[int, int], x_center: np.ndarray, y_center: np.ndarray, radius_pix: float
) -> Bool[np.ndarray, "n 1 y x"]:
    """True within `radius_pix` of each stamp's centre, with an axis for the bands."""
    return core_mask(shape, x_center, y_center, radius_pix=radius_pix)[:, np.newaxis]


def first(batch: Sequence[ViewRows]) -> ViewRows:
    """The collate of `ViewDataset`, whose batches are already joined."""
    return batch[0]
