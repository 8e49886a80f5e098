r"""The tables of a paper in LaTeX (booktabs), and text from outside made safe for it.

A table is a whole ``table`` environment with its caption, so that a paper says ``\input{tables/gates}``; a
long one is continued in another. Every number stands with its interval and n.
"""

import re
import unicodedata
from collections.abc import Sequence

from darkhaloscope.contracts.measured import Measured
from darkhaloscope.report.captions import short_id
from darkhaloscope.report.numbers import finding_text, grouped, measured_text, quoted
from darkhaloscope.report.parts import Counted, domain_tag, manifests_of
from darkhaloscope.report.values import AblationBars, Completeness, Gates, SelectionMap

LONGEST = 40
"""Rows of a table that stand on one page."""

_RAGGED = r">{\raggedright\arraybackslash}p{0.22\textwidth}"
"""A column that breaks its lines."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_\allowbreak{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}",
    '"': "''",
    "\N{NARROW NO-BREAK SPACE}": r"\,",
    "\N{NO-BREAK SPACE}": "~",
    "\N{MINUS SIGN}": r"\ensuremath{-}",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{MIDDLE DOT}": r"\ensuremath{\cdot}",
    "\N{DOUBLE PRIME}": r"\ensuremath{''}",
    "\N{PRIME}": r"\ensuremath{'}",
    "\N{DEGREE SIGN}": r"\ensuremath{^\circ}",
    "\N{MULTIPLICATION SIGN}": r"\ensuremath{\times}",
    "\N{PLUS-MINUS SIGN}": r"\ensuremath{\pm}",
    "\N{SUPERSCRIPT TWO}": r"\ensuremath{^2}",
    "\N{SUPERSCRIPT THREE}": r"\ensuremath{^3}",
    "\N{MICRO SIGN}": r"\ensuremath{\mu}",
    "≥": r"\ensuremath{\ge}",
    "≤": r"\ensuremath{\le}",
    "≈": r"\ensuremath{\approx}",
    "∞": r"\ensuremath{\infty}",
    "→": r"\ensuremath{\to}",
    "●": r"\ensuremath{\bullet}",
    "✕": r"\ensuremath{\times}",
    "◇": r"\ensuremath{\diamond}",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
}
_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"),
    *("nu", "xi", "pi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega"),
)
_LATIN = "\u00c0\u00ff"


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is; a letter it may not have stands as its code point, ``[U+4E2D]``."""
    line = re.sub(r"\s*[\t\n\r\f\v]\s*", " ", unicodedata.normalize("NFC", text)).strip(" ")
    return "".join(_letter(letter) for letter in line)


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter.isascii():
        return letter if letter.isprintable() else f"[U+{ord(letter):04X}]"
    name = unicodedata.name(letter, "").removeprefix("GREEK SMALL LETTER ").lower()
    if name in _GREEK:
        return rf"\ensuremath{{\{name}}}"
    if _LATIN[0] <= letter <= _LATIN[1] and letter.isalpha():
        return letter
    return f"[U+{ord(letter):04X}]"


def key_numbers(rows: Sequence[Measured], *, title: str, label: str) -> str:
    """Measured numbers: value with interval, n, what is real, method."""
    body = [
        (
            _code(m.name),
            _measured(m),
            escaped(grouped(m.n))
            + (f" ({escaped(grouped(m.n_clusters))})" if m.n_clusters is not None else ""),
            escaped(domain_tag(m.host_domain, m.arc_domain)),
            escaped(m.method),
        )
        for m in rows
    ]
    seeds = sorted({seed for m in rows for seed in m.seeds})
    told = (
        f"{title} n is of rows, in brackets of clusters. Seed{'s' if len(seeds) > 1 else ''} "
        f"{', '.join(map(str, seeds)) or 'unrecorded'}. "
        f"{_manifests([name for m in rows for name in m.manifests])}"
    )
    return _table(
        ("quantity", "value [interval]", "n", "domain", "method"),
        body,
        told,
        label,
        spec=f"{_RAGGED}lll{_RAGGED}",
    )


def gates(value: Gates, *, label: str = "gates") -> str:
    """Findings against their bounds, in their order."""
    body = [
        (
            escaped(f.status.value.replace("_", " ").lower()),
            _code(f.name) + ("" if f.decides else r" \textit{(reported)}"),
            "--" if f.value is None else escaped(finding_text(f)),
            escaped(str(f.bound)),
            "--" if f.n is None else escaped(grouped(f.n)),
        )
        for f in value.findings
    ]
    told = "Gates: value and interval against the bound. Not evaluated is not passed."
    if value.origin is not None:
        told += f" {value.origin.sentence} {_manifests(value.origin.manifests)}"
    heads = ("status", "gate", "value [interval]", "must be", "n")
    return _table(heads, body, told, label, spec=f"l{_RAGGED}lll")


def completeness(value: Completeness, *, label: str = "completeness") -> str:
    """Found share by Einstein radius with k and n."""
    body = [
        (escaped(cell.label), _share(cell), f"{escaped(grouped(cell.k))}", f"{escaped(grouped(cell.n))}")
        for cell in value.bins
    ]
    told = (
        f"Share of arcs found by Einstein radius, {value.method} intervals. "
        f"Threshold: {value.threshold_source}. {value.origin.sentence} {_manifests(value.origin.manifests)}"
    )
    return _table((r"$\theta_\mathrm{E}$ [arcsec]", "found share [interval]", "k", "n"), body, told, label)


def selection(value: SelectionMap, *, label: str = "selection") -> str:
    """Every cell of a selection map with its interval, k and n."""
    columns = [f"{low} to {high}" for low, high in zip(value.x.marks, value.x.marks[1:], strict=False)]
    rows = [f"{low} to {high}" for low, high in zip(value.y.marks, value.y.marks[1:], strict=False)]
    body = [
        (escaped(row), escaped(column), _share(cell), escaped(grouped(cell.k)), escaped(grouped(cell.n)))
        for row, cells in zip(rows, value.cells, strict=True)
        for column, cell in zip(columns, cells, strict=True)
    ]
    told = (
        f"Share of arcs found, {value.method} intervals. Threshold: {value.threshold_source}. "
        f"{value.origin.sentence} {_manifests(value.origin.manifests)}"
    )
    heads = (_head(value.y.quantity, value.y.unit), _head(value.x.quantity, value.x.unit))
    return _table((*heads, "found share [interval]", "k", "n"), body, told, label, spec=f"{_RAGGED * 2}lll")


def comparison(value: AblationBars, *, label: str = "comparison") -> str:
    """Arms by endpoints: value with interval, and n."""
    body = []
    for place, arm in enumerate(value.arms):
        each = [endpoint.arms[place] for endpoint in value.endpoints]
        sizes = list(dict.fromkeys(grouped(a.n) for a in each))
        seeds = max(len(a.seeds) for a in each)
        cells = [escaped(quoted(a.value, a.low, a.high)) if a.value is not None else "--" for a in each]
        body.append((escaped(arm), *cells, escaped(", ".join(sizes)), str(seeds) if seeds else "--"))
    methods = "; ".join(dict.fromkeys(endpoint.method for endpoint in value.endpoints))
    domains = " ".join(dict.fromkeys(endpoint.origin.sentence for endpoint in value.endpoints))
    told = f"Arms compared. Intervals: {methods}. {domains} {_manifests(manifests_of(value))}"
    heads = ("arm", *(_head(e.quantity, e.unit) for e in value.endpoints), "n", "seeds")
    spec = f"{_RAGGED}{'l' * (len(heads) - 1)}"
    return _table(heads, body, told, label, spec=spec)


def _code(name: str) -> str:
    return rf"\texttt{{{escaped(name)}}}"


def _head(quantity: str, unit: str) -> str:
    return escaped(f"{quantity} [{unit}]" if unit else quantity)


def _measured(m: Measured) -> str:
    text = "--" if m.value is None else escaped(measured_text(m))
    return (
        text
        if m.status == "PASS"
        else rf"{text} \textit{{{escaped(m.status.value.replace('_', ' ').lower())}}}"
    )


def _share(cell: Counted) -> str:
    if cell.value is None:
        return "--"
    text = escaped(quoted(cell.value, cell.low, cell.high))
    return text if cell.sufficient else rf"{text} \textit{{insufficient}}"


def _manifests(names: Sequence[str]) -> str:
    return f"Manifests: {', '.join(dict.fromkeys(map(short_id, names)))}."


def _table(
    heads: Sequence[str], body: Sequence[Sequence[str]], told: str, label: str, *, spec: str = ""
) -> str:
    """One environment, or several where the rows would not fit a page; `spec`: across both columns."""
    kind = "table*" if spec else "table"
    columns = f"@{{}}{spec or 'l' * len(heads)}@{{}}"
    parts = [body[start : start + LONGEST] for start in range(0, max(len(body), 1), LONGEST)]
    lines = ["% needs booktabs and array"]
    for number, part in enumerate(parts):
        words = [rf"\caption{{{escaped(told)}}}\label{{tab:{label}}}\smallskip"]
        if number:
            words = [r"\addtocounter{table}{-1}", r"\caption{(continued)}\smallskip"]
        lines += [
            rf"\begin{{{kind}}}",
            r"\centering",
            *words,
            r"\footnotesize",
            rf"\begin{{tabular}}{{{columns}}}",
        ]
        lines += [r"\toprule", _row(heads), r"\midrule", *map(_row, part), r"\bottomrule"]
        lines += [r"\end{tabular}", rf"\end{{{kind}}}"]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    text = " & ".join(cells) + r" \\"
    # After the line before it, a bracket or a star would be taken for an argument.
    return "{}" + text if text.startswith(("[", "*")) else text
