r"""A paper's figures and tables from a run or a comparison: files, what each came from, and what is absent.

::

    FOLDER/
      figures/NAME.pdf, .png   vector for the paper; PNG to look at
      tables/NAME.tex          booktabs
      captions.tex             \dhscaption{NAME}, the caption of a figure
      index.json               of every file its sha256, manifests and function; what is absent, and why

The same results give the same bytes: nothing holds a date.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import Measured
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.report import tables
from darkhaloscope.report.captions import caption
from darkhaloscope.report.catalogue import KINDS, Entry, figures_of, gates_of
from darkhaloscope.report.figures import rendered
from darkhaloscope.report.parts import manifests_of
from darkhaloscope.report.run import RunResults

PAPER = "paper"
"""Folder of a run or a comparison that holds a paper's files."""

FIGURE_KINDS = ("pdf", "png")


class TableFile(NamedTuple):
    """One table of a paper: its text, the manifests behind it, and the function that made it."""

    name: str
    text: str
    manifests: tuple[str, ...]
    function: str


def write_paper(results: RunResults, folder: Path) -> Path:
    """Write all of a run below `folder`; returns the index, which is written last.

    Files of an earlier writing that this run has no content for are removed. Raises DataError where the
    folder cannot be written.
    """
    entries, absent = figures_of(results)
    missing = {f"figures/{kind}": why for kind, why in absent.items()}
    missing |= {f"tables/{name}": why for name, why in absent_tables(results).items()}
    about = {
        "title": results.title,
        "config": results.config,
        "verdict": results.verdict,
        "code_version": results.code_version,
    }
    return write_files(folder, entries, tables_of(results), missing=missing, about=about)


def write_files(
    folder: Path,
    entries: Sequence[Entry],
    made: Sequence[TableFile] = (),
    *,
    missing: Mapping[str, str],
    about: Mapping[str, str],
) -> Path:
    """Figures, tables and captions below `folder`, and the index of them.

    missing   what there is none of, by its path without a suffix, and why
    about     what the index says first

    Raises and removes as `write_paper` does.
    """
    written = _Written(folder)
    try:
        for entry in entries:
            named = manifests_of(entry.value)
            for kind in FIGURE_KINDS:
                content = rendered(entry.draw(entry.value), kind)
                written.put(f"figures/{entry.name}.{kind}", content, named, entry.function)
        for table in made:
            written.put(f"tables/{table.name}.tex", table.text.encode(), table.manifests, table.function)
        every = tuple(dict.fromkeys(m for entry in entries for m in manifests_of(entry.value)))
        written.put("captions.tex", captions_tex(entries).encode(), every, f"{__name__}.captions_tex")
        _remove_stale(folder, set(written.files))
        index = {**about, "files": written.files, "absent": dict(missing)}
        text = json.dumps(index, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(folder / "index.json", text.encode())
    except OSError as error:
        raise DataError(str(folder), f"the paper's files cannot be written: {error.strerror}") from error
    return folder / "index.json"


class _Written:
    """Files as they are written, and what the index says of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, dict[str, object]] = {}

    def put(self, path: str, content: bytes, manifests: Sequence[str], function: str) -> None:
        """Write one file whole and note it."""
        write_whole(self.folder / path, content)
        digest = hashlib.sha256(content).hexdigest()
        self.files[path] = {"sha256": digest, "manifests": list(manifests), "function": function}


TABLES = {
    "key_numbers": "no number was measured",
    "slices": "no slice was measured",
    "gates": "no gate was evaluated",
    "completeness": "completeness was not measured",
    "contaminants": "no contaminants were scored",
    "hard_negatives": "no hard negatives were scored",
    "selection_map": "no selection map was measured",
    "comparison": "no arms were compared",
}
"""Every table a paper may have, and why it may be absent."""


def tables_of(results: RunResults) -> tuple[TableFile, ...]:
    """The tables of a run that have a row."""
    numbers = {
        "key_numbers": (results.measured, "Key numbers."),
        "slices": (results.slices, "Numbers by slice of the data."),
        "contaminants": (results.contaminants, "False positive rates of look-alikes."),
        "hard_negatives": (results.hard_negatives, "The light of test arcs put where no lens would put it."),
    }
    made = [
        TableFile(
            name, tables.key_numbers(rows, title=title, label=name), _named(rows), _where("key_numbers")
        )
        for name, (rows, title) in numbers.items()
        if rows
    ]
    decided_first = gates_of(results)
    if decided_first is not None:
        made.append(
            TableFile("gates", tables.gates(decided_first), manifests_of(decided_first), _where("gates"))
        )
    if results.completeness is not None:
        text = tables.completeness(results.completeness)
        made.append(
            TableFile("completeness", text, manifests_of(results.completeness), _where("completeness"))
        )
    for number, value in enumerate(results.selection_maps, start=1):
        name = "selection_map" if len(results.selection_maps) == 1 else f"selection_map_{number}"
        text = tables.selection(value, label=name)
        made.append(TableFile(name, text, manifests_of(value), _where("selection")))
    if results.ablation is not None:
        text = tables.comparison(results.ablation)
        made.append(TableFile("comparison", text, manifests_of(results.ablation), _where("comparison")))
    return tuple(made)


def absent_tables(results: RunResults) -> dict[str, str]:
    """Tables that this run has no row for, each with the reason."""
    have = [table.name for table in tables_of(results)]
    return {name: why for name, why in TABLES.items() if not any(_is_of(found, name) for found in have)}


def _is_of(found: str, name: str) -> bool:
    return re.fullmatch(rf"{re.escape(name)}(_\d+)?", found) is not None


def _where(name: str) -> str:
    return f"{tables.__name__}.{name}"


def _named(rows: Sequence[Measured]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for m in rows for name in m.manifests))


def captions_tex(entries: Sequence[Entry]) -> str:
    r"""Captions by name: ``\caption{\dhscaption{roc}}``; an unknown name is printed as such."""
    head = (
        r"\providecommand{\dhscaption}[1]{\ifcsname dhscaption:#1\endcsname"
        r"\csname dhscaption:#1\endcsname\else\textbf{[no caption: \detokenize{#1}]}\fi}"
    )
    told = {entry.name: tables.escaped(caption(entry.value)) for entry in entries}
    lines = [rf"\expandafter\def\csname dhscaption:{name}\endcsname{{{text}}}" for name, text in told.items()]
    return "\n".join([head, *lines]) + "\n"


_KINDS = "|".join(kind.name for kind in KINDS)
_STEMS = {
    "figures": (
        re.compile(rf"({_KINDS})(_(real|synthetic|mock|mixed))?(_\d+)?"),
        FIGURE_KINDS,
    ),
    "tables": (re.compile(rf"({'|'.join(TABLES)})(_\d+)?"), ("tex",)),
}
"""Names this module gives; nothing else in the folder is touched."""


def _remove_stale(folder: Path, kept: set[str]) -> None:
    """A figure of an earlier writing must not stand beside an index that says it is absent."""
    for part, (stem, kinds) in _STEMS.items():
        for path in sorted((folder / part).glob("*")):
            ours = stem.fullmatch(path.stem) is not None and path.suffix.removeprefix(".") in kinds
            if ours and f"{part}/{path.name}" not in kept:
                path.unlink()
