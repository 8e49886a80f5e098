"""Pairs as training sees them: an arc and its negative, normalised, dropped and turned alike.

Order of work for one pair, and why:

1. The negative is chosen: the control; the control plus the arc's light, moved (HN0 to HN5); or a disc.
2. Both members are moved by the same part of a pixel and get the same noise, where that is asked for.
3. Both members are normalised. Normalising after core dropout would let the drop move the scale.
4. Both members lose their core, or neither does: the drop carries no label.
5. Both members are turned the same way.

Every choice is drawn from ``stream(seed, "train/<purpose>/<epoch>", key)``, so an epoch's rows depend on the
seed, the epoch and the row's key alone: not on workers, batch size, row order or an interruption. An index
into the dataset is ``(epoch, row)``; the dataset holds no state. Where a row takes another stamp (a control
of another host, a disc), it takes one that lies in the same window of shards, or in the epoch's share of
them: data sets larger than memory are then read from front to back.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.random import stream
from darkhaloscope.dataset.augment import band_noise, matched_core, moved
from darkhaloscope.dataset.pixels import HardSource, PairBlock, PairSource, StampSource
from darkhaloscope.dataset.sampling import SHUFFLE, PairSampling
from darkhaloscope.stamps.measure import azimuthal_shuffle, core_dropout, fill_core
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
    rows. Raises DataError at construction when unpaired sampling has fewer than two hosts, or when hard
    negatives are asked for that were not made.
    """

    def __init__(
        self,
        pairs: PairSource,
        sampling: PairSampling,
        preprocess: Preprocess,
        *,
        seed: int,
        negatives: StampSource | None = None,
        hard: HardSource | None = None,
    ) -> None:
        if sampling.stored_kinds and sampling.hard_negative_ratio and hard is None:
            kinds = ", ".join(sampling.stored_kinds)
            raise DataError(
                "hard negatives", f"{kinds} were not made", "make them (dhs run does), or use HN0"
            )
        self.pairs, self.sampling, self.preprocess = pairs, sampling, preprocess
        self.seed, self.negatives, self.hard = seed, negatives, hard
        every = np.arange(len(pairs.keys))
        self.positive_rows, self.control_rows = (every, every) if sampling.paired else self._halves()
        self._shards = pairs.shard_of
        self._of_epoch: dict[str, tuple[int, Any]] = {}

    def __len__(self) -> int:
        return len(self.positive_rows)

    def order(self, *, epoch: int = 0) -> "EpochOrder":
        """The order of its rows, from an epoch on."""
        return EpochOrder(
            self._shards[self.positive_rows],
            shards=_count(self._shards),
            seed=self.seed,
            epoch=epoch,
            window_shards=self.sampling.window_shards,
        )

    def __getitem__(self, index: Index) -> TrainingRows:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[Index]) -> list[TrainingRows]:
        """The pairs of a batch at once (PyTorch's batched fetch): one normalisation for all of them."""
        epochs = [epoch for epoch, _ in indices]
        rows = self.positive_rows[[row for _, row in indices]].tolist()
        keys = [self.pairs.keys[row] for row in rows]
        draws = [_Draws(self.seed, epoch, key) for epoch, key in zip(epochs, keys, strict=True)]
        positive = self.pairs.take(rows)
        negative, x_neg, y_neg = self._negatives(draws, positive, rows)
        stack = np.concatenate([positive.stamp, negative])
        x_center = np.concatenate([positive.x_center, x_neg])
        y_center = np.concatenate([positive.y_center, y_neg])
        stack = self._disturbed(draws, stack, x_center, y_center)
        seen = self.preprocess.apply(stack, x_center, y_center)
        self._drop_cores(draws, seen, x_center, y_center)
        label = torch.tensor([1.0, 0.0])
        n = len(keys)
        return [TrainingRows(self._turned(draws[i], seen[[i, n + i]]), label, (keys[i],)) for i in range(n)]

    def _negatives(
        self, draws: Sequence["_Draws"], positive: PairBlock, rows: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        s = self.sampling
        partner, picked = positive, list(rows)
        if not s.paired:
            pools = [self._partners(d.epoch, row) for d, row in zip(draws, rows, strict=True)]
            picked = [int(pool[d.pick(len(pool), "partner")]) for d, pool in zip(draws, pools, strict=True)]
            partner = self.pairs.take(picked)
        negative = partner.control.copy()
        x, y = partner.x_center.copy(), partner.y_center.copy()
        for i, draw in enumerate(draws):
            use_disc, use_hard = draw.negative()
            if use_hard < s.hard_negative_ratio:
                negative[i] = self._hardened(draw, partner, i, picked[i])
            elif self.negatives is not None and use_disc < s.disc_share:
                # A disc of the partner's own domain: otherwise real pixels would be commoner among arcs
                # than among negatives, and the camera would tell the label.
                domain = None if partner.domain is None else str(partner.domain[i])
                discs = self._discs(draw.epoch, domain)
                if len(discs):
                    found = self.negatives.take([int(discs[draw.pick(len(discs), "disc")])])
                    negative[i], x[i], y[i] = (part[0] for part in found)
        return negative, x, y

    def _hardened(self, draw: "_Draws", pairs: PairBlock, i: int, row: int) -> np.ndarray:
        """Control `i` of a block with its arc's light, moved; as it is where no such light was made."""
        kinds = self.sampling.hard_negative_kinds
        kind = kinds[draw.pick(len(kinds), "kind") if len(kinds) > 1 else 0]
        control = pairs.control[i]
        made = kind != SHUFFLE and self.hard is not None and bool(self.hard.usable[row])
        if self.hard is not None and made:
            return np.asarray(self.hard.take([row])[0])
        if SHUFFLE in kinds:  # also where no other kind could be made, so that the share is kept
            arc = pairs.stamp[i] - control
            moved_arc = azimuthal_shuffle(arc, draw.rng("shuffle"), pairs.x_center[i], pairs.y_center[i])
            return np.asarray(control + moved_arc)
        return np.asarray(control)

    def _disturbed(
        self, draws: Sequence["_Draws"], stack: np.ndarray, x_center: np.ndarray, y_center: np.ndarray
    ) -> np.ndarray:
        """Both members moved alike (the centres too, in place), and with the same noise added."""
        s, n = self.sampling, len(draws)
        for i, draw in enumerate(draws if s.shift_pix or s.added_noise else ()):
            both = [i, n + i]
            if s.shift_pix:
                dx, dy = draw.rng("shift").uniform(-s.shift_pix, s.shift_pix, 2)
                stack[both] = moved(stack[both], dx, dy)
                x_center[both] += dx
                y_center[both] += dy
            if s.added_noise:
                rng = draw.rng("noise")
                level = (
                    s.added_noise * rng.random() * band_noise(stack[n + i], x_center[n + i], y_center[n + i])
                )
                stack[both] += (level * rng.standard_normal(stack.shape[1:])).astype(stack.dtype)
        return stack

    def _partners(self, epoch: int, row: int) -> NDArray[np.intp]:
        """Controls of other hosts in the window of a pair; all of them where that holds none."""

        def by_window() -> tuple[NDArray[np.intp], dict[int, NDArray[np.intp]]]:
            window_of = windows(_count(self._shards), self.seed, epoch, self.sampling.window_shards)
            own = window_of[self._shards[self.control_rows]]
            return window_of, {int(w): self.control_rows[own == w] for w in np.unique(own)}

        window_of, pools = self._once("partners", epoch, by_window)
        return np.asarray(pools.get(int(window_of[self._shards[row]]), self.control_rows))

    def _discs(self, epoch: int, domain: str | None) -> NDArray[np.intp]:
        """The discs of a domain that this epoch uses: a window of their shards, another one each epoch."""
        source = self.negatives
        assert source is not None  # noqa: S101 - asked for only where there are discs

        def this_epoch() -> NDArray[np.bool_]:
            window_of = windows(_count(source.shard_of), self.seed, epoch, self.sampling.window_shards)
            return np.asarray(window_of[source.shard_of] == 0)

        used = self._once("discs", epoch, this_epoch)
        if domain is None or source.domain is None:
            return np.flatnonzero(used)
        own = source.domain == domain
        here = np.flatnonzero(used & own)
        return here if len(here) else np.flatnonzero(own)

    def _once(self, what: str, epoch: int, make: Callable[[], Any]) -> Any:
        """Something that belongs to an epoch, made when the epoch is first met."""
        if self._of_epoch.get(what, (-1, None))[0] != epoch:
            self._of_epoch[what] = (epoch, make())
        return self._of_epoch[what][1]

    def _drop_cores(
        self, draws: Sequence["_Draws"], seen: np.ndarray, x_center: np.ndarray, y_center: np.ndarray
    ) -> None:
        """Drop, in place, the cores of both members of the pairs that lose theirs."""
        drop = [i for i, draw in enumerate(draws) if draw.core() < self.sampling.core_dropout_prob]
        if not drop:
            return
        both = np.concatenate([drop, len(draws) + np.asarray(drop)])
        radius = self.sampling.core_dropout_radius_pix
        if self.sampling.core_dropout_fill == "matched":
            for k in both:
                seen[k] = matched_core(seen[k], x_center[k], y_center[k], radius_pix=radius)
            return
        seen[both] = core_dropout(seen[both], x_center[both], y_center[both], radius_pix=radius)

    def _turned(self, draw: "_Draws", members: np.ndarray) -> torch.Tensor:
        quarter_turns, mirrored = draw.orientation()
        if self.sampling.rotations:
            members = np.rot90(members, quarter_turns, axes=(-2, -1))
        if self.sampling.flips and mirrored:
            members = members[..., ::-1]
        return torch.from_numpy(np.ascontiguousarray(members))

    def _halves(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows of two halves of the hosts: a galaxy that gives arcs never gives a control."""
        hosts = sorted(
            set(self.pairs.hosts), key=lambda host: (stream(self.seed, "train/unpaired", host).random(), host)
        )
        if len(hosts) < 2:
            raise DataError("unpaired sampling", f"needs at least two hosts, found {len(hosts)}")
        giving_arcs = set(hosts[: math.ceil(len(hosts) / 2)])
        gives = np.array([host in giving_arcs for host in self.pairs.hosts])
        return np.flatnonzero(gives), np.flatnonzero(~gives)


@dataclass(frozen=True)
class _Draws:
    """The random choices of one pair in one epoch, one stream for each purpose."""

    seed: int
    epoch: int
    key: str

    @cached_property
    def choices(self) -> NDArray[np.float64]:
        """Numbers in [0, 1) for the choices that every pair makes: one stream, since making it costs most."""
        return self.rng("choices").random(4)

    def rng(self, purpose: str) -> np.random.Generator:
        return stream(self.seed, f"train/{purpose}/{self.epoch}", self.key)

    def negative(self) -> tuple[float, float]:
        return float(self.choices[0]), float(self.choices[1])

    def pick(self, n: int, purpose: str) -> int:
        return int(self.rng(purpose).integers(n))

    def core(self) -> float:
        return float(self.choices[2])

    def orientation(self) -> tuple[int, bool]:
        """Quarter turns, and whether mirrored: one of eight."""
        way = int(8 * self.choices[3])
        return way % 4, way >= 4


def collate(pairs: Sequence[TrainingRows]) -> TrainingRows:
    """Join B pairs into 2B rows."""
    return TrainingRows(
        torch.cat([pair.x for pair in pairs]),
        torch.cat([pair.y for pair in pairs]),
        tuple(key for pair in pairs for key in pair.keys),
    )


def windows(n: int, seed: int, epoch: int, size: int) -> NDArray[np.intp]:
    """Number of the window that each of n shards belongs to in an epoch: a new arrangement each time.

    Windows hold `size` shards, the last one what is left.
    """
    place = np.empty(n, np.intp)
    place[stream(seed, "train/windows", str(epoch)).permutation(n)] = np.arange(n)
    return place // size


def _count(shard_of: NDArray[np.intp]) -> int:
    return int(shard_of.max()) + 1 if len(shard_of) else 0


class EpochOrder(Sampler[Index]):
    """The rows of one epoch, each once, in an order keyed by seed and epoch (`set_epoch`).

    Window after window, and within a window at random: a reader that keeps a window's shards open reads each
    shard once. With as many shards as a window holds, or fewer, the order is random as a whole.

    shard_of   the shard of each row
    shards     how many there are, those without a row of this order included
    """

    def __init__(
        self,
        shard_of: NDArray[np.intp],
        *,
        seed: int,
        epoch: int = 0,
        shards: int | None = None,
        window_shards: int = 16,
    ) -> None:
        self.shard_of, self.seed, self.epoch, self.window_shards = shard_of, seed, epoch, window_shards
        self.shards = _count(shard_of) if shards is None else shards

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.shard_of)

    def __iter__(self) -> Iterator[Index]:
        epoch, n = self.epoch, len(self)
        order = stream(self.seed, "train/order", str(epoch)).permutation(n)
        window = windows(self.shards, self.seed, epoch, self.window_shards)[self.shard_of[order]]
        return iter([(epoch, int(row)) for row in order[np.argsort(window, kind="stable")]])


class EvenBatches(Sampler[list[Index]]):
    """An epoch cut into batches that differ by at most one pair, dealt out to the ranks in turn.

    A remainder of one or two pairs would be a batch whose normalisation statistics are noise; dropping it
    would leave rows out. Every rank gets as many batches as every other, and no row comes twice.

    rank, ranks   which of how many processes this is
    begun         batches of the first epoch that were already trained on (a resumed run)
    """

    def __init__(
        self, sampler: EpochOrder, batch_size: int, *, rank: int = 0, ranks: int = 1, begun: int = 0
    ) -> None:
        if len(sampler) < ranks:
            raise DataError("pairs", f"{len(sampler)} pairs cannot be shared by {ranks} processes")
        self.sampler, self.batch_size = sampler, batch_size
        self.rank, self.ranks, self.begun = rank, ranks, begun

    def __len__(self) -> int:
        return math.ceil(math.ceil(len(self.sampler) / self.batch_size) / self.ranks)

    def __iter__(self) -> Iterator[list[Index]]:
        rows = list(self.sampler)
        parts = np.array_split(np.arange(len(rows)), len(self) * self.ranks)
        begun, self.begun = self.begun, 0
        for part in parts[self.rank :: self.ranks][begun:]:
            yield [rows[i] for i in part]


class ViewRows(NamedTuple):
    """Rows to be scored: x (n, band, y, x), the same with the core hidden, y (n,)."""

    x: torch.Tensor
    hidden: torch.Tensor
    y: torch.Tensor


class ViewDataset(Dataset[ViewRows]):
    """Arcs and their controls as they are, and with the core hidden: no augmentation.

    matched   hide the core as `matched_core` does, not by zeros (the brief's core-masked view): a network
              whose core dropout leaves no edge has never seen a hole, and zeros would judge it by that
    """

    def __init__(
        self, pairs: PairSource, preprocess: Preprocess, *, radius_pix: float, matched: bool = False
    ) -> None:
        self.pairs, self.preprocess = pairs, preprocess
        self.radius_pix, self.matched = radius_pix, matched

    def __len__(self) -> int:
        return len(self.pairs.keys)

    def __getitem__(self, row: int) -> ViewRows:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[ViewRows]:
        """A batch at once: one ViewRows of 2B rows, arcs first."""
        block = self.pairs.take(rows)
        x_center, y_center = np.tile(block.x_center, 2), np.tile(block.y_center, 2)
        seen = self.preprocess.apply(np.concatenate([block.stamp, block.control]), x_center, y_center)
        label = np.repeat(np.array([1, 0], np.float32), len(rows))
        hidden = self._hidden(seen, x_center, y_center)
        return [ViewRows(torch.from_numpy(seen), torch.from_numpy(hidden), torch.from_numpy(label))]

    def _hidden(self, seen: np.ndarray, x_center: np.ndarray, y_center: np.ndarray) -> np.ndarray:
        radius = self.radius_pix
        if not self.matched:
            return fill_core(seen, x_center, y_center, radius_pix=radius, fill="zero")
        rows = zip(seen, x_center, y_center, strict=True)
        return np.stack([matched_core(stamp, float(x), float(y), radius_pix=radius) for stamp, x, y in rows])


def first(batch: Sequence[ViewRows]) -> ViewRows:
    """The collate of `ViewDataset`, whose batches are already joined."""
    return batch[0]
