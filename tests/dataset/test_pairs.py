"""Training rows depend on seed, epoch and key alone, and say what the sampling says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from darkhaloscope.contracts.errors import ConfigError, DataError, StampError
from darkhaloscope.contracts.tables import PAIRED_STAMPS, STAMPS
from darkhaloscope.dataset.augment import matched_core
from darkhaloscope.dataset.pairs import (
    EpochOrder,
    EvenBatches,
    PairDataset,
    TrainingRows,
    ViewDataset,
    collate,
    first,
)
from darkhaloscope.dataset.pixels import Negatives, PairBlock, Pairs
from darkhaloscope.dataset.sampling import PairSampling
from darkhaloscope.stamps.measure import radius_map
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.stamps.stamp import encode_planes

SIZE = 64
PLAIN = PairSampling(
    hard_negative_ratio=0.0, core_dropout_prob=0.0, flips=False, rotations=False, disc_share=0.0
)
ASINH = Preprocess(kind="asinh")


def make_pairs(n=12, seed=5, hosts=None):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    cx, cy = rng.uniform(31, 32, (2, n))
    r = np.hypot(x - cx[:, None, None], y - cy[:, None, None])[:, None]
    control = (rng.normal(0, 1, (n, 3, SIZE, SIZE)) + 30 * np.exp(-r / 4)).astype(np.float32)
    arc = 8 * np.exp(-0.5 * ((r - 9) / 1.5) ** 2) * (x > 31) * np.array([1.0, 0.8, 0.5])[:, None, None]
    keys = tuple(f"t{i:03d}#0" for i in range(n))
    hosts = hosts or tuple(f"h{i:03d}" for i in range(n))
    return Pairs(keys, hosts, PairBlock((control + arc).astype(np.float32), control, cx, cy))


def make_discs(n=4):
    stamp = np.random.default_rng(9).normal(100, 1, (n, 3, SIZE, SIZE)).astype(np.float32)
    centre = np.full(n, 31.5)
    return Negatives(tuple(f"d{i}" for i in range(n)), stamp, centre, centre.copy())


class Hard:
    """Hard negatives in memory: as bright everywhere as no other stamp is; every third pair has none."""

    def __init__(self, pairs):
        self.pairs = pairs
        self.usable = np.arange(len(pairs.keys)) % 3 > 0

    def take(self, rows):
        assert self.usable[rows].all()
        return self.pairs.take(rows).control + np.float32(1000)


def dataset(pairs, sampling=PLAIN, seed=42, negatives=None, *, preprocess=ASINH, hard=None):
    return PairDataset(pairs, sampling, preprocess, seed=seed, negatives=negatives, hard=hard)


def by_key(pairs, sampling, *, epoch=0, batch_size=5, workers=0, seed=42, negatives=None, hard=None):
    """Rows of one epoch by key, as the loader gives them."""
    rows = dataset(pairs, sampling, seed, negatives, hard=hard)
    order = rows.order()
    order.set_epoch(epoch)
    loader = DataLoader(
        rows,
        batch_sampler=EvenBatches(order, batch_size),
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    found = {}
    for batch in loader:
        assert len(batch.x) == len(batch.y) == 2 * len(batch.keys)
        for i, key in enumerate(batch.keys):
            assert key not in found
            assert batch.y[2 * i] == 1
            assert batch.y[2 * i + 1] == 0
            found[key] = batch.x[2 * i : 2 * i + 2].numpy()
    return found


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def reordered(pairs, order):
    return Pairs(tuple(pairs.keys[i] for i in order), tuple(pairs.hosts[i] for i in order), pairs.take(order))


def test_rows_do_not_depend_on_workers_batch_size_or_row_order():
    pairs, discs = make_pairs(), make_discs()
    sampling = PairSampling(disc_share=0.3)
    reference = by_key(pairs, sampling, negatives=discs)
    assert len(reference) == len(pairs.keys)
    assert same(reference, by_key(pairs, sampling, batch_size=1, negatives=discs))
    assert same(reference, by_key(pairs, sampling, batch_size=12, negatives=discs))
    assert same(reference, by_key(pairs, sampling, workers=1, negatives=discs))
    assert same(reference, by_key(reordered(pairs, range(11, -1, -1)), sampling, negatives=discs))


def test_rows_change_with_seed_and_epoch():
    pairs, sampling = make_pairs(), PairSampling()
    reference = by_key(pairs, sampling)
    assert not same(reference, by_key(pairs, sampling, epoch=1))
    assert not same(reference, by_key(pairs, sampling, seed=43))
    assert same(reference, by_key(pairs, sampling))


def test_order_holds_each_row_once_and_is_keyed_by_epoch():
    order = EpochOrder(np.zeros(50, int), seed=1)
    rows = list(order)
    assert sorted(rows) == [(0, i) for i in range(50)]
    assert rows != sorted(rows)
    order.set_epoch(3)
    assert {epoch for epoch, _ in order} == {3}
    assert [i for _, i in order] != [i for _, i in rows]
    assert list(EpochOrder(np.zeros(50, int), seed=1, epoch=3)) == list(order)


def test_batches_are_even_and_leave_nothing_out():
    batches = list(EvenBatches(EpochOrder(np.zeros(33, int), seed=1), 16))
    assert sorted(len(b) for b in batches) == [11, 11, 11]
    assert sorted(row for b in batches for _, row in b) == list(range(33))
    assert len(EvenBatches(EpochOrder(np.zeros(33, int), seed=1), 16)) == 3


def test_a_plain_pair_is_the_normalised_stamp_and_its_control():
    pairs = make_pairs()
    rows = by_key(pairs, PLAIN)
    b = pairs.block
    for i, key in enumerate(pairs.keys):
        assert np.array_equal(rows[key][0], ASINH.apply(b.stamp, b.x_center, b.y_center)[i])
        assert np.array_equal(rows[key][1], ASINH.apply(b.control, b.x_center, b.y_center)[i])


def test_a_matched_core_shows_no_edge():
    """The step across r = 5 px: the brief's fill has one in every galaxy, the matched one as the galaxy."""
    pairs = make_pairs(n=30)
    b = pairs.block
    r = radius_map((SIZE, SIZE), b.x_center, b.y_center)
    dropped = {
        fill: by_key(pairs, PLAIN.model_copy(update={"core_dropout_prob": 1.0, "core_dropout_fill": fill}))
        for fill in ("outer_median", "matched")
    } | {"none": by_key(pairs, PLAIN)}

    def step(rows, i):
        seen = rows[pairs.keys[i]][1][1]
        return seen[(r[i] >= 4) & (r[i] < 5)].mean() - seen[(r[i] >= 5) & (r[i] < 6)].mean()

    found = {name: np.array([step(rows, i) for i in range(30)]) for name, rows in dropped.items()}
    assert found["outer_median"].max() < -1.0
    assert np.abs(found["matched"] - found["none"]).mean() < 0.25
    core = r[0] < 4
    first_control = {name: rows[pairs.keys[0]][1] for name, rows in dropped.items()}
    noise = {name: np.diff(seen[1], axis=1)[core[:, 1:]].std() for name, seen in first_control.items()}
    assert noise["outer_median"] == 0.0
    assert noise["matched"] == pytest.approx(noise["none"], rel=0.5)  # not the sky's: asinh makes that larger
    for seen in first_control.values():  # what lies beyond the core is left alone
        assert np.array_equal(seen[:, r[0] >= 5], first_control["none"][:, r[0] >= 5])


def test_a_matched_core_knows_nothing_of_the_core_it_replaces():
    pairs = make_pairs(n=4)
    seen = ASINH.apply(pairs.block.control, pairs.block.x_center, pairs.block.y_center)
    r = radius_map(seen.shape, pairs.block.x_center, pairs.block.y_center)
    other = seen + 7 * np.random.default_rng(0).random(seen.shape).astype(np.float32) * (r < 5)[:, None]
    for i in range(4):
        centre = float(pairs.block.x_center[i]), float(pairs.block.y_center[i])
        fills = [matched_core(x[i], *centre, radius_pix=5.0) for x in (seen, other)]
        assert np.array_equal(*fills)


def negative_pixels(pairs, sampling, monkeypatch, **given):
    """Negatives as they are before normalisation."""
    monkeypatch.setattr(Preprocess, "apply", lambda _self, batch, *_: batch.copy())
    return by_key(pairs, sampling, **given)


def test_hard_negative_keeps_the_flux_of_each_band_and_moves_it(monkeypatch):
    pairs = make_pairs()
    rows = negative_pixels(pairs, PLAIN.model_copy(update={"hard_negative_ratio": 1.0}), monkeypatch)
    for i, key in enumerate(pairs.keys):
        arc = pairs.block.stamp[i].astype(np.float64) - pairs.block.control[i]
        added = rows[key][1].astype(np.float64) - pairs.block.control[i]
        np.testing.assert_allclose(added.sum((1, 2)), arc.sum((1, 2)), rtol=1e-5)
        assert np.abs(added - arc).max() > 1  # a shuffle that moves nothing would pass the line above


def test_the_share_of_hard_negatives_is_the_ratio(monkeypatch):
    pairs = make_pairs(n=200)
    rows = negative_pixels(pairs, PLAIN.model_copy(update={"hard_negative_ratio": 0.4}), monkeypatch)
    hard = sum(not np.array_equal(rows[k][1], pairs.block.control[i]) for i, k in enumerate(pairs.keys))
    assert 55 <= hard <= 105  # Binomial(200, .4): four standard deviations are 28


def test_paired_negatives_are_the_pairs_own_controls_and_unpaired_ones_another_hosts(monkeypatch):
    pairs = make_pairs(n=20, hosts=tuple(f"h{i // 2:03d}" for i in range(20)))
    rows = negative_pixels(pairs, PLAIN.model_copy(update={"paired": False}), monkeypatch)
    host_of = {pairs.block.control[i].tobytes(): h for i, h in enumerate(pairs.hosts)}
    arcs = {pairs.hosts[pairs.keys.index(key)] for key in rows}
    controls = {host_of[row[1].tobytes()] for row in rows.values()}
    assert len(arcs) == 5
    assert not arcs & controls
    paired = negative_pixels(pairs, PLAIN, monkeypatch)
    assert all(np.array_equal(paired[k][1], pairs.block.control[i]) for i, k in enumerate(pairs.keys))


def test_unpaired_sampling_of_one_host_is_refused():
    pairs = make_pairs(n=3, hosts=("h", "h", "h"))
    with pytest.raises(DataError, match="at least two hosts, found 1"):
        dataset(pairs, PLAIN.model_copy(update={"paired": False}))


def test_disc_share_replaces_controls_and_only_where_there_are_discs(monkeypatch):
    pairs, discs = make_pairs(n=100), make_discs()
    sampling = PLAIN.model_copy(update={"disc_share": 0.3})
    rows = negative_pixels(pairs, sampling, monkeypatch, negatives=discs)
    assert 12 <= sum(row[1].mean() > 50 for row in rows.values()) <= 48
    assert all(row[0].mean() < 50 for row in rows.values())
    without = negative_pixels(pairs, sampling, monkeypatch)
    assert all(row[1].mean() < 50 for row in without.values())


def test_core_dropout_strikes_both_members_alike_after_normalisation():
    pairs = make_pairs(n=60)
    rows = by_key(pairs, PLAIN.model_copy(update={"core_dropout_prob": 0.5}))
    plain = by_key(pairs, PLAIN)
    dropped = 0
    for i, key in enumerate(pairs.keys):
        y, x = np.mgrid[:SIZE, :SIZE]
        r = np.hypot(x - pairs.block.x_center[i], y - pairs.block.y_center[i])
        changed = [not np.array_equal(rows[key][m], plain[key][m]) for m in (0, 1)]
        assert changed[0] == changed[1]
        dropped += changed[0]
        for member in (0, 1):
            assert np.array_equal(rows[key][member][:, r >= 5], plain[key][member][:, r >= 5])
            if changed[0]:
                fill = np.median(plain[key][member][:, r > 20], axis=1)
                assert np.array_equal(rows[key][member][:, r < 5], np.repeat(fill[:, None], (r < 5).sum(), 1))
    assert 15 <= dropped <= 45


def test_core_dropout_radius_is_used():
    pairs = make_pairs(n=4)
    small, large = (
        by_key(pairs, PLAIN.model_copy(update={"core_dropout_prob": 1.0, "core_dropout_radius_pix": r}))
        for r in (3.0, 7.0)
    )
    assert not same(small, large)


@pytest.mark.parametrize(("switch", "orientations"), [("rotations", 4), ("flips", 2)])
def test_members_of_a_pair_are_turned_the_same_way(switch, orientations):
    pairs = make_pairs(n=40)
    plain = by_key(pairs, PLAIN)
    turned = by_key(pairs, PLAIN.model_copy(update={switch: True}))
    ways = {
        "rotations": [lambda a, k=k: np.rot90(a, k, axes=(-2, -1)) for k in range(4)],
        "flips": [lambda a: a, lambda a: a[..., ::-1]],
    }[switch]
    seen = set()
    for key in pairs.keys:
        way = next(k for k, turn in enumerate(ways) if np.array_equal(turn(plain[key][0]), turned[key][0]))
        assert np.array_equal(ways[way](plain[key][1]), turned[key][1])
        seen.add(way)
    assert len(seen) == orientations


ALTERNATIVES = {
    "paired": False,
    "hard_negative_ratio": 0.9,
    "core_dropout_prob": 1.0,
    "core_dropout_radius_pix": 8.0,
    "core_dropout_fill": "matched",
    "hard_negative_kinds": ("HN3",),
    "flips": False,
    "rotations": False,
    "shift_pix": 0.5,
    "added_noise": 1.0,
    "disc_share": 0.9,
}
ELSEWHERE = {"window_shards", "hard_negative_likeness"}  # which rows are read: test_stored


@pytest.mark.parametrize("name", sorted({*PairSampling.model_fields} - ELSEWHERE))
def test_every_sampling_field_changes_the_rows(name, monkeypatch):
    pairs, discs = make_pairs(), make_discs()
    hard = Hard(pairs)
    changed = PairSampling.model_validate({name: ALTERNATIVES[name]})
    if name == "hard_negative_kinds":  # no normalisation, which would hide how bright they are
        monkeypatch.setattr(Preprocess, "apply", lambda _self, batch, *_: batch.copy())
    reference = by_key(pairs, PairSampling(), negatives=discs, hard=hard)
    assert not same(reference, by_key(pairs, changed, negatives=discs, hard=hard))


def test_stored_hard_negatives_stand_where_there_are_any(monkeypatch):
    pairs = make_pairs()
    stored = PLAIN.model_copy(update={"hard_negative_ratio": 1.0, "hard_negative_kinds": ("HN1", "HN5")})
    rows = negative_pixels(pairs, stored, monkeypatch, hard=Hard(pairs))
    for i, key in enumerate(pairs.keys):
        added = rows[key][1] - pairs.block.control[i]
        assert np.allclose(added, 1000.0 if i % 3 else 0.0, atol=1e-3)
    with pytest.raises(DataError, match="HN1, HN5 were not made"):
        dataset(pairs, stored)
    assert len(dataset(pairs, stored.model_copy(update={"hard_negative_ratio": 0.0}))) == 12


def test_the_shuffle_is_drawn_as_often_as_each_other_kind(monkeypatch):
    pairs = make_pairs(n=60)
    mixed = PLAIN.model_copy(
        update={"hard_negative_ratio": 1.0, "hard_negative_kinds": ("HN0", "HN1", "HN5")}
    )
    hard = Hard(pairs)
    hard.usable[:] = True
    rows = negative_pixels(pairs, mixed, monkeypatch, hard=hard)
    share = np.mean([rows[key][1].min() > 500 for key in pairs.keys])
    assert 0.45 < share < 0.85
    hard.usable[:] = False  # the shuffle stands for what could not be made: the share is kept
    rows = negative_pixels(pairs, mixed, monkeypatch, hard=hard)
    assert not any(np.array_equal(rows[key][1], pairs.block.control[i]) for i, key in enumerate(pairs.keys))


@pytest.mark.parametrize("changed", [{"shift_pix": 0.9}, {"added_noise": 2.0}])
def test_what_is_done_to_one_member_is_done_to_the_other(changed, monkeypatch):
    """Their difference is still the arc, moved with them: nothing new tells the label."""
    pairs = make_pairs()
    rows = negative_pixels(pairs, PLAIN.model_copy(update=changed), monkeypatch)
    for i, key in enumerate(pairs.keys):
        arc, found = pairs.block.stamp[i] - pairs.block.control[i], rows[key][0] - rows[key][1]
        assert found.sum() == pytest.approx(arc.sum(), rel=0.02)
        assert np.abs(found - arc).max() < 0.9 * arc.max()
        assert not np.array_equal(rows[key][1], pairs.block.control[i])


def test_added_noise_takes_the_same_share_of_signal_to_noise_from_every_band(monkeypatch):
    pairs = make_pairs(n=40)
    faint = np.array([1.0, 3.0, 10.0], np.float32)[:, None, None]
    b = pairs.block
    pairs = replace(pairs, block=PairBlock(b.stamp * faint, b.control * faint, b.x_center, b.y_center))
    rows = negative_pixels(pairs, PLAIN.model_copy(update={"added_noise": 2.0}), monkeypatch)
    added = np.stack([rows[key][1] - pairs.block.control[i] for i, key in enumerate(pairs.keys)])
    level = added.std(axis=(2, 3))
    assert np.allclose(level[:, 1:] / level[:, :1], [3.0, 10.0], rtol=0.2)
    assert level[:, 0].max() > 1.5  # up to twice the background's own
    assert level[:, 0].min() < 0.5


def test_the_preprocess_is_used():
    pairs = make_pairs()
    robust = PairDataset(pairs, PLAIN, Preprocess(kind="robust"), seed=1)[(0, 0)]
    assert float(robust.x.abs().max()) == 5.0
    assert float(dataset(pairs)[(0, 0)].x.abs().max()) != 5.0


def test_views_hold_arcs_then_controls_with_their_core():
    pairs = make_pairs(n=7)
    loader = DataLoader(
        ViewDataset(pairs, ASINH, radius_pix=5.0), batch_size=4, collate_fn=first, shuffle=False
    )
    batches = list(loader)
    assert [len(b.x) for b in batches] == [8, 6]
    assert batches[0].y.tolist() == [1.0] * 4 + [0.0] * 4
    gone = (batches[0].hidden == 0).all(dim=1)
    assert gone.shape == (8, SIZE, SIZE)
    assert 70 <= int(gone[0].sum()) <= 86  # pi 5^2
    rest = ~gone[:, None].expand_as(batches[0].x)
    assert torch.equal(batches[0].hidden[rest], batches[0].x[rest])
    matched = ViewDataset(pairs, ASINH, radius_pix=5.0, matched=True)[0]
    assert torch.equal(matched.x, batches[0].x[[0, 4]])
    assert torch.equal(matched.hidden[rest[[0, 4]]], matched.x[rest[[0, 4]]])
    assert (matched.hidden[:, :, 32, 32] > 0.5).all()  # where the galaxy is: no hole
    b = pairs.block
    assert np.array_equal(batches[0].x[0].numpy(), ASINH.apply(b.stamp, b.x_center, b.y_center)[0])


def paired_rows(n=4, **columns):
    pairs = make_pairs(n)
    rows = PAIRED_STAMPS.mock(n).to_pydict()
    given = {
        "task_id": [f"t{i}#0" for i in reversed(range(n))],
        "stamp_npz": [encode_planes("image", a) for a in pairs.block.stamp],
        "ctrl_stamp_npz": [encode_planes("image", a) for a in pairs.block.control],
        "x_center_pix": pairs.block.x_center,
        "y_center_pix": pairs.block.y_center,
        "arc_snr_mf": [10.0] * n,
        "reject": [None] * n,
    }
    return PAIRED_STAMPS.conform({**rows, **given, **columns})


def test_pairs_are_read_in_the_order_of_their_task_and_above_the_floor():
    rows = paired_rows(arc_snr_mf=[10.0, 4.0, None, 6.0], reject=[None, None, None, None])
    pairs = Pairs.read(rows, snr_floor_mf=5.0)
    assert pairs.keys == ("t0#0", "t3#0")
    assert np.array_equal(pairs.block.stamp[1], make_pairs(4).block.stamp[0])
    assert len(Pairs.read(rows).keys) == 3


def test_rejected_pairs_are_left_out_and_an_empty_set_is_refused():
    blobs = paired_rows()
    some = paired_rows(reject=["below_snr_floor", None, None, None])
    assert len(Pairs.read(some).keys) == len(Pairs.read(blobs).keys) - 1
    with pytest.raises(
        DataError, match=r"part-3: holds no pair with an arc of arc_snr_mf >= 99 \(4 rows read\)"
    ):
        Pairs.read(blobs, snr_floor_mf=99, where="part-3")


def test_a_repeated_task_is_refused():
    with pytest.raises(DataError, match="task_id is repeated"):
        Pairs.read(paired_rows(task_id=["a", "a", "b", "c"]))


def test_a_stamp_with_a_nan_is_named():
    bad = make_pairs(4).block.stamp
    bad[2, 1, 5, 5] = np.nan
    blobs = [encode_planes("image", a) for a in bad]
    with pytest.raises(StampError, match="part-3 t1#0 stamp_npz: holds values that are not finite"):
        Pairs.read(paired_rows(stamp_npz=blobs), where="part-3")


def test_stamps_of_two_sizes_are_refused():
    blobs = [
        encode_planes("image", a[:, : 64 - 2 * i, : 64 - 2 * i])
        for i, a in enumerate(make_pairs(4).block.stamp)
    ]
    with pytest.raises(StampError, match="others are"):
        Pairs.read(paired_rows(stamp_npz=blobs))


def test_negatives_are_discs_without_an_arc():
    n = 4
    stamps = [encode_planes("image", a) for a in make_pairs(n).block.stamp]
    columns = {
        "kind": ["disc", "lrg", "disc", "disc"],
        "arc_domain": [None, None, "nature", None],
        "reject": [None, None, None, "missing_band"],
        "stamp_npz": stamps,
    }
    rows = STAMPS.conform({**STAMPS.mock(n).to_pydict(), **columns})
    negatives = Negatives.read(rows)
    assert negatives.keys == ("target_id-00000",)
    assert Negatives.read(rows, kinds=("contaminant",)) is None


def test_unknown_sampling_keys_and_shares_above_one_are_refused():
    from darkhaloscope.contracts.config import parse

    with pytest.raises(ConfigError, match="'hard_negatives' is not a known key"):
        parse({"hard_negatives": 0.4}, PairSampling, "x.yaml")
    with pytest.raises(ConfigError, match="core_dropout_prob"):
        parse({"core_dropout_prob": 1.5}, PairSampling, "x.yaml")


def test_collate_joins_rows_and_keys():
    a = TrainingRows(torch.zeros(2, 3, 4, 4), torch.tensor([1.0, 0.0]), ("a",))
    b = TrainingRows(torch.ones(2, 3, 4, 4), torch.tensor([1.0, 0.0]), ("b",))
    joined = collate([a, b])
    assert joined.x.shape == (4, 3, 4, 4)
    assert joined.y.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert joined.keys == ("a", "b")


def test_a_disc_stands_in_only_for_a_control_of_its_own_domain():
    """Otherwise real pixels would be commoner among arcs than among negatives."""
    pairs, discs = make_pairs(12), make_discs()
    domain = np.array(["real"] * 6 + ["sim"] * 6)
    mixed = replace(pairs, block=replace(pairs.block, domain=domain))
    simulated = replace(discs, domain=np.array(["sim"] * 4))
    always = PLAIN.model_copy(update={"disc_share": 1.0})
    rows = dataset(mixed, always, negatives=simulated)
    plain = dataset(mixed, PLAIN)
    for row in range(12):
        same = torch.equal(rows[(0, row)].x[1], plain[(0, row)].x[1])
        assert same == (domain[row] == "real")


def test_hard_negatives_come_at_the_briefs_ratio_whatever_the_share_of_discs():
    pairs = make_pairs(400)
    sampling = PLAIN.model_copy(update={"hard_negative_ratio": 0.4, "disc_share": 1.0})
    rows, discs = dataset(pairs, sampling, negatives=make_discs()), make_discs()
    disc = ASINH.apply(discs.stamp, discs.x_center, discs.y_center)
    is_disc = [any(np.array_equal(rows[(0, k)].x[1].numpy(), d) for d in disc) for k in range(400)]
    assert 1 - np.mean(is_disc) == pytest.approx(0.4, abs=0.08)
