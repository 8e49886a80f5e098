"""What stands under a figure: n, the method of its intervals, what is real in it, and its manifests.

`words` is a caption without the manifests, which the page adds as links; `caption` has them.
"""

from collections.abc import Iterable, Sequence
from functools import singledispatch

from darkhaloscope.report.figures import DECIDING_COUNT
from darkhaloscope.report.figures.canvas import several
from darkhaloscope.report.numbers import grouped
from darkhaloscope.report.parts import HOST_WORDS, Origin, Shown, manifests_of, origins
from darkhaloscope.report.values import (
    AblationBars,
    ComparatorAucs,
    Completeness,
    ContaminantRates,
    Examples,
    Gates,
    History,
    Lenses,
    Pairs,
    QuantileBand,
    Realism,
    Reliability,
    Roc,
    SelectionCurves,
    SelectionMap,
)

SHORT_ID = 8
"""Characters of a fingerprint that are printed; the provenance table has it in full."""


MOST_NAMED = 12
"""Manifests that a caption lists; of more it gives the number."""


MOST_ARMS = 3
"""Arms of the same seeds that a caption names one by one."""


def short_id(manifest: str) -> str:
    """The first characters of a fingerprint; a name that is none stays whole."""
    is_hex = len(manifest) > SHORT_ID and all(c in "0123456789abcdef" for c in manifest.lower())
    return manifest[:SHORT_ID] if is_hex else manifest


def caption(value: Shown) -> str:
    """All of it as one paragraph."""
    named = manifests_of(value)
    if not named:
        return f"{words(value)} Manifest not handed in."
    if len(named) > MOST_NAMED:
        return f"{words(value)} {len(named)} manifests: see index.json."
    return f"{words(value)} Manifest{'s' if len(named) > 1 else ''} {', '.join(map(short_id, named))}."


@singledispatch
def words(value: Shown) -> str:
    """The caption of a value, without its manifests."""
    message = f"no caption is known for {type(value).__name__}"
    raise TypeError(message)


def _domains(named: Iterable[tuple[str, Origin]]) -> str:
    """What is real: one sentence for all, or one for each label where they differ."""
    told: dict[str, list[str]] = {}
    for label, origin in named:
        labels = told.setdefault(origin.sentence, [])
        labels += [label] if label not in labels else []
    if len(told) == 1:
        return next(iter(told))
    return " ".join(f"{_first(', '.join(labels))}: {sentence}" for sentence, labels in told.items())


def _first(text: str) -> str:
    """A text as it begins a sentence."""
    return text[:1].upper() + text[1:]


def _unlabelled(value: Shown) -> str:
    return " ".join(dict.fromkeys(origin.sentence for origin in origins(value)))


def _each(methods: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(methods))


def _range(sizes: Sequence[int]) -> str:
    """``71 to 1 470``, or one number where they agree."""
    low, high = grouped(min(sizes)), grouped(max(sizes))
    return low if low == high else f"{low} to {high}"


@words.register
def _(value: Pairs) -> str:
    n = len(value.pairs)
    return (
        f"The same galaxy with an arc, without it, and the arc alone; n = {n} pair{'s' if n != 1 else ''}. "
        f"{_domains((f'pair {i}', pair.origin) for i, pair in enumerate(value.pairs, start=1))} "
        "One stretch for all panels, the Legacy Surveys viewer's, y up. θE is the "
        "Einstein radius, S/N the matched-filter S/N of the arc over g, r and z."
    )


@words.register
def _(value: Examples) -> str:
    sizes = ", ".join(f"{name} {len(group)}" for name, group in value.by_category.items())
    named = [(e.category, e.origin) for e in value.examples]
    return (
        f"Stamps by category, n = {len(value.examples)} ({sizes}). {_domains(named)} "
        "One stretch for all, the Legacy Surveys viewer's, y up."
    )


@words.register
def _(value: Lenses) -> str:
    named = [(lens.name, lens.origin) for lens in value.lenses]
    details = _each([lens.detail for lens in value.lenses if lens.detail])
    return (
        f"Lens fields, their score, and the share of negatives that score below; n = {len(value.lenses)}. "
        f"{f'{details}. ' if details else ''}{_domains(named)} So few lenses show that the "
        "pixels go through; they measure no recall, so no interval is given."
    )


@words.register
def _(value: History) -> str:
    first, last = value.epochs[0], value.epochs[-1]
    kept = f"; the weights of epoch {value.best_epoch} were kept" if value.best_epoch is not None else ""
    rates = ""
    if first.lr is not None and last.lr is not None:
        rates = f"; learning rate {first.lr:.2g} to {last.lr:.2g}"
    train, select = ("unrecorded" if n is None else grouped(n) for n in (value.n_train, value.n_select))
    return (
        f"Training with seed {value.seed}, {len(value.epochs)} epochs{kept}{rates}. n = {train} training and "
        f"{select} select rows. The select split chose the epoch, so its AUROC is optimistic and is no "
        f"result. No interval is given: it is one training. {_unlabelled(value)}"
    )


@words.register
def _(value: Roc) -> str:
    curves = "; ".join(
        f"n = {grouped(c.n_pos)} with and {grouped(c.n_neg)} without an arc ({c.label})" for c in value.curves
    )
    pool = " of the largest pool" if len(value.curves) > 1 else ""
    return (
        f"True against false positive rate; dotted is chance; {curves}. "
        f"{_domains((c.label, c.origin) for c in value.curves)} Shaded: false positive rates that fewer than "
        f"{DECIDING_COUNT} negatives{pool} reach; nothing can be said there. A curve is pale where this "
        "holds for its own negatives. No interval is drawn: those of the quoted rates stand in the table."
    )


@words.register
def _(value: Gates) -> str:
    domain = "" if value.origin is None else f" {value.origin.sentence}"
    sizes = [f.n for f in value.findings if f.n is not None]
    told = _range(sizes) if sizes else "unrecorded"
    return (
        f"{several(len(value.findings), 'gate')}: value and interval against the bound; every row has its "
        f"own scale and its n, n = {told} in all. The blue band is what the bound permits. ● pass, "
        "✕ fail, ◇ not evaluated (open, or absent where there is no value). Each interval is made as "
        f"its gate is defined.{domain}"
    )


@words.register
def _(value: Completeness) -> str:
    return (
        f"Share of arcs scored above the threshold, by Einstein radius, with {value.method} intervals; k/n "
        f"under each point, n = {grouped(sum(cell.n for cell in value.bins))}. Hollow: too few rows to say. "
        f"Threshold: {value.threshold_source}. {value.origin.sentence} "
        "It is the completeness of the network on these arcs, not of a survey."
    )


@words.register
def _(value: SelectionMap) -> str:
    return (
        f"Share of arcs found, by {value.x.quantity} and {value.y.quantity}: the share above k/n where both "
        f"fit, n = {grouped(value.n)}. Cells are drawn at equal size, their edges labelled. Hatched: too few "
        f"rows to say. Intervals ({value.method}) stand in the table. "
        f"Threshold: {value.threshold_source}. {value.origin.sentence}"
    )


@words.register
def _(value: SelectionCurves) -> str:
    by_quantity: dict[str, list[str]] = {}
    for c in value.curves:
        size = f"n = {grouped(sum(p.n for p in c.points))} ({c.label})"
        by_quantity.setdefault(c.quantity, []).append(size)
    sizes = " ".join(f"{_first(quantity)}: {', '.join(each)}." for quantity, each in by_quantity.items())
    fits = _each([c.fit.method for c in value.curves if c.fit is not None])
    line = f" Line and band: {fits}." if fits else ""
    return (
        f"Share of arcs found, with {_each([c.method for c in value.curves])} intervals. {sizes} Hollow: "
        f"too few rows to say. Points of several curves stand a little aside of one another.{line} "
        f"Threshold: {_each([c.threshold_source for c in value.curves])}. "
        f"{_domains((c.label, c.origin) for c in value.curves)}"
    )


@words.register
def _(value: Reliability) -> str:
    share = value.n_pos / max(value.n_pos + value.n_neg, 1)
    stated = f"{share:.2g}, that of the rows" if value.prevalence is None else f"{value.prevalence:.2g}"
    return (
        f"Observed share of positives against stated probability, with {value.method} intervals; dotted is "
        f"perfect calibration. n = {grouped(value.n_pos)} positives and {grouped(value.n_neg)} negatives, "
        f"stated for a prevalence of {stated}. Below, where given: how many rows have which probability. "
        f"{_unlabelled(value)}"
    )


@words.register
def _(value: ContaminantRates) -> str:
    thresholds = ", ".join(dict.fromkeys(row.threshold for row in value.rows))
    sizes = {row.category: row.n for row in value.rows}
    return (
        f"Share of look-alikes above the threshold ({thresholds}) by category, with {value.method} "
        f"intervals; n = {grouped(sum(sizes.values()))} in {len(sizes)} categories. An arrow begins at 3/n, "
        "the one-sided 95 % bound where none of n was hit. Hollow: too few rows to say. "
        f"The galaxies are {HOST_WORDS[value.origin.host_domain]}; there are no arcs."
    )


@words.register
def _(value: AblationBars) -> str:
    arms = [arm for endpoint in value.endpoints for arm in endpoint.arms]
    judged = any(arm.verdict for arm in arms)
    points = any(seed.value is not None for arm in arms for seed in arm.seeds)
    what = f"difference to {value.reference_label}" if judged else "value"
    begin = "" if judged else f"; bars begin at the dashed {value.reference_label}"
    least = dict.fromkeys(f"±{e.least:g}" for e in value.endpoints if e.least is not None)
    many = f"{several(len(value.arms), 'arm')} at {several(len(value.endpoints), 'endpoint')}"
    made = f"interval ({_each([e.method for e in value.endpoints])})"
    parts = [
        f"{many}: {what} and {made}{begin}{'; open points are single seeds' if points else ''}",
        f"n = {_range([arm.n for arm in arms])} rows for each arm",
        _seeds(value),
        f"Shaded: differences too small to count ({', '.join(least)}), stated beforehand" if least else "",
        _marks({arm.verdict for arm in arms}),
        f"Not compared: {'; '.join(value.lacking)}" if value.lacking else "",
    ]
    told = " ".join(f"{part}." for part in parts if part)
    return f"{told} {_domains((e.quantity, e.origin) for e in value.endpoints)}"


def _seeds(value: AblationBars) -> str:
    """``Seeds 42, 43, 44 (full, minimal); 42 (unpaired)``; empty where none is known."""
    named: dict[str, dict[str, None]] = {}
    for endpoint in value.endpoints:
        for arm in endpoint.arms:
            if arm.seeds:
                seeds = ", ".join(str(seed.seed) for seed in arm.seeds)
                named.setdefault(seeds, {})[arm.arm] = None
    if len(named) == 1 and len(next(iter(named.values()))) == len(value.arms):
        return f"Seeds {next(iter(named))} of every arm"
    most = max(named, key=lambda seeds: len(named[seeds]), default="")
    told = "; ".join(
        f"{seeds} ({'the others' if seeds == most and len(arms) > MOST_ARMS else ', '.join(arms)})"
        for seeds, arms in sorted(named.items(), key=lambda group: group[0] == most)
    )
    return f"Seeds {told}" if told else ""


def _marks(verdicts: set[str]) -> str:
    """What the marks of the verdicts mean."""
    means = {
        "significant": "disc: significant, and larger than the band",
        "equivalent": "square: shown to lie within the band",
        "differs": "triangle: significant, where no least size is stated",
        "inconclusive": "hollow diamond: inconclusive, which is not the same as no difference",
    }
    return _first("; ".join(words for verdict, words in means.items() if verdict in verdicts))


@words.register
def _(value: Realism) -> str:
    sizes: dict[str, list[int]] = {}
    named = [(sample.label, sample) for panel in value.panels for sample in panel.samples]
    for label, sample in named:
        sizes.setdefault(label, []).append(sample.n)
    told = "; ".join(f"{label}: n = {_range(each)}" for label, each in sizes.items())
    levels = _each(
        [f"{100 * s.levels[0]:g} to {100 * s.levels[1]:g} %" for _, s in named if isinstance(s, QuantileBand)]
    )
    profiles = f", and profiles as medians with bands of quantiles ({levels})" if levels else ""
    return (
        f"Distributions as shares of all rows per unit{profiles}; no interval is drawn. {told}. "
        f"{_domains((label, sample.origin) for label, sample in named)}"
    )


@words.register
def _(value: ComparatorAucs) -> str:
    what = dict.fromkeys(f"{row.comparator} {row.what}".strip() for row in value.rows)
    sizes = [row.n for row in value.rows]
    return (
        f"AUC of a probe that tells two samples apart: {'; '.join(what)}. {_first(value.method)}; "
        f"n = {_range(sizes)}. Shaded: within {value.margin:g} of one half; "
        f"samples are called equivalent only where the whole interval lies inside. "
        f"{_domains((row.comparator, row.origin) for row in value.rows)}"
    )
