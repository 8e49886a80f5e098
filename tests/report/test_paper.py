"""The files of a paper: LaTeX that LaTeX reads, an index of where each came from, the same bytes twice."""

import hashlib
import json
import re

import pytest
from tests.report import shown
from tests.report.test_report import SCORES, measured, mock_results

from darkhaloscope.contracts.checks import Check, Status, below
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.report import RunResults, captions, tables, values, write_paper
from darkhaloscope.report.catalogue import KINDS, contaminant_rates, figures_of
from darkhaloscope.report.paper import TABLES, captions_tex
from darkhaloscope.report.report import render_report, unlisted_manifests

NASTY = r"50% of $5 & #1 {a_b}^2 ~ \input{/etc/passwd} <b>|x| [y] * Gödel’s “θ_E” ≥ 1.2″ − 中 \ "
NO_RATE = {"arc_domain": ArcDomain.NONE, "n_clusters": None, "method": "Clopper-Pearson 95 %"}


def everything(**changes):
    """A run that has something of every kind."""
    content = {
        "gallery": mock_results().gallery[3:5],
        "selection_maps": (shown.selection_map(),),
        "selection_curves": shown.selection_curves().curves[::3],
        "reliability": shown.reliability(),
        "realism": values.Realism(panels=shown.realism().panels[-2:]),
        "comparators": shown.comparators(),
        "ablation": shown.ablation(),
        "examples": shown.examples(each=1).examples,
    }
    return mock_results(**(content | changes))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    return folder, json.loads(write_paper(everything(), folder).read_text())


# --- LaTeX -----------------------------------------------------------------------------------------------


def latex_faults(text):
    """What LaTeX would choke on: braces, columns, special letters, a bracket after a line's end."""
    found = []
    lines = [line for line in text.splitlines() if not line.startswith(("%", r"\providecommand"))]
    body = re.sub(r"\\[{}\\$&#%_]", "", "\n".join(lines))
    if body.count("{") != body.count("}"):
        found.append("braces")
    if re.search(r"[^\x00-\xff]", text):
        found.append("a letter beyond Latin-1")
    unspecial = re.sub(r"\\ensuremath\{[^{}]*\}|>\{\\ragged", "", body)
    if re.search(r"[#%^<>]|(?<!th)~\s", unspecial):
        found.append("a special letter")
    if re.search(r"\\\\\s*\n\s*[\[*]", text):
        found.append("a bracket after a line's end")
    for table in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, flags=re.DOTALL):
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        counts = {len(re.findall(r"(?<!\\)&", row)) for row in rows}
        found += ["columns"] if len(counts) != 1 else []
    return found


def some_tables(name=NASTY):
    number = measured(name, 0.9, 0.85, 0.93, method=name, manifests=(name,), unit=name, seeds=(1, 2))
    gate = Check(name=name, bound=below(0.6)).measure(0.5, n=12_345, interval=(0.4, 0.55))
    reported = gate.model_copy(update={"decides": False, "value": None, "n": None})
    arms = shown.ablation((name, f"[{name}]", "*"), 2)
    wide = shown.selection_map(12, 9)
    wide = wide.model_copy(
        update={"x": wide.x.model_copy(update={"quantity": name}), "threshold_source": name}
    )
    return {
        "key_numbers": tables.key_numbers([number, number], title="Key numbers.", label="key_numbers"),
        "gates": tables.gates(values.Gates(findings=[gate, reported], origin=shown.SIM)),
        "completeness": tables.completeness(shown.completeness()),
        "selection": tables.selection(wide),
        "comparison": tables.comparison(arms),
        "captions": captions_tex(figures_of(mock_results(title=name))[0]),
    }


@pytest.mark.parametrize("name", [NASTY, "[", "*", "", "$", "\\", "a\nb\x07", "%", "}{", "auroc_synth"])
def test_tables_with_nasty_names_are_still_latex(name):
    for kind, text in some_tables(name or "x").items():
        assert latex_faults(text) == [], kind


def test_the_latex_checker_sees_what_latex_would_choke_on():
    head = "\\begin{tabular}{ll}\n\\toprule\na & b \\\\\n\\midrule\n"
    tail = " \\\\\n\\bottomrule\n\\end{tabular}\n"
    assert latex_faults(head + "1 & 2" + tail) == []
    assert latex_faults(head + "1 & 2 & 3" + tail) == ["columns"]
    assert "braces" in latex_faults(head + "1 & {2" + tail)
    assert "a special letter" in latex_faults(head + "5% & 2" + tail)
    assert "a letter beyond Latin-1" in latex_faults(head + "θ & 2" + tail)
    assert "a bracket after a line's end" in latex_faults(head + "1 & 2 \\\\\n[x] & 3" + tail)


def test_escaped_text_says_what_it_said():
    assert tables.escaped("a_b") == r"a\_\allowbreak{}b"
    assert tables.escaped("14\u202f700") == r"14\,700"
    assert tables.escaped("θ ≥ 2") == r"\ensuremath{\theta} \ensuremath{\ge} 2"
    assert tables.escaped("é 中\x07") == "é [U+4E2D][U+0007]"
    assert tables.escaped("two\n  lines") == "two lines"
    assert tables.escaped("\\") == r"\textbackslash{}"


def test_a_long_table_is_continued_under_the_same_number():
    rows = [measured(f"n{i}_synth", 0.5, 0.4, 0.6) for i in range(100)]
    text = tables.key_numbers(rows, title="Key numbers.", label="k")
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 3
    assert text.count(r"\addtocounter{table}{-1}") == text.count("(continued)") == 2
    assert text.count(r"\label") == 1
    assert text.count(r"\texttt") == 100


def test_a_table_has_each_number_with_interval_n_and_status():
    rows = [
        measured("auroc_synth", 0.89742, 0.87313, 0.91821),
        measured("tpr_synth", None, n=980, detail="needs more", status=Status.NOT_EVALUATED),
    ]
    lines = tables.key_numbers(rows, title="t", label="l").splitlines()
    first = next(line for line in lines if "auroc" in line)
    assert "0.897 [0.873, 0.918]" in first
    assert r"1\,225 (1\,180)" in first
    assert "host synthetic" in first
    assert r"-- \textit{not evaluated}" in next(line for line in lines if "tpr" in line)
    cells = tables.selection(shown.selection_map()).splitlines()
    assert sum(line.count(r"\textit{insufficient}") for line in cells) == 4
    arms = tables.comparison(shown.ablation()).partition(r"\midrule")[2]
    assert "no hard negatives & " in arms
    assert len(re.findall(r"\d \[[^&]*\] &", arms)) == 15


# --- the folder ------------------------------------------------------------------------------------------


def test_a_full_run_has_every_figure_and_every_table(full):
    folder, index = full
    names = {path.split("/")[1].split(".")[0] for path in index["files"] if path.startswith("figures/")}
    assert {re.sub("_(mock|real|synthetic|mixed)$", "", name) for name in names} == {k.name for k in KINDS}
    assert {p.stem for p in (folder / "tables").glob("*.tex")} == set(TABLES)
    assert index["absent"] == {}
    assert {p.suffix for p in (folder / "figures").iterdir()} == {".pdf", ".png"}


def test_the_index_says_of_every_file_its_hash_its_manifests_and_its_function(full):
    folder, index = full
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == set(index["files"]) | {"index.json"}
    for path, about in index["files"].items():
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == about["sha256"]
        assert about["manifests"], path
        assert about["function"].startswith("darkhaloscope.report."), path
    roc = index["files"]["figures/roc_log.pdf"]
    assert roc["function"] == "darkhaloscope.report.figures.curves.roc_log"
    assert set(roc["manifests"]) == {o for c in everything().roc for o in c.origin.manifests}


def test_every_caption_is_there_by_name_and_escaped(full):
    folder, _ = full
    text = (folder / "captions.tex").read_text()
    entries, _ = figures_of(everything())
    for entry in entries:
        assert rf"\csname dhscaption:{entry.name}\endcsname" in text
        assert tables.escaped(captions.caption(entry.value)) in text
    assert latex_faults(text) == []


@pytest.mark.slow
def test_written_twice_the_bytes_are_the_same(full, tmp_path):
    folder, index = full
    again = write_paper(everything(created="another day"), tmp_path)
    assert again.read_bytes() == (folder / "index.json").read_bytes()
    assert json.loads(again.read_text()) == index
    assert not list(tmp_path.rglob(".part-*"))


def test_what_is_missing_is_listed_with_its_reason_and_never_drawn(tmp_path):
    bare = RunResults(title="t", config="c", seeds=(1,), verdict="NO-GO", created="d", code_version="v")
    index = json.loads(write_paper(bare, tmp_path).read_text())
    assert set(index["files"]) == {"captions.tex"}
    assert set(index["absent"]) == {f"figures/{k.name}" for k in KINDS} | {
        f"tables/{name}" for name in TABLES
    }
    assert index["absent"]["figures/lenses"] == "no real lens was scored"
    assert not list(tmp_path.rglob("*.pdf"))


def test_a_value_in_which_nothing_was_measured_is_absent_too():
    silent = everything(
        reliability=shown.minimal()["reliability"], completeness=shown.minimal()["completeness"]
    )
    entries, absent = figures_of(silent)
    assert {"reliability", "completeness"} <= set(absent)
    assert absent["reliability"] == "nothing in it could be measured"
    assert not {"reliability", "completeness"} & {entry.name for entry in entries}


def test_what_a_run_no_longer_has_is_removed_and_nothing_else_is(tmp_path):
    small = {"gallery": (), "history": None, "real_lenses": (), "completeness": None}
    write_paper(mock_results(**small), tmp_path)
    own = tmp_path / "figures" / "my_sketch.pdf"
    own.write_bytes(b"mine")
    (tmp_path / "main.tex").write_text("mine")
    assert (tmp_path / "figures" / "contaminants_mock.pdf").exists()
    write_paper(mock_results(contaminants=(), roc=(), **small), tmp_path)
    left = {p.name for p in (tmp_path / "figures").iterdir()}
    assert not {"contaminants_mock.pdf", "contaminants_mock.png", "roc.pdf", "roc_log.png"} & left
    assert not (tmp_path / "tables" / "contaminants.tex").exists()
    assert {"my_sketch.pdf", "gates.pdf"} <= left
    assert (tmp_path / "main.tex").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the paper's files cannot be written: "):
        write_paper(mock_results(), tmp_path / "file" / "paper")


def test_a_changed_number_changes_its_files_and_no_other(tmp_path):
    small = {"gallery": (), "history": None, "real_lenses": (), "roc": ()}
    one = mock_results(**small)
    before = json.loads(write_paper(one, tmp_path).read_text())["files"]
    bins = (
        *one.completeness.bins[:-1],
        one.completeness.bins[-1].model_copy(update={"k": 1, "n": 40, "value": 0.025}),
    )
    other = mock_results(**small, completeness=one.completeness.model_copy(update={"bins": bins}))
    now = json.loads(write_paper(other, tmp_path).read_text())["files"]
    changed = {path for path, about in before.items() if now[path]["sha256"] != about["sha256"]}
    assert changed == {
        "figures/completeness.pdf",
        "figures/completeness.png",
        "tables/completeness.tex",
        "captions.tex",
    }


# --- contaminants from the numbers of a run --------------------------------------------------------------


def test_rates_are_read_from_measured_numbers_apart_by_what_the_galaxies_are():
    mocks = {"host_domain": HostDomain.NATURE, **NO_RATE}
    reals = {"host_domain": HostDomain.REAL, **NO_RATE}
    none = {"status": Status.NOT_EVALUATED, "detail": "none"}
    rows = (
        measured("mock_contaminant_fpr_ring_p50", 0.125, 0.035, 0.29, n=32, **mocks),
        measured("mock_contaminant_fpr_ring_p90", 0.0, 0.0, 0.11, n=32, **mocks),
        measured("contaminant_fpr_edge_on_p50", 0.1, 0.05, 0.2, n=100, **reals),
        measured("contaminant_fpr_spiral_p50", None, n=0, **reals, **none),
        measured("something_else_p50", 0.5, 0.4, 0.6),
    )
    mock, real = contaminant_rates(rows, confidence=0.95)
    assert [(r.category, r.threshold, r.k, r.n) for r in mock.rows] == [
        ("ring", "p > 0.5", 4, 32),
        ("ring", "p > 0.9", 0, 32),
    ]
    assert [(r.category, r.k, r.usable) for r in real.rows] == [("edge_on", 10, True), ("spiral", 0, False)]
    assert real.origin.manifests == (SCORES,)
    names = [entry.name for entry in figures_of(mock_results(contaminants=rows))[0]]
    assert {"contaminants_mock", "contaminants_real"} <= set(names)


def test_the_caption_of_contaminants_says_at_which_confidence_its_intervals_are():
    plain = {"host_domain": HostDomain.REAL, **NO_RATE, "method": "clopper-pearson"}
    rows = (measured("contaminant_fpr_ring_p50", 0.1, 0.05, 0.2, n=100, **plain),)
    for confidence, said in ((0.95, "95 %"), (0.683, "68.3 %")):
        entries, _ = figures_of(mock_results(contaminants=rows, confidence=confidence))
        told = next(captions.caption(e.value) for e in entries if e.kind == "contaminants")
        assert f"with Clopper-Pearson {said} intervals" in told


def test_several_values_of_a_kind_are_numbered():
    entries, _ = figures_of(everything(selection_maps=(shown.selection_map(), shown.selection_map(3, 2))))
    assert [e.name for e in entries if e.kind == "selection_map"] == ["selection_map_1", "selection_map_2"]


# --- the page has them too -------------------------------------------------------------------------------


def test_the_page_has_a_section_for_each_new_kind_and_none_where_there_is_nothing():
    page, bare = render_report(everything()), render_report(mock_results())
    new = ["selection", "calibration", "realism", "ablation"]
    for name in new:
        assert f'<h2 id="{name}">' in page
        assert f'href="#{name}"' in page
        assert f'"{name}"' not in bare
        assert f'href="#{name}"' not in bare
    numbered = [int(n) for n in re.findall(r"<b>Figure (\d+)\.", page)]
    assert numbered == list(range(1, len(numbered) + 1))
    assert len(numbered) == 14


def test_manifests_of_every_new_kind_are_looked_for_in_the_provenance_table():
    stray = values.Origin(
        host_domain=HostDomain.SIM, arc_domain=ArcDomain.SIM, manifests=("deadbeefdeadbeef",)
    )
    curve = shown.selection_curves().curves[0].model_copy(update={"origin": stray})
    assert unlisted_manifests(mock_results()) == []
    assert "deadbeefdeadbeef" in unlisted_manifests(mock_results(selection_curves=(curve,)))


def test_arcs_of_another_kind_are_never_told_as_one():
    text = captions.caption(values.Roc(curves=shown.typical()["roc"].curves))
    assert "Synthetic hosts: Neither is real" in text
    assert "Anchors: Host and arc are both real." in text
