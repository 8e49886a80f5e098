"""The page of a run: one HTML file that asks nothing of the network, and a JSON twin without the pixels.

What is printed comes from `RunResults` alone, so the same results give the same bytes. Numbers are rounded to
their interval, never across a bound. Text from outside (names, reasons, captions) is escaped by the template.
"""

import base64
import json
import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import Field, model_validator

from darkhaloscope.contracts.checks import Finding, Status
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import Measured
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.report import figures
from darkhaloscope.report.figures import (
    Completeness,
    History,
    LensPicture,
    Origin,
    PairPicture,
    RocCurve,
    Shown,
)
from darkhaloscope.stamps.rgb import stamp_png


class Verdict(StrEnum):
    """What a run comes to."""

    GO = "GO"
    CONDITIONAL_GO = "CONDITIONAL-GO"
    NO_GO = "NO-GO"


_MEANS = {
    Verdict.GO: "The results below may be relied on, within the limits stated at the end",
    Verdict.CONDITIONAL_GO: "Not enough was tested to rely on these results",
    Verdict.NO_GO: "Do not rely on these results",
}
_LOOK = {Verdict.GO: Status.PASS, Verdict.CONDITIONAL_GO: Status.NOT_EVALUATED, Verdict.NO_GO: Status.FAIL}

SHORT_ID = 8
"""Characters of a fingerprint that are printed; the provenance table has it in full."""

MOST_DECIMALS = 8


class ManifestEntry(Shown):
    """One dataset that numbers of the page came from."""

    fingerprint: str
    table: str
    rows: int
    what: str


class RunResults(Shown):
    """Everything the page says.

    measured       the key numbers; `contaminants`, `hard_negatives` and `slices` have tables of their own
    gates          findings of the protocol: those that decide come first, the others are marked
    foundation     findings on the data before training
    reasons        the verdict in words, one sentence each
    what_was_done  three lines; empty: a sentence is made from the config and the manifests
    limits         what this run in particular cannot say; added to what no run can
    """

    title: str
    config: str
    seeds: tuple[int, ...]
    verdict: Verdict = Field(strict=False)
    reasons: tuple[str, ...] = ()
    created: str
    code_version: str
    what_was_done: tuple[str, ...] = ()
    measured: tuple[Measured, ...] = ()
    gallery: tuple[PairPicture, ...] = ()
    history: History | None = None
    roc: tuple[RocCurve, ...] = ()
    gates: tuple[Finding, ...] = ()
    gates_origin: Origin | None = None
    foundation: tuple[Finding, ...] = ()
    foundation_origin: Origin | None = None
    completeness: Completeness | None = None
    slices: tuple[Measured, ...] = ()
    contaminants: tuple[Measured, ...] = ()
    hard_negatives: tuple[Measured, ...] = ()
    real_lenses: tuple[LensPicture, ...] = ()
    manifests: tuple[ManifestEntry, ...] = ()
    limits: tuple[str, ...] = ()

    @property
    def deciding(self) -> tuple[Finding, ...]:
        """The findings a verdict may rest on."""
        return tuple(f for f in (*self.foundation, *self.gates) if f.decides)

    @model_validator(mode="after")
    def _go_needs_every_pass(self) -> Self:
        open_ones = [f.name for f in self.deciding if not f.passed]
        if self.verdict is Verdict.GO and (open_ones or not self.deciding):
            message = (
                f"GO needs every deciding check to pass; not passed: {', '.join(open_ones) or 'none made'}"
            )
            raise ValueError(message)
        return self


def write_report(results: RunResults, path: Path) -> tuple[Path, Path]:
    """Write the page at `path` and its twin beside it, ``.json``; each appears whole or not at all.

    Returns both paths. Raises DataError when the folder cannot be written.
    """
    twin = path.with_suffix(".json")
    _write_whole(path, render_report(results))
    _write_whole(twin, json.dumps(report_json(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path, twin


def _write_whole(path: Path, text: str) -> None:
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise DataError(str(path), f"the report cannot be written: {error.strerror}") from error


def report_json(results: RunResults) -> dict[str, Any]:
    """The content of the page as plain data, without pixels."""
    data = results.model_dump(mode="json")
    return {
        "verdict_sentence": verdict_sentence(results),
        "unlisted_manifests": unlisted_manifests(results),
        **data,
    }


def render_report(results: RunResults) -> str:
    """The page as HTML text, UTF-8, self-contained."""
    world = Environment(
        loader=PackageLoader("darkhaloscope.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    world.filters.update(
        count=lambda n: f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
        measured=measured_text,
        finding=finding_text,
        short=_short,
        rate=lambda rate: f"{rate:.2g}",
    )
    page = world.get_template("report.html").render(
        r=results,
        sentence=verdict_sentence(results),
        look=_LOOK[results.verdict],
        sign=figures.STATUS_SIGN,
        pictures=_pictures(results),
        pair_picture=lambda pair: _uri(figures.pair_png(pair), "png"),
        lens_picture=lambda lens: _uri(stamp_png(lens.stamp), "png"),
        pair_facts=figures.pair_facts,
        tag=figures.domain_tag,
        hard_table=hard_table,
        link=_links(results),
        unlisted=unlisted_manifests(results),
        did=results.what_was_done or _what_was_done(results),
        deciding_count=figures.DECIDING_COUNT,
    )
    return page.lstrip()


def _pictures(results: RunResults) -> dict[str, str]:
    """Data URIs of the line figures that have something to show."""
    made: dict[str, bytes] = {}
    if results.history is not None:
        made["loss"] = figures.training_loss(results.history)
        made["auroc"] = figures.training_auroc(results.history)
    if results.roc:
        made["roc"] = figures.roc(results.roc)
        made["roc_log"] = figures.roc(results.roc, log_x=True)
    if results.completeness is not None:
        made["completeness"] = figures.completeness(results.completeness)
    if results.gates:
        made["gates"] = figures.gates(sorted(results.gates, key=lambda f: not f.decides))
    return {name: _uri(content, "svg+xml") for name, content in made.items()}


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def verdict_sentence(results: RunResults) -> str:
    """The verdict in one plain sentence with its counts."""
    deciding = results.deciding
    groups = {status: [f for f in deciding if f.status is status] for status in Status}
    if not deciding:
        counted = "no deciding check was made"
    elif len(groups[Status.PASS]) == len(deciding):
        counted = f"all {len(deciding)} deciding checks passed"
    else:
        counted = f"of {len(deciding)} deciding checks {len(groups[Status.PASS])} passed"
        if groups[Status.FAIL]:
            counted += (
                f", {len(groups[Status.FAIL])} failed ({', '.join(f.name for f in groups[Status.FAIL])})"
            )
        if groups[Status.NOT_EVALUATED]:
            counted += f", {len(groups[Status.NOT_EVALUATED])} could not be evaluated"
    return f"{_MEANS[results.verdict]}: {counted}."


def _what_was_done(results: RunResults) -> tuple[str, ...]:
    seeds = (
        "seed" + "s" * (len(results.seeds) != 1) + " " + (", ".join(map(str, results.seeds)) or "unrecorded")
    )
    what = (f"{m.what} ({m.table}, {m.rows:,} rows)" for m in results.manifests)
    return (
        f"Configuration {results.config}, {seeds}.",
        "Data: " + ("; ".join(what) or "no manifest was handed in") + ".",
        f"{len(results.gates)} gates and {len(results.foundation)} foundation checks were looked at.",
    )


_MOVED = {
    "HN0": "pixels shuffled in azimuth, after the PSF (the brief's)",
    "HN1": "light shuffled within rings",
    "HN2": "azimuthal phases drawn anew: blobs on a ring",
    "HN3": "every image turned by 90°: radial streaks",
    "HN4": "the source unlensed, where the images were",
    "HN5": "every image turned by 180°: bent away",
}
"""What each hard negative does with an arc's light."""


def hard_table(rows: Sequence[Measured]) -> list[dict[str, Any]]:
    """One row for each kind of hard negative: what it is, and its figures by the last part of their names."""
    found: dict[str, dict[str, Any]] = {}
    for m in rows:
        kind, _, quantity = m.name.removeprefix("hardneg_sim_").partition("_")
        found.setdefault(kind, {"kind": kind, "what": _MOVED.get(kind, "")})[quantity] = m
    return list(found.values())


def _links(results: RunResults) -> Callable[[str], str | None]:
    """From a manifest's fingerprint, whole or shortened, to its row in the provenance table."""

    def link(manifest: str) -> str | None:
        for row, entry in enumerate(results.manifests):
            if min(len(manifest), len(entry.fingerprint)) >= SHORT_ID and (
                entry.fingerprint.startswith(manifest) or manifest.startswith(entry.fingerprint)
            ):
                return f"manifest-{row}"
        return next(
            (
                f"manifest-{row}"
                for row, entry in enumerate(results.manifests)
                if entry.fingerprint == manifest
            ),
            None,
        )

    return link


def unlisted_manifests(results: RunResults) -> list[str]:
    """Manifests that numbers name and the provenance table lacks: a broken walk, said on the page."""
    link = _links(results)
    parts = (results.history, results.completeness, *results.gallery, *results.roc, *results.real_lenses)
    named = [part.origin.manifests for part in parts if part is not None]
    named += [o.manifests for o in (results.gates_origin, results.foundation_origin) if o is not None]
    tables = (results.measured, results.slices, results.contaminants, results.hard_negatives)
    named += [m.manifests for table in tables for m in table]
    return sorted({manifest for group in named for manifest in group if link(manifest) is None})


def _short(manifest: str) -> str:
    is_hex = len(manifest) > SHORT_ID and all(c in "0123456789abcdef" for c in manifest.lower())
    return manifest[:SHORT_ID] if is_hex else manifest


def measured_text(measured: Measured) -> str:
    """``0.897 [0.873, 0.918] unit``."""
    text = quoted(measured.value, measured.low, measured.high)
    return f"{text} {measured.unit}".rstrip()


def finding_text(finding: Finding) -> str:
    """A finding's value with its interval, with enough digits to stay on its side of the bound."""
    low, high = finding.interval or (None, None)
    return quoted(finding.value, low, high, holds=finding.bound.holds)


def quoted(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    holds: Callable[[float], bool] | None = None,
) -> str:
    """A number with its interval, rounded to it.

    Half the interval keeps two digits when it begins with 1 to 3.5, else one (Particle Data Group),
    and its shorter arm at least one, so that 0.996 below 0.999 never becomes 1.00; without an interval three
    significant digits stay. `holds`: digits are added until the printed number answers as the number does.
    """
    if value is None:
        return "none"
    digits = _decimals(value, low, high)
    while (
        holds is not None and digits < MOST_DECIMALS and holds(float(f"{value:.{digits}f}")) != holds(value)
    ):
        digits += 1
    text = _fixed(value, digits)
    if low is not None and high is not None:
        text += f" [{_fixed(low, digits)}, {_fixed(high, digits)}]"
    return text


def _decimals(value: float, low: float | None, high: float | None) -> int:
    if low is None or high is None or low == high:
        whole = value == 0 or float(value).is_integer()
        return 0 if whole else _places(abs(value), 3)
    half = (high - low) / 2
    shorter = min((arm for arm in (abs(value - low), abs(high - value)) if arm > 0), default=half)
    leading = half / 10.0 ** math.floor(math.log10(half))
    return max(_places(half, 2 if leading < 3.55 else 1), _places(shorter, 1))


def _places(size: float, digits: int) -> int:
    """Decimals that show `digits` significant digits of `size`."""
    return min(max(digits - 1 - math.floor(math.log10(size)), 0), MOST_DECIMALS)


def _fixed(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return text.replace("-", "\N{MINUS SIGN}") if float(f"{value:.{digits}f}") else text.lstrip("-")
