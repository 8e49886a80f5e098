"""The master table of a comparison as CSV, LaTeX, HTML and JSON, and its figure. Same table, same bytes.

Rows that could not be evaluated stand in the CSV, the page and the JSON with what they need; the LaTeX table,
which goes into a paper, names them under it.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.config import Frozen, parse
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import Measured
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.evaluation.ablation import Comparison, Row, Verdict
from darkhaloscope.report.arm_bars import entries_of
from darkhaloscope.report.numbers import measured_text
from darkhaloscope.report.paper import PAPER, write_files
from darkhaloscope.report.parts import domain_tag
from darkhaloscope.report.report import picture_of, templates

NAME = "master_comparison"


class ArmFacts(Frozen):
    """What an arm is.

    declared   whether the protocol names it: one that it does not is exploratory
    changes    what its experiment sets otherwise than the reference's, ``key: reference -> arm``
    openings   for how many networks its test split was opened, those compared among them
    """

    name: str
    declared: bool
    seeds: tuple[int, ...]
    checkpoints: tuple[str, ...]
    changes: tuple[str, ...]
    openings: int


class MasterTable(Frozen):
    """A comparison with the facts of its arms.

    absent     arms that the protocol declares and that were not given
    deciding   what the protocol decides by, its `metrics.primary`: these endpoints are drawn
    """

    comparison: Comparison
    arms: tuple[ArmFacts, ...]
    absent: tuple[str, ...]
    deciding: tuple[str, ...]
    protocol_version: str
    protocol: str
    seeds_min: int
    code_version: str


def write_comparison(table: MasterTable, folder: Path) -> tuple[Path, ...]:
    """Write the four files, and the figure into `paper`, each whole or not at all.

    DataError if the folder cannot be written.
    """
    texts = {
        "csv": render_csv(table),
        "tex": render_latex(table),
        "html": render_html(table),
        "json": json.dumps(table.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
        + "\n",
    }
    paths = {kind: folder / f"{NAME}.{kind}" for kind in texts}
    for kind, text in texts.items():
        try:
            write_whole(paths[kind], text.encode())
        except OSError as error:
            raise DataError(str(paths[kind]), f"the table cannot be written: {error.strerror}") from error
    return (*paths.values(), _write_figure(table, folder / PAPER))


def _write_figure(table: MasterTable, folder: Path) -> Path:
    entries, absent = entries_of(table.comparison, table.deciding)
    about = {
        "title": f"Arms against {table.comparison.reference}",
        "protocol": f"{table.protocol_version} ({table.protocol})",
        "code_version": table.code_version,
    }
    missing = {f"figures/{name}": why for name, why in absent.items()}
    return write_files(folder, entries, missing=missing, about=about)


def read_comparison(folder: Path) -> MasterTable:
    """The master table that a folder holds; ConfigError where its JSON is not one of this version's."""
    path = folder / f"{NAME}.json"
    return parse(json.loads(path.read_text(encoding="utf-8")), MasterTable, str(path))


def holds_comparison(folder: Path) -> bool:
    """Whether a comparison was written into a folder."""
    return (folder / f"{NAME}.json").is_file()


# --- words -----------------------------------------------------------------------------------------------


def by_endpoint(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each endpoint, in order."""
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(row.endpoint, []).append(row)
    return out


def evaluated(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Endpoints for which at least one arm has a figure."""
    return {
        name: of for name, of in by_endpoint(rows).items() if any(r.value.status is Status.PASS for r in of)
    }


def p_text(p: float | None) -> str:
    """``0.031``; below a thousandth a bound."""
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def sentence(table: MasterTable, arm: str) -> str:
    """What became of one arm in one sentence: what it changes, what it does not, and what stays open."""
    rows = [row for row in table.comparison.rows if row.arm == arm]
    of = {verdict: [row for row in rows if row.verdict is verdict] for verdict in Verdict}
    parts = [
        f"{verdict} in {', '.join(map(_difference, of[verdict]))}"
        for verdict in (Verdict.SIGNIFICANT, Verdict.DIFFERS)
        if of[verdict]
    ]
    tested = [row for row in rows if row.p_holm is not None]
    if tested and not of[Verdict.SIGNIFICANT]:
        parts.insert(0, "no significant difference")
    if of[Verdict.EQUIVALENT]:
        parts.append(f"equivalent in {', '.join(r.endpoint for r in of[Verdict.EQUIVALENT])}")
    if of[Verdict.INCONCLUSIVE]:
        told = (f"{r.endpoint} (MDE {r.mde or 0:.2g})" for r in of[Verdict.INCONCLUSIVE])
        parts.append(f"inconclusive in {', '.join(told)}")
    if not tested:
        few = next((r.wording for r in rows if r.delta is not None and r.delta.value is not None), "")
        parts.append(few or "not evaluated: no endpoint could be compared")
    return f"{arm}: {'; '.join(parts)}."


def _difference(row: Row) -> str:
    return f"{row.endpoint} {'' if row.delta is None else measured_text(row.delta)}".strip()


def notes(table: MasterTable) -> list[str]:
    """What must be known of the arms before the table is read."""
    found = table.comparison
    out = []
    for arm in table.arms:
        if arm.name != found.reference:
            what = "; ".join(arm.changes) or "nothing but its name and its seeds"
            out.append(f"{arm.name} differs from {found.reference} in: {what}")
        if not arm.declared:
            out.append(f"{arm.name} is not declared in the protocol: exploratory")
        if len(arm.seeds) < table.seeds_min:
            out.append(f"{arm.name} has {len(arm.seeds)} of {table.seeds_min} seeds: not significant by rule")
        if arm.openings > len(arm.seeds):
            out.append(
                f"the test split of {arm.name} was opened for {arm.openings} networks,"
                f" {len(arm.seeds)} of them compared"
            )
    if table.absent:
        out.append(f"declared in the protocol and not given: {', '.join(table.absent)}")
    return out


# --- CSV -------------------------------------------------------------------------------------------------

COLUMNS = (
    "endpoint", "arm", "value", "low", "high", "n", "n_clusters", "seeds", "delta", "delta_low", "delta_high",
    "p", "p_holm", "p_beyond_holm", "least_difference", "mde", "verdict", "wording", "pairing", "delta_seeds",
    "higher_is_better", "status", "delta_status", "host_domain", "arc_domain", "method", "detail",
    "delta_detail", "manifests", "delta_manifests",
)  # fmt: skip


def render_csv(table: MasterTable) -> str:
    """One row for each arm and endpoint; numbers to nine digits, empty where there is none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_cells(row) for row in table.comparison.rows)
    return buffer.getvalue()


def _cells(row: Row) -> Iterator[str]:
    v, d = row.value, row.delta
    yield from (row.endpoint, row.arm, *_numbers(v), str(v.n), _number(v.n_clusters), _list(v.seeds))
    yield from _numbers(d)
    yield from map(_number, (row.p, row.p_holm, row.p_beyond_holm, row.least, row.mde))
    yield from (row.verdict, row.wording, row.pairing or "", "" if d is None else _list(d.seeds))
    yield from (str(row.higher_is_better).lower(), v.status, "" if d is None else d.status)
    yield from (v.host_domain, v.arc_domain, v.method, v.detail, "" if d is None else d.detail)
    yield from (_list(v.manifests), "" if d is None else _list(d.manifests))


def _numbers(m: Measured | None) -> tuple[str, ...]:
    return ("", "", "") if m is None else tuple(_number(x) for x in (m.value, m.low, m.high))


def _number(x: float | None) -> str:
    return "" if x is None else f"{x:.9g}"


def _list(values: Sequence[object]) -> str:
    return " ".join(map(str, values))


# --- LaTeX -----------------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$", "\N{NARROW NO-BREAK SPACE}": r"\,", "\n": " ", "\r": " ", "\t": " ",
}  # fmt: skip


def latex(text: str) -> str:
    """Text that LaTeX prints as it stands, character by character."""
    return "".join(_LATEX.get(c, c) for c in text)


def render_latex(table: MasterTable) -> str:
    """A booktabs table for a two-column journal; its caption states n, seeds and what the interval is."""
    return "\n".join(_latex_lines(table)) + "\n"


def _latex_lines(table: MasterTable) -> Iterator[str]:
    shown = evaluated(table.comparison.rows)
    yield r"% \usepackage{booktabs} and, for pdfLaTeX, \usepackage[T1]{fontenc}"
    yield r"\begin{table*}"
    yield r"\centering\small\setlength{\tabcolsep}{4pt}"
    yield rf"\caption{{{latex(caption(table))}}}"
    yield r"\label{tab:master_comparison}"
    yield r"\begin{tabular}{llllll}"
    yield r"\toprule"
    yield r"Arm & Value & Difference & $p_{\rm Holm}$ & MDE & Verdict \\"
    for endpoint, rows in shown.items():
        yield r"\midrule"
        yield rf"\multicolumn{{6}}{{l}}{{{latex(_head(endpoint, rows))}}} \\"
        for row in rows:
            mde = "" if row.mde is None else f"{row.mde:.2g}"
            cells = (row.arm, measured_text(row.value), _delta(row), p_text(row.p_holm), mde, _short(row))
            yield " & ".join(map(latex, cells)) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"
    lost = [name for name in by_endpoint(table.comparison.rows) if name not in shown]
    if lost:
        yield r"\par\smallskip\raggedright\footnotesize"
        yield f"Not evaluated, for want of rows: {latex(', '.join(lost))}."
    yield r"\end{table*}"


def _delta(row: Row) -> str:
    return "" if row.delta is None or row.delta.value is None else measured_text(row.delta)


def _short(row: Row) -> str:
    """The verdict where MDE has a column of its own and the caption says what too few seeds mean."""
    head, _, rest = row.wording.partition(": ")
    match row.verdict:
        case Verdict.INCONCLUSIVE:
            return head.partition(",")[0]
        case Verdict.NOT_EVALUATED:
            return f"{head} ({rest.partition(':')[0]})"
        case Verdict.DIFFERS:
            return row.wording.partition(";")[0]
        case _:
            return row.wording


def _head(endpoint: str, rows: Sequence[Row]) -> str:
    """An endpoint with its rows, and the least difference that counts."""
    sizes = sorted({(row.value.n, row.value.n_clusters) for row in rows if row.value.value is not None})
    told = " or ".join(f"n = {n} in {m} cells" for n, m in sizes)
    least = rows[0].least
    counts = "no least difference is stated" if least is None else f"least difference {least:g}"
    return f"{endpoint} ({told}; {counts})"


def caption(table: MasterTable) -> str:
    """What the table shows, how often it was trained, on how many rows, and what stands in brackets."""
    found = table.comparison
    trained = "; ".join(f"{name}: {len(s)} ({', '.join(map(str, s))})" for name, s in found.seeds.items())
    domains = dict.fromkeys(domain_tag(r.value.host_domain, r.value.arc_domain) for r in found.rows)
    pairings = dict.fromkeys(str(row.pairing) for row in found.rows if row.pairing is not None)
    level = f"{100 * found.confidence:g} per cent"
    alone = f" Differences are arm less reference, {', '.join(pairings)}." if pairings else ""
    return (
        f"Arms against {found.reference}. Values are means over networks of different seeds ({trained}). "
        f"n counts rows, cells are what is resampled. Brackets: {level} intervals from a bootstrap of cells "
        f"(B = {found.bootstrap}; fewer than 30 cells: jackknife) and the scatter between seeds, Cochran's "
        f"t.{alone} p is adjusted over the arms of each endpoint (Holm); MDE is the difference found with 80 "
        f"per cent power. Equivalent: two one-sided tests at {100 - 100 * found.confidence:.0f} per cent. "
        f"With fewer than {table.seeds_min} seeds nothing is significant, by rule. "
        f"{'; '.join(domains)}. Protocol {table.protocol_version}."
    )


# --- HTML ------------------------------------------------------------------------------------------------


def render_html(table: MasterTable) -> str:
    """The table as one page, UTF-8, self-contained; every text is escaped by the template."""
    world = templates()
    world.filters.update(measured=measured_text, p=p_text)
    found = table.comparison
    entries, absent = entries_of(found, table.deciding)
    page = world.get_template("comparison.html").render(
        t=table,
        c=found,
        caption=caption(table),
        sentences=[sentence(table, arm.name) for arm in table.arms if arm.name != found.reference],
        notes=notes(table),
        endpoints=by_endpoint(found.rows),
        head=_head,
        shown=evaluated(found.rows),
        pictures=[picture_of(entry) for entry in entries],
        undrawn=list(absent.values()),
    )
    return page.lstrip()


# --- terminal --------------------------------------------------------------------------------------------


def summary(table: MasterTable) -> Iterator[Table | str]:
    """What is printed: the evaluated endpoints as a table, a sentence for each arm, notes."""
    shown = Table("endpoint", "arm", "value", "difference", "p (Holm)", "verdict", box=None)
    for endpoint, rows in evaluated(table.comparison.rows).items():
        for place, row in enumerate(rows):
            cells = ("" if place else endpoint, row.arm, measured_text(row.value), _delta(row))
            # Text: brackets in a cell are an interval, not markup.
            shown.add_row(*map(Text, (*cells, p_text(row.p_holm), row.wording)))
    yield shown
    reference = table.comparison.reference
    yield from (sentence(table, arm.name) for arm in table.arms if arm.name != reference)
    yield from notes(table)
