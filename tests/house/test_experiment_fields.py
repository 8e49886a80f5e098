"""Every field of an experiment file changes something in what a run makes."""

from collections import Counter

import numpy as np
import pyarrow.compute as pc
import pytest
from benchmarks.independent_arcs import make as make_independent

from darkhaloscope.contracts.config import canonical, parse
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.store import local_writer, write_rows
from darkhaloscope.contracts.tables import PAIRED_STAMPS, STAMPS
from darkhaloscope.dataset.splits import SplitConfig
from darkhaloscope.pipeline.data import DataStages
from darkhaloscope.pipeline.experiment import Experiment, Lookalikes, SurveyConfig, check_inputs
from darkhaloscope.pipeline.modelling import ModelStages

LOOKALIKES = {"bricks": 2, "ring": 1, "spiral": 1, "merger": 1, "spike": 1, "anchors": 1}
SMALL = {
    "name": "small",
    "survey": {"bricks": 3, "targets_per_brick": 2, "bricks_per_shard": 1, "lookalikes": LOOKALIKES},
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """The data stages of a small experiment with some keys changed, in a folder of their own."""
    made = {}

    def make(**changed):
        key = repr(sorted(changed.items()))
        if key not in made:
            data = canonical(parse(SMALL, Experiment, "small"))
            for path, value in changed.items():
                *parents, last = path.split("__")
                node = data
                for parent in parents:
                    node = node[parent]
                node[last] = value
            made[key] = DataStages(parse(data, Experiment, "test"), tmp_path_factory.mktemp("run"))
        return made[key]

    return make


def rows(dataset, *columns):
    return dataset.read(columns).to_pylist()


OBSERVED = {
    "seed": (7, lambda s: rows(s.sources["sky"], "flux_r")),
    "draws_per_host": (2, lambda s: s.pairs["sky"].num_rows),
    "recipe__flux_mode": ("snr_targeted", lambda s: rows(s.pairs["sky"], "arc_snr_mf")),
    "splits__seed": (9, lambda s: sorted(s.plan.items())),
    "splits__snr_floor_mf": (1e6, lambda s: s.pair_splits["sky"].manifest.rejects),
    "survey__bricks": (4, lambda s: s.sources["sky"].num_rows),
    "survey__targets_per_brick": (3, lambda s: s.sources["sky"].num_rows),
    "survey__bricks_per_shard": (2, lambda s: len(s.sources["sky"].keys)),
    "survey__size": (72, lambda s: len(rows(s.sources["sky"], "stamp_npz")[0]["stamp_npz"])),
    "survey__priors__discs__share": (1.0, lambda s: rows(s.sources["sky"], "kind")),
    **{
        f"survey__lookalikes__{name}": (3, lambda s: rows(s.lookalikes, "kind", "category"))
        for name in ("ring", "spiral", "merger", "spike", "anchors")
    },
    "survey__lookalikes__bricks": (1, lambda s: len(set(s.lookalikes.read(["brickname"])["brickname"]))),
}
ELSEWHERE = {
    "name": "test_docs.py and the report's title",
    "about": "test_the_page_says_what_the_experiment_is_about",
    "protocol": "test_verify_finds_a_flipped_gate_direction",
    "trusted_pairs": "below",
    "preprocess": "the checkpoint's card (tests/training)",
    "sampling": "the walk of PairSampling (tests/dataset/test_pairs.py)",
    "training": "the walk of TrainConfig (tests/training/test_train.py)",
    "survey__distractors": "below",
    "survey__hosts": "below",
    "survey__known_lenses": "below",
    "survey__known_lenses_optional": "below",
    "survey__assumed_psfsize_arcsec": "below",
    "splits__block_nside": "test_a_filled_sky_is_cut_into_blocks_and_the_guard_band_keeps_splits_apart",
    "splits__guard_share": "test_a_filled_sky_is_cut_into_blocks_and_the_guard_band_keeps_splits_apart",
    "splits__fractions": "test_the_seed_changes_the_plan_and_bad_fractions_are_refused",
}


def test_no_field_is_forgotten():
    fields = set(Experiment.model_fields) - {"survey", "splits", "recipe"}
    fields |= {f"survey__{n}" for n in SurveyConfig.model_fields if n not in ("lookalikes", "priors")}
    fields |= {f"survey__lookalikes__{n}" for n in Lookalikes.model_fields}
    fields |= {f"splits__{n}" for n in SplitConfig.model_fields}
    walked = set(OBSERVED) - {"recipe__flux_mode", "survey__priors__discs__share"}
    assert fields == walked | set(ELSEWHERE)


@pytest.mark.parametrize("field", OBSERVED)
def test_changing_a_field_changes_what_is_made(stages, field):
    value, seen = OBSERVED[field]
    assert seen(stages()) == seen(stages())
    assert seen(stages(**{field: value})) != seen(stages())


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory):
    """Two noisy galaxies as a cutout file: what a user brings."""
    y, x = np.mgrid[:80, :80] - 39.5
    light = 0.5 * np.exp(-np.hypot(x, y) / 3)
    images = light + np.random.default_rng(1).normal(0, 0.003, (2, 3, 80, 80))
    path = tmp_path_factory.mktemp("cutouts") / "mine.npz"
    np.savez(path, images=images.astype("f4"), pixscale=0.262)
    return path


def test_real_hosts_and_known_lenses_enter_where_the_experiment_names_them(stages, cutouts, tmp_path):
    plain = stages()
    assert plain.known_lenses is None
    assert list(plain.sources) == ["sky"]
    sharp = stages(survey__known_lenses=[str(cutouts)], survey__assumed_psfsize_arcsec=[1.0, 0.9, 0.8])
    blurred = stages(survey__known_lenses=[str(cutouts)])
    assert rows(sharp.known_lenses, "psfsize_r") != rows(blurred.known_lenses, "psfsize_r")
    assert pc.all(pc.equal(sharp.known_lenses.read(["arc_domain"])["arc_domain"], "real")).as_py()
    table = plain.sources["sky"].read()
    hosts = write_rows(local_writer(tmp_path / "hosts", STAMPS), table, shard_rows=64, job={"job": "test"})
    assert list(stages(survey__hosts=hosts.where).sources) == ["sky", "hosts"]


def test_an_absent_known_lens_stops_the_run_unless_the_experiment_may_do_without(stages, cutouts):
    names = [str(cutouts), str(cutouts.with_name("gone.npz"))]
    with pytest.raises(DataError, match=r"gone\.npz"):
        check_inputs(stages(survey__known_lenses=names).experiment)
    lenient = stages(survey__known_lenses=names, survey__known_lenses_optional=True)
    check_inputs(lenient.experiment)
    assert lenient.absent_lenses == (names[1],)
    assert lenient.known_lenses.num_rows == 2


def test_distractors_are_train_rows_in_cells_that_no_test_row_is_in(stages):
    assert list(stages().plain_negatives) == ["sky"]
    made = stages(survey__distractors={"bricks": 2, "ring": 3, "spiral": 0, "merger": 1, "spike": 0})
    found, splits = made.plain_negatives["distractors"]
    counts = Counter(row["category"] for row in rows(found, "category"))
    assert counts == {"ring": 3, "merger": 1}
    assert set(splits.read(["split"])["split"].to_pylist()) == {"train"}
    cells = set(found.read(["group"])["group"].to_pylist())
    assert all(made.plan[cell] == "train" for cell in cells)
    assert not cells & set(made.lookalikes.read(["group"])["group"].to_pylist())
    assert made.data_checks.named("split_group_overlap").passed


def with_trusted(stages, place, **changed):
    made = stages(**changed)
    return ModelStages(made.experiment.model_copy(update={"trusted_pairs": str(place)}), made.out)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_trusted_pairs_are_of_the_run_s_recipe_and_of_other_hosts(stages, tmp_path):
    plain = stages()
    made = make_independent(plain.experiment, tmp_path / "trusted", hosts=3)
    assert with_trusted(stages, made.where).trusted.fingerprint == made.fingerprint
    marks = [
        stage.gates_mark("sha")
        for stage in (with_trusted(stages, made.where), ModelStages(plain.experiment, plain.out))
    ]
    assert marks[0] != marks[1]
    with pytest.raises(DataError, match=r"shares \d+ hosts with the run"):
        _ = with_trusted(stages, plain.pairs["sky"].where).trusted
    with pytest.raises(DataError, match="arcs of another recipe"):
        _ = with_trusted(stages, made.where, recipe__flux_mode="snr_targeted").trusted


def test_trusted_pairs_are_opened_before_any_work(stages, tmp_path):
    plain = stages().experiment
    empty = write_rows(
        local_writer(tmp_path / "e", PAIRED_STAMPS),
        PAIRED_STAMPS.mock(0, seed=1),
        shard_rows=4,
        job={"job": "t"},
    )
    for place, said in ((tmp_path / "absent", "absent"), (empty.where, "holds no row")):
        with pytest.raises(DataError, match=said):
            check_inputs(plain.model_copy(update={"trusted_pairs": str(place)}))


def test_an_unpaired_arm_is_asked_whether_its_hosts_tell_the_label(stages):
    """In pairs the control is the same galaxy: there the question has no sense and is not asked."""
    made = stages(survey__bricks=12, survey__targets_per_brick=8, splits__snr_floor_mf=0.0)
    asked = {}
    for paired in (True, False):
        sampling = made.experiment.sampling.model_copy(update={"paired": paired})
        experiment = made.experiment.model_copy(update={"sampling": sampling})
        asked[paired] = {f.name: f for f in ModelStages(experiment, made.out).data_gates}
        (made.out / "results" / "data_gates.json").unlink()
    new = set(asked[False]) - set(asked[True])
    probes = {"class_core_lr_auc", "class_core_nl_auc", "class_texture_auc", "class_pixel_shift"}
    assert new == {*probes, "host_matching"}
    assert set(asked[True]) < set(asked[False])
    assert "flux_r" in asked[False]["host_matching"].detail
    assert not any(asked[False][name].decides for name in new)
