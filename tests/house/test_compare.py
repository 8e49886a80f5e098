"""`dhs compare` on finished runs: what it writes, how it escapes it, and what it refuses."""

import csv
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.evaluation.scored_arms import lookalikes, split
from tests.report import layout

from darkhaloscope.contracts.store import local_writer, open_dataset, write_rows
from darkhaloscope.contracts.tables import SCORES, SPLITS
from darkhaloscope.pipeline.experiment import claim, load_experiment
from darkhaloscope.report.arm_bars import arm_bars, decides
from darkhaloscope.report.captions import caption
from darkhaloscope.report.comparison import COLUMNS, latex, read_comparison
from darkhaloscope.report.figures import ablation

PLACES = {"train": (1000, 200, -1000), "calib": (100, 400, 1000), "test": (0, 400, 0)}
"""Of each split: the sky its rows are drawn on, its arcs, its first cell."""


def sky_scores(number, shift, sky):
    """(pairs, targets) as SCORES, each with the split of its rows: all three splits of one network."""
    made = {
        name: split(number, shift, sky=sky + own, arcs=arcs, first_cell=cell)
        for name, (own, arcs, cell) in PLACES.items()
    }
    found = []
    for is_pair in (True, False):
        parts = [
            (
                name,
                rows.filter(
                    pc.is_valid(rows.column("arc_domain"))
                    if is_pair
                    else pc.is_null(rows.column("arc_domain"))
                ),
            )
            for name, rows in made.items()
        ]
        marks = [name for name, rows in parts for _ in range(rows.num_rows)]
        found.append((pa.concat_tables([rows for _, rows in parts]), marks))
    return found


def write_scores(folder, name, rows, checkpoint, source):
    job = {"job": "score", "checkpoint_sha256": checkpoint}
    write_rows(local_writer(folder / f"scores-{name}", SCORES), rows, shard_rows=5000, job=job, inputs=source)


def fake_run(out, name, *, shift=1.0, seeds=(42, 43, 44), base=0, sky=0, overrides=(), mark="sky"):
    """A folder as `dhs train --seeds` leaves it, without pixels and networks."""
    settings = [f"name={json.dumps(name)}", f"training.seed={seeds[0]}", *overrides]
    claim(out, load_experiment("demo.yaml", settings))
    for seed in seeds:
        number = 1000 * base + seed
        checkpoint = hashlib.sha256(f"{name} {seed}".encode()).hexdigest()
        folder = out if seed == seeds[0] else out / "seeds" / str(seed)
        for dataset, (rows, marks) in zip(("pairs-sky", "sky"), sky_scores(number, shift, sky), strict=True):
            source = {"source": f"{dataset} of {mark} {sky}"}
            write_scores(folder, dataset, rows, checkpoint, source)
            if seed == seeds[0]:
                names = ("row_id", "target_id", "host_id", "group", "kind")
                columns = {c: rows.column(c) for c in names} | {"split": marks}
                writer = local_writer(out / f"splits-{dataset}", SPLITS)
                write_rows(
                    writer, SPLITS.conform(columns), shard_rows=5000, job={"job": "split"}, inputs=source
                )
        write_scores(folder, "anchors", lookalikes(number), checkpoint, {"source": "anchors"})
    return out


NASTY = "100%_$\\{x} <script>alert('&')</script> ~^#"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return {
        "full": fake_run(out / "full", "gen5_prime_full"),
        "worse": fake_run(
            out / "worse", "ablate_minimal", shift=0.3, base=1, overrides=["sampling.paired=false"]
        ),
        "same": fake_run(out / "same", "ablate_no_hardneg", base=2),
        "nasty": fake_run(out / "nasty", NASTY, seeds=(42,), base=3),
    }


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory, dhs):
    """(folder, answer) of comparing all of them."""
    out = tmp_path_factory.mktemp("made")
    return out, dhs("compare", *runs.values(), "--out", out)


@pytest.fixture
def copied(runs, tmp_path):
    """Runs that a test may spoil."""
    for name in ("full", "same"):
        shutil.copytree(runs[name], tmp_path / name)
    return tmp_path


def rows_of(out):
    with (out / "master_comparison.csv").open(newline="") as file:
        return {(row["arm"], row["endpoint"]): row for row in csv.DictReader(file)}


def test_a_comparison_is_one_row_for_each_arm_and_endpoint(made):
    out, answer = made
    assert answer.code == 0, answer.err
    rows = rows_of(out)
    arms = {arm for arm, _ in rows}
    assert arms == {"gen5_prime_full", "ablate_minimal", "ablate_no_hardneg", NASTY}
    endpoints = {endpoint for _, endpoint in rows}
    assert len(rows) == len(arms) * len(endpoints)
    assert endpoints >= {
        "auroc_synth",
        "tpr_at_fpr_001_synth",
        "auroc_synth_core_masked",
        "core_masked_drop_synth",
        "calibration_ece_synth",
        "mock_contaminant_fpr_ring_p50",
    }
    first = rows["ablate_minimal", "auroc_synth"]
    assert tuple(first) == COLUMNS
    assert (first["verdict"], first["pairing"], first["seeds"]) == ("significant", "paired", "42 43 44")
    assert float(first["delta_high"]) < -0.02
    assert float(first["p"]) <= float(first["p_holm"]) < 0.05
    manifests = first["manifests"].split()
    assert len(manifests) == 2 * 3
    assert rows["gen5_prime_full", "auroc_synth"]["verdict"] == "reference"


def test_what_stands_in_the_table_is_what_the_scores_say(made, runs):
    """Read straight from the store: the mean over seeds of AUROC of the test split."""
    from sklearn.metrics import roc_auc_score

    out, _ = made
    found = []
    for folder in (runs["worse"], runs["worse"] / "seeds" / "43", runs["worse"] / "seeds" / "44"):
        pairs, sky = (open_dataset(folder / f"scores-{name}").read() for name in ("pairs-sky", "sky"))
        test = [[row for row in rows.to_pylist() if row["row_id"].startswith("s0-")] for rows in (pairs, sky)]
        arcs = [row["score"] for row in test[0]]
        plain = [row["score_ctrl"] for row in test[0]] + [row["score"] for row in test[1]]
        found.append(roc_auc_score([1] * len(arcs) + [0] * len(plain), arcs + plain))
    row = rows_of(out)["ablate_minimal", "auroc_synth"]
    assert float(row["value"]) == pytest.approx(sum(found) / 3, abs=1e-8)
    assert int(row["n"]) == len(arcs) + len(plain)


def test_an_arm_that_changes_nothing_is_told_as_plainly_as_one_that_does(made):
    out, answer = made
    lines = {line.partition(":")[0]: line for line in answer.err.splitlines() if ": " in line}
    assert lines["ablate_minimal"].startswith("ablate_minimal: significant in auroc_synth −0.")
    nothing = lines["ablate_no_hardneg"]
    assert nothing.startswith("ablate_no_hardneg: no significant difference; ")
    assert re.search(r"equivalent in |inconclusive in \w+ \(MDE 0\.\d+\)", nothing)
    page = (out / "master_comparison.html").read_text()
    assert "no significant difference" in page
    for row in rows_of(out).values():
        if row["arm"] == "ablate_no_hardneg" and row["p_holm"]:
            assert row["verdict"] in ("equivalent", "inconclusive")
            assert re.search(r"equivalent within ±|MDE ", row["wording"])


def test_one_seed_is_printed_with_its_interval_and_is_not_significant(made):
    out, answer = made
    row = rows_of(out)[NASTY, "auroc_synth"]
    assert row["verdict"] == "not evaluated"
    assert all(row[name] for name in ("delta", "delta_low", "delta_high"))
    assert (row["p"], row["p_holm"], row["delta_status"]) == ("", "", "NOT_EVALUATED")
    assert "one seed: not significant by rule, needs 3" in row["wording"]
    assert "has 1 of 3 seeds: not significant by rule" in answer.err


def test_what_an_arm_is_stands_beside_it(made):
    _, answer = made
    assert "ablate_minimal differs from gen5_prime_full in: sampling.paired: true -> false" in answer.err
    assert "ablate_no_hardneg differs from gen5_prime_full in: nothing but its name" in answer.err
    assert (
        "declared in the protocol and not given: ablate_no_coredrop, gen7_hybrid, gen8_domain_rand"
        in answer.err
    )
    assert "is not declared in the protocol: exploratory" in answer.err
    assert "tpr_at_fpr_001_synth" in answer.err  # the table itself


def test_the_same_runs_give_the_same_bytes(made, runs, tmp_path, dhs):
    out, _ = made
    assert dhs("compare", *runs.values(), "--out", tmp_path).code == 0
    for kind in ("csv", "tex", "html", "json"):
        name = f"master_comparison.{kind}"
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
        assert str(out.parent).encode() not in (out / name).read_bytes()  # no folder of this machine


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_escapes_names_and_asks_nothing_of_the_network(made):
    out, _ = made
    page = Page()
    page.feed((out / "master_comparison.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    assert NASTY in page.text
    links = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href")]
    assert all(link.startswith(("#", "data:")) for link in links)


SPECIAL = re.compile(r"(?<!\\)[%_#~^<>|]|(?<!\\)&")


def cells(tex):
    """The rows of the tabular, cut at what separates cells."""
    body = tex[tex.index(r"\toprule") : tex.index(r"\bottomrule")]
    lines = [line.removesuffix(r" \\") for line in body.splitlines() if line.endswith(r"\\")]
    return [re.split(r" & ", line) for line in lines]


def test_the_latex_table_is_ready_for_a_paper(made):
    out, _ = made
    tex = (out / "master_comparison.tex").read_text()
    head, *rows = cells(tex)
    assert len(head) == 6
    assert {len(row) for row in rows} == {1, 6}  # an endpoint's own line, or a row
    for row in rows:
        for cell in row:
            plain = cell.replace(r"\multicolumn{6}{l}", "")
            assert not SPECIAL.search(plain), cell
            assert plain.replace(r"\{", "").replace(r"\}", "").count("{") == plain.replace(r"\{", "").replace(
                r"\}", ""
            ).count("}")
    assert latex(NASTY) in tex
    caption = re.search(r"\\caption\{(.*)\}\n", tex).group(1)
    for words in (
        "gen5\\_prime\\_full: 3 (42, 43, 44)",
        "n counts rows",
        "95 per cent intervals",
        "B = 2000",
        "Holm",
    ):
        assert words in caption
    assert "n = 1500 in 50 cells" in tex
    assert r"\usepackage{booktabs}" in tex
    assert "Not evaluated, for want of rows: tpr\\_at\\_fpr\\_0001\\_synth" in tex
    assert tex.count("{table*}") == 2


def test_latex_text_is_escaped_letter_by_letter():
    assert latex("a_b%") == r"a\_b\%"
    assert latex("\\{}") == r"\textbackslash{}\{\}"
    assert latex("<&>") == r"\textless{}\&\textgreater{}"
    assert SPECIAL.search("a_b")  # the checker itself
    assert not SPECIAL.search(latex("#%&_~^<>|$"))


def test_the_json_holds_all_of_it(made):
    out, _ = made
    told = json.loads((out / "master_comparison.json").read_text())
    assert told["protocol_version"] == "2.0"
    assert told["arms"][0]["name"] == "gen5_prime_full"
    assert {d["arm"] for d in told["comparison"]["detections"]} >= {"ablate_minimal", "ablate_no_hardneg"}
    assert len(told["comparison"]["rows"]) == len(rows_of(out))


def test_the_test_split_is_opened_in_writing(made, runs):
    opened = json.loads((runs["full"] / "results" / "test_opened.json").read_text())
    assert [entry["reason"] for entry in opened] == [f"network of seed {n} of this run" for n in (42, 43, 44)]


# --- the figure ------------------------------------------------------------------------------------------


def bars_of(out):
    table = read_comparison(out)
    return arm_bars(table.comparison, table.deciding)


def test_the_figure_shows_the_deciding_differences_as_the_table_has_them(made):
    out, _ = made
    bars, rows = bars_of(out), rows_of(out)
    assert [e.quantity for e in bars.endpoints] == [
        "difference in auroc_synth",
        "difference in tpr_at_fpr_001_synth",
    ]
    assert any(text.startswith("anchor_recall_at_k (no such rows") for text in bars.lacking)
    for endpoint in bars.endpoints:
        assert (endpoint.reference, endpoint.least) == (0.0, 0.02)
        for arm in endpoint.arms:
            row = rows[arm.arm, endpoint.quantity.removeprefix("difference in ")]
            assert arm.n == int(row["n"])
            if row["verdict"] in ("reference", "not evaluated"):
                assert (arm.value, arm.verdict) == (None, "")
                assert arm.remark
            else:
                told = (arm.value, arm.low, arm.high)
                assert told == pytest.approx([float(row[f"delta{end}"]) for end in ("", "_low", "_high")])
                assert arm.verdict == row["verdict"]
                assert sum(seed.value for seed in arm.seeds) / 3 == pytest.approx(arm.value)
    assert {arm.arm: arm.remark for arm in bars.endpoints[0].arms}[NASTY] == "one seed, needs 3"


def test_the_figure_is_a_paper_with_captions_hashes_and_manifests(made):
    out, _ = made
    index = json.loads((out / "paper" / "index.json").read_text())
    assert set(index["files"]) == {"figures/ablation.pdf", "figures/ablation.png", "captions.tex"}
    for name, entry in index["files"].items():
        assert hashlib.sha256((out / "paper" / name).read_bytes()).hexdigest() == entry["sha256"]
        assert set(rows_of(out)["ablate_minimal", "auroc_synth"]["manifests"].split()) <= set(
            entry["manifests"]
        )
    told = caption(bars_of(out))
    for words in ("95 %: cluster bootstrap", "and 3 seeds", "n = 1\N{NARROW NO-BREAK SPACE}500", "±0.02"):
        assert words in told
    assert f"Seeds 42 ({NASTY}); 42, 43, 44 (gen5_prime_full" in told
    assert layout.faults(ablation(bars_of(out))) == []


def test_the_page_shows_the_figure_itself(made):
    out, _ = made
    page = Page()
    page.feed((out / "master_comparison.html").read_text())
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert [image.partition(",")[0] for image in images] == ["data:image/svg+xml;base64"]


def test_all_of_it_comes_again_from_the_json_alone(made, tmp_path, dhs):
    out, _ = made
    shutil.copy(out / "master_comparison.json", tmp_path)
    answer = dhs("report", tmp_path)
    assert answer.code == 0, answer.err
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert len(names) == 8
    for name in names:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name
    held = json.loads((tmp_path / "master_comparison.json").read_text())
    moved = next(row for row in held["comparison"]["rows"] if row["p_holm"] is not None)
    moved["delta"]["value"] += 0.001
    (tmp_path / "master_comparison.json").write_text(json.dumps(held))
    assert dhs("report", tmp_path).code == 0
    for name in ("paper/figures/ablation.png", "master_comparison.html"):
        assert (tmp_path / name).read_bytes() != (out / name).read_bytes(), name
    del held["deciding"]
    (tmp_path / "master_comparison.json").write_text(json.dumps(held))
    answer = dhs("report", tmp_path)
    assert (answer.code, "deciding" in answer.last) == (2, True), answer.err


def test_where_nothing_can_be_compared_the_figure_is_absent_with_its_reason(runs, tmp_path, dhs):
    few = fake_run(tmp_path / "few", "gen7_hybrid", seeds=(42,), base=9)
    for folders, why in (
        ([runs["full"]], "there is one arm: nothing is compared"),
        ([runs["full"], few], "auroc_synth (one seed, needs 3)"),
    ):
        out = tmp_path / f"of {len(folders)}"
        assert dhs("compare", *folders, "--out", out).code == 0
        index = json.loads((out / "paper" / "index.json").read_text())
        assert why in index["absent"]["figures/ablation"]
        assert not (out / "paper" / "figures").exists()
        assert f"No figure: {index['absent']['figures/ablation']}." in (
            out / "master_comparison.html"
        ).read_text().replace("&#39;", "'")


@pytest.mark.parametrize(
    ("endpoint", "is_one"),
    [
        ("auroc_synth", True),
        ("tpr_at_fpr_001_synth", True),
        ("anchor_recall_at_100", True),
        ("mock_anchor_recall_at_25", True),
        ("auroc_synth_core_masked", False),
        ("tpr_at_fpr_0001_synth", False),
        ("mock_contaminant_fpr_ring_p50", False),
        ("anchor_recall_at_k", False),
    ],
)
def test_the_protocols_primary_metrics_decide_and_no_others(endpoint, is_one):
    assert decides(endpoint, ("auroc_synth", "anchor_recall_at_k", "tpr_at_fpr_001")) is is_one


# --- refusals --------------------------------------------------------------------------------------------


def test_runs_under_different_protocols_are_refused_with_the_difference(copied, dhs):
    kept = copied / "same" / "protocol.json"
    held = json.loads(kept.read_text())
    held["significance"]["recall"] = 0.01
    kept.write_text(json.dumps(held))
    answer = dhs("compare", copied / "full", copied / "same", "--out", copied / "out")
    assert answer.code == 1
    assert "was run under another protocol than full: significance.recall: 0.02 -> 0.01" in answer.last
    assert not (copied / "out").exists()
    kept.unlink()
    answer = dhs("compare", copied / "full", copied / "same", "--out", copied / "out")
    assert (answer.code, "protocol.json: is not there" in answer.last) == (1, True)


@pytest.mark.parametrize(
    "lost", ["scores-sky", "seeds/43/scores-pairs-sky", "splits-sky", "seeds/44/scores-anchors"]
)
def test_a_run_that_lacks_scores_is_refused_by_name(copied, dhs, lost):
    shutil.rmtree(copied / "same" / lost)
    answer = dhs("compare", copied / "full", copied / "same", "--out", copied / "out")
    assert answer.code == 1
    assert f"same/{lost}: is not there" in answer.last
    assert "Traceback" not in answer.err


def test_changed_or_foreign_scores_are_refused(copied, dhs):
    shard = next((copied / "same" / "scores-sky" / "shards").iterdir())
    held = shard.read_bytes()
    shard.write_bytes(held[:-1] + b"x")
    answer = dhs("compare", copied / "full", copied / "same", "--out", copied / "out")
    assert (answer.code, "has changed since it was committed" in answer.last) == (1, True)
    shard.write_bytes(held)
    shutil.rmtree(copied / "same" / "seeds" / "43" / "scores-sky")
    shutil.copytree(
        copied / "full" / "seeds" / "43" / "scores-sky", copied / "same" / "seeds" / "43" / "scores-sky"
    )
    answer = dhs("compare", copied / "full", copied / "same", "--out", copied / "out")
    assert (answer.code, "holds scores of several networks" in answer.last) == (1, True)


def test_the_same_network_under_two_names_is_refused(copied, dhs):
    shutil.copytree(copied / "full", copied / "again")
    config = copied / "again" / "config.yaml"
    config.write_text(config.read_text().replace("name: gen5_prime_full", "name: a_copy"))
    answer = dhs("compare", copied / "full", copied / "again", "--out", copied / "out")
    assert answer.code == 1
    assert "is the same network as gen5_prime_full, seed 42" in answer.last


def test_seeds_that_the_run_lists_must_be_those_that_were_scored(copied, dhs):
    told = copied / "same" / "results" / "seeds.json"
    told.parent.mkdir(exist_ok=True)
    told.write_text(json.dumps({"seeds": [{"seed": 43, "checkpoint": "0" * 64}], "across": {}}))
    answer = dhs("compare", copied / "full", copied / "same", "--out", copied / "out")
    assert answer.code == 1
    assert "names other networks than those scored, of seed 43" in answer.last


def moved(folder, first, second):
    """The splits of a run with two splits exchanged."""
    for name in ("pairs-sky", "sky"):
        rows = open_dataset(folder / f"splits-{name}")
        table, inputs = rows.read(), rows.manifest.inputs
        shutil.rmtree(folder / f"splits-{name}")
        other = {first: second, second: first}
        marks = [other.get(s, s) for s in table.column("split").to_pylist()]
        columns = {c: table.column(c) for c in table.column_names} | {"split": marks}
        writer = local_writer(folder / f"splits-{name}", SPLITS)
        write_rows(writer, SPLITS.conform(columns), shard_rows=5000, job={"job": "split"}, inputs=inputs)


def test_an_arm_that_trained_on_anothers_test_galaxies_is_refused(copied, dhs):
    moved(copied / "same", "train", "test")
    answer = dhs("compare", copied / "full", copied / "same", "--out", copied / "out")
    assert answer.code == 1
    assert re.search(
        r"\d+ test galaxies of gen5_prime_full trained ablate_no_hardneg, for instance s0-n", answer.last
    )


def test_galaxies_of_the_same_name_in_another_sky_are_others(runs, tmp_path, dhs):
    other = fake_run(tmp_path / "other", "gen7_hybrid", base=8, mark="another sky")
    moved(other, "train", "test")
    answer = dhs("compare", runs["full"], other, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert rows_of(tmp_path / "out")["gen7_hybrid", "auroc_synth"]["pairing"] == "unpaired, independent"


def test_arms_with_other_pixels_in_the_same_cells_are_unpaired(runs, tmp_path, dhs):
    """The same row names, other injections: their manifests tell."""
    other = fake_run(tmp_path / "other", "gen7_hybrid", base=8, mark="other arcs")
    assert dhs("compare", runs["full"], other, "--out", tmp_path / "out").code == 0
    row = rows_of(tmp_path / "out")["gen7_hybrid", "auroc_synth"]
    assert row["pairing"] == "unpaired, common cells"
    told = json.loads((tmp_path / "out" / "master_comparison.json").read_text())
    assert told["comparison"]["detections"] == []  # no common rows, no McNemar


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["full", "full"], "names a folder twice"),
        (["same"], "'gen5_prime_full' is none of the arms"),
        (["full", "same", "--reference", "nobody"], "allowed: gen5_prime_full, ablate_no_hardneg"),
    ],
)
def test_usage_is_exit_code_2(runs, tmp_path, dhs, words, said):
    answer = dhs("compare", *[runs.get(word, word) for word in words], "--out", tmp_path / "out")
    assert (answer.code, said in answer.last) == (2, True), answer.err
    assert not (tmp_path / "out").exists()


def test_two_runs_of_one_experiment_are_told_apart_by_their_folders(copied, tmp_path, dhs):
    again = fake_run(copied / "more", "gen5_prime_full", seeds=(52, 53, 54), base=5)
    answer = dhs(
        "compare", copied / "full", again, "--out", tmp_path / "out", "--reference", "gen5_prime_full@full"
    )
    assert answer.code == 0, answer.err
    row = rows_of(tmp_path / "out")["gen5_prime_full@more", "auroc_synth"]
    assert "seeds 52 less 42, 53 less 43, 54 less 44" in row["delta_detail"]


def test_one_run_alone_is_measured(runs, tmp_path, dhs):
    answer = dhs("compare", runs["worse"], "--out", tmp_path, "--reference", "ablate_minimal")
    assert answer.code == 0, answer.err
    assert {row["verdict"] for row in rows_of(tmp_path).values()} == {"reference"}
    assert "nothing is compared" in (tmp_path / "master_comparison.html").read_text()


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path, runs, dhs):
    answer = dhs("compare", runs["full"], tmp_path, "--out", tmp_path / "out")
    assert (answer.code, "holds no run (no config.yaml)" in answer.last) == (1, True)
