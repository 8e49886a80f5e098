"""The page of a run: one HTML file that asks nothing of the network, and a JSON twin without the pixels.

What is printed comes from `RunResults` alone, so the same results give the same bytes. Numbers are rounded to
their interval, never across a bound. Text from outside (names, reasons, captions) is escaped by the template.
"""

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import Measured
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.report import figures
from darkhaloscope.report.captions import SHORT_ID, short_id, words
from darkhaloscope.report.catalogue import KINDS, Entry, figures_of
from darkhaloscope.report.numbers import finding_text, grouped, measured_text
from darkhaloscope.report.parts import domain_tag, manifests_of
from darkhaloscope.report.run import RunResults, Verdict
from darkhaloscope.report.values import pair_facts
from darkhaloscope.stamps.rgb import stamp_png

_MEANS = {
    Verdict.GO: "The results below may be relied on, within the limits stated at the end",
    Verdict.CONDITIONAL_GO: "Not enough was tested to rely on these results",
    Verdict.NO_GO: "Do not rely on these results",
}
_LOOK = {Verdict.GO: Status.PASS, Verdict.CONDITIONAL_GO: Status.NOT_EVALUATED, Verdict.NO_GO: Status.FAIL}

PICTURED = ("pairs", "lenses")
"""Kinds that the page shows as stamps of its own rather than as a drawn figure."""

PIXELS = ("examples",)
"""Kinds that are PNG on the page: as SVG, hundreds of stamps would weigh much more."""


class Picture(NamedTuple):
    """A figure on the page: its image, the words under it, and the manifests that follow them."""

    uri: str
    words: str
    manifests: tuple[str, ...]
    wide: bool


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


def templates() -> Environment:
    """The room's templates: every text is escaped, a name that is not there is an error."""
    return Environment(
        loader=PackageLoader("darkhaloscope.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_report(results: RunResults) -> str:
    """The page as HTML text, UTF-8, self-contained."""
    world = templates()
    world.filters.update(
        count=grouped,
        measured=measured_text,
        finding=finding_text,
        short=short_id,
    )
    page = world.get_template("report.html").render(
        r=results,
        sentence=verdict_sentence(results),
        look=_LOOK[results.verdict],
        sign=figures.STATUS_SIGN,
        pictures=_pictures(results),
        pair_picture=lambda pair: _uri(figures.pair_png(pair), "png"),
        lens_picture=lambda lens: _uri(stamp_png(lens.stamp), "png"),
        pair_facts=pair_facts,
        tag=domain_tag,
        hard_table=hard_table,
        link=_links(results),
        unlisted=unlisted_manifests(results),
        did=results.what_was_done or _what_was_done(results),
    )
    return page.lstrip()


def _pictures(results: RunResults) -> dict[str, list[Picture]]:
    """The figures of a run by kind; those of stamps without an image."""
    made: dict[str, list[Picture]] = {kind.name: [] for kind in KINDS}
    for entry in figures_of(results)[0]:
        made[entry.kind].append(picture_of(entry))
    return made


def picture_of(entry: Entry) -> Picture:
    """One figure as a page shows it."""
    uri, wide = "", False
    if entry.kind not in PICTURED:
        kind, mime = ("png", "png") if entry.kind in PIXELS else ("svg", "svg+xml")
        figure = entry.draw(entry.value)
        uri, wide = _uri(figures.rendered(figure, kind), mime), figure.get_figwidth() > figures.SINGLE
    return Picture(uri, words(entry.value), manifests_of(entry.value), wide)


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
    named = [manifests_of(results)]
    tables = (results.measured, results.slices, results.contaminants, results.hard_negatives)
    named += [m.manifests for table in tables for m in table]
    return sorted({manifest for group in named for manifest in group if link(manifest) is None})
