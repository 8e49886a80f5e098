"""Catalogues before they are used: known lenses where they are said to be, look-alikes that are none of them.

The first system took its lenses from coordinates that nobody had measured, minutes of arc off, and concluded
from the blank sky there that lenses are faint. Hence each anchor must name the table it comes from, must lie
on a survey source that can be a deflector, and must show light where its centre is said to be.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from darkhaloscope.contracts.checks import Bound, Check, Finding, Findings, above, below, exactly
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.contracts.store import Dataset
from darkhaloscope.contracts.tables import ANCHORS, CONTAMINANTS, Table
from darkhaloscope.stamps.measure import annulus_mask, core_mask
from darkhaloscope.stamps.stamp import decode_planes
from darkhaloscope.survey.matching import SkyTree, groups_within
from darkhaloscope.survey.photometry import MAD_TO_STD
from darkhaloscope.survey.release import BANDS, PIXEL_SCALE_ARCSEC, to_magnitude

EXAMPLES = 3
SAME_SYSTEM_ARCSEC = 5.0
MATCH_ARCSEC = 2.0
LEAST_MATCHED = 0.9
PLAUSIBLE_R_MAG = (13.0, 23.0)
LARGEST_ARCSEC = 64 * PIXEL_SCALE_ARCSEC
MOST_ROUNDED = 0.2
MOST_BLANK = 0.05
BLANK_SIGMAS = 5.0
_APERTURE_ARCSEC = 1.5
_SKY_ARCSEC = (6.0, 8.0)
_LEAST_STAMPS = 10
_PROVENANCE = re.compile(r"sha256:[0-9a-f]{16,64}")
_PLACEHOLDER = re.compile(r"^[A-Za-z]{1,12}0*\d{1,3}$")


def _zero(name: str, why: str, *, decides: bool = True) -> Check:
    return Check(name=name, bound=exactly(0), why=why, decides=decides)


def _at_least(name: str, least: int, why: str) -> Check:
    return Check(name=name, bound=Bound(direction="above", low=least - 1), why=why)


ANCHOR_CHECKS = {
    check.name: check
    for check in (
        _zero("anchors_columns", "a lens without a name, a place or an Einstein radius cannot be used"),
        _zero("anchors_duplicate_names", "one lens under one name twice counts twice"),
        _zero("anchors_duplicate_sky", "one lens under two names counts twice"),
        _zero("anchors_theta_e", "below half an arcsecond the seeing hides an arc in its lens"),
        _zero("anchors_provenance", "a lens that names no table was recalled, not read"),
        _zero("anchors_domains", "a real galaxy with a mock arc is no known lens"),
        Check(
            name="anchors_positions",
            bound=below(MOST_ROUNDED),
            why="coordinates with two decimals or fewer were recalled, not measured [share of the rows]",
        ),
        Check(
            name="anchors_survey_match",
            bound=above(LEAST_MATCHED),
            why="an anchor without a survey source within 2 arcsec stands at the wrong place [share]",
        ),
        Check(
            name="anchors_on_sources",
            bound=above(LEAST_MATCHED),
            why="a deflector is an extended source of plausible magnitude [share of those matched]",
        ),
        Check(
            name="anchors_blank_sky",
            bound=below(MOST_BLANK),
            why="a known lens without light at its centre is blank sky [share of the stamps]",
            needs_n=_LEAST_STAMPS,
        ),
    )
}
CONTAMINANT_CHECKS = {
    check.name: check
    for check in (
        _zero("contaminants_columns", "a look-alike without a name, a place or a class cannot be used"),
        _zero("contaminants_duplicates", "one galaxy under two names (M and NGC) counts twice"),
        _zero("contaminants_known_lens", "a look-alike within 5 arcsec of a known lens is the lens"),
        _zero("contaminants_size", "a galaxy larger than the stamp is no look-alike but a texture"),
        _zero("contaminants_provenance", "a look-alike that names no table was recalled, not read"),
        _zero("contaminants_placeholder", "numbered names on round coordinates are placeholders"),
    )
}


def check_counts(categories: Mapping[str, int], anchors: int, protocol: Protocol) -> Findings:
    """Enough look-alikes of each class and enough anchors for the figures that use them."""
    return Findings([*_category_counts(categories, protocol), _anchors_count(anchors, protocol)])


def no_counts(reason: str, protocol: Protocol) -> Findings:
    """The checks of `check_counts` where there is nothing to count yet: open, which is not passed."""
    checks = [*_count_checks(protocol).values(), _anchors_check(protocol)]
    return Findings(check.not_evaluated(reason) for check in checks)


def _category_counts(categories: Mapping[str, int], protocol: Protocol) -> list[Finding]:
    checks, n = _count_checks(protocol), sum(categories.values())
    return [check.measure(categories.get(name, 0), n=n) for name, check in checks.items()]


def _count_checks(protocol: Protocol) -> dict[str, Check]:
    return {
        name: _at_least(f"contaminants_{name}", least, f"at least {least} of the class are asked for")
        for name, least in protocol.contaminants.minima.items()
    }


def _anchors_check(protocol: Protocol) -> Check:
    least = protocol.anchor_recall.anchors_min
    return _at_least("anchors_count", least, f"at least {least} lenses are asked for")


def _anchors_count(n: int, protocol: Protocol) -> Finding:
    return _anchors_check(protocol).measure(n, n=n)


def _rows(given: Dataset | pa.Table, table: Table) -> pa.Table:
    return given.expect(table).read() if isinstance(given, Dataset) else table.conform(given)


def _count(check: Check, broken: NDArray[np.bool_], names: Sequence[str], detail: str = "") -> Finding:
    at = np.flatnonzero(broken)
    examples = [names[k] for k in at[:EXAMPLES]]
    return check.measure(len(at), n=len(names), detail=detail, examples=examples)


def check_anchors(
    anchors: Dataset | pa.Table, protocol: Protocol, *, stamps: Dataset | None = None
) -> Findings:
    """Known lenses: enough of them, each once, at its place, on a source, with its papers.

    stamps   stamps of these anchors (kind "lens"): there must be light at their centres
    """
    rows = _rows(anchors, ANCHORS)
    names = rows.column("name").to_pylist()
    theta = _floats(rows, "theta_e_arcsec")
    small = theta < protocol.anchor_recall.theta_e_min_arcsec
    known = int(np.isfinite(theta).sum())
    found = [
        _anchors_count(int((~small).sum()), protocol).model_copy(
            update={"detail": f"{known} with a published theta_E"}
        ),
        _columns(ANCHOR_CHECKS["anchors_columns"], rows, ANCHORS),
        _repeated(ANCHOR_CHECKS["anchors_duplicate_names"], [_normal(name) for name in names], names),
        _repeated(ANCHOR_CHECKS["anchors_duplicate_sky"], _systems(rows), names),
        _count(ANCHOR_CHECKS["anchors_theta_e"], small, names),
        _count(ANCHOR_CHECKS["anchors_provenance"], _without_papers(rows), names),
        _count(ANCHOR_CHECKS["anchors_domains"], _mixed(rows), names),
        _rounded(rows, names),
        *_matched(rows, names),
    ]
    if stamps is not None:
        found.append(_blank(stamps))
    return Findings(found)


def check_contaminants(
    contaminants: Dataset | pa.Table,
    protocol: Protocol,
    *,
    anchors: Dataset | pa.Table | None = None,
    largest_arcsec: float = LARGEST_ARCSEC,
) -> Findings:
    """Look-alikes: enough of each class, each once, none of them a known lens or larger than a stamp."""
    rows = _rows(contaminants, CONTAMINANTS)
    names = rows.column("name").to_pylist()
    counts = Counter(rows.column("category").to_pylist())
    found = _category_counts(counts, protocol)
    checks = CONTAMINANT_CHECKS
    found += [
        _columns(checks["contaminants_columns"], rows, CONTAMINANTS),
        _repeated(checks["contaminants_duplicates"], _systems(rows), names),
        _count(checks["contaminants_size"], _floats(rows, "size_arcsec") > largest_arcsec, names),
        _count(checks["contaminants_provenance"], _without_papers(rows), names),
        _count(checks["contaminants_placeholder"], _placeholders(rows, names), names),
    ]
    if anchors is not None:
        lenses = _rows(anchors, ANCHORS)
        tree = SkyTree(_floats(lenses, "ra_deg"), _floats(lenses, "dec_deg"))
        near = tree.near(_floats(rows, "ra_deg"), _floats(rows, "dec_deg"), SAME_SYSTEM_ARCSEC)
        found.append(_count(checks["contaminants_known_lens"], near, names))
    return Findings(found)


def _floats(rows: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(pc.fill_null(rows.column(name), float("nan")).to_numpy(), dtype=np.float64)


def _columns(check: Check, rows: pa.Table, table: Table) -> Finding:
    broken = [f for f in table.check(rows) if not f.passed]
    detail = "; ".join(f.detail for f in broken)
    examples = [name for f in broken for name in f.examples][:EXAMPLES]
    return check.measure(
        sum(int(f.value or 0) for f in broken), n=rows.num_rows, detail=detail, examples=examples
    )


def _normal(name: str) -> str:
    """A name without case, spaces and the survey's prefix: SDSS J0912+0029 and sdssj0912+0029 are one."""
    plain = re.sub(r"[\s_]", "", name.lower())
    return re.sub(
        r"^(sdss|desi|des|slacs|bells|hsc|cfht|psj|panstarrs|dls|kids)-?(?=j?\d)", "", plain
    ).lstrip("j")


def _systems(rows: pa.Table) -> list[int]:
    ra, dec = _floats(rows, "ra_deg"), _floats(rows, "dec_deg")
    return groups_within(ra, dec, SAME_SYSTEM_ARCSEC).tolist() if len(ra) else []


def _repeated(check: Check, keys: Sequence[Any], names: Sequence[str]) -> Finding:
    """Rows beyond the first of each key."""
    first: dict[Any, str] = {}
    again = []
    for key, name in zip(keys, names, strict=True):
        if key in first:
            again.append(f"{first[key]} = {name}")
        else:
            first[key] = name
    return check.measure(len(again), n=len(names), examples=again[:EXAMPLES])


def _without_papers(rows: pa.Table) -> NDArray[np.bool_]:
    return np.array([not _PROVENANCE.search(s or "") for s in rows.column("source").to_pylist()], dtype=bool)


def _mixed(rows: pa.Table) -> NDArray[np.bool_]:
    hosts, arcs = (rows.column(f"{part}_domain").to_pylist() for part in ("host", "arc"))
    return np.array([(h == "real") != (a == "real") for h, a in zip(hosts, arcs, strict=True)], dtype=bool)


def _round(rows: pa.Table, decimals: int) -> NDArray[np.bool_]:
    ra, dec = _floats(rows, "ra_deg"), _floats(rows, "dec_deg")
    return np.asarray((np.abs(ra - ra.round(decimals)) < 1e-9) & (np.abs(dec - dec.round(decimals)) < 1e-9))


def _rounded(rows: pa.Table, names: Sequence[str]) -> Finding:
    rounded = _round(rows, 2)
    share = float(rounded.mean()) if len(rounded) else None
    examples = [names[k] for k in np.flatnonzero(rounded)[:EXAMPLES]]
    return ANCHOR_CHECKS["anchors_positions"].measure(share, n=len(names), examples=examples)


def _matched(rows: pa.Table, names: Sequence[str]) -> Iterator[Finding]:
    """Whether survey sources lie at the anchors; an anchor that found none has no distance."""
    match, sources = ANCHOR_CHECKS["anchors_survey_match"], ANCHOR_CHECKS["anchors_on_sources"]
    distance = _floats(rows, "match_arcsec")
    if not np.isfinite(distance).any():
        reason = "no anchor was matched with the survey (dhs survey anchors … --sources SWEEPS)"
        yield match.not_evaluated(reason, n=0, needs_n=1)
        yield sources.not_evaluated(reason, n=0, needs_n=1)
        return
    near = distance <= MATCH_ARCSEC
    beside = [names[k] for k in np.flatnonzero(~near)[:EXAMPLES]]
    yield match.measure(float(near.mean()), n=len(names), examples=beside)
    if not near.any():
        yield sources.not_evaluated("no anchor lies on a source", n=0, needs_n=1)
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        mag = to_magnitude(_floats(rows, "flux_r"))
    kind = np.array([t or "" for t in rows.column("type").to_pylist()])
    low, high = PLAUSIBLE_R_MAG
    fit = (kind != "PSF") & (kind != "") & (mag > low) & (mag < high)
    odd = [
        f"{names[k]} ({kind[k] or 'no type'}, r {mag[k]:.1f})" for k in np.flatnonzero(near & ~fit)[:EXAMPLES]
    ]
    yield sources.measure(float(fit[near].mean()), n=int(near.sum()), examples=odd)


def _blank(stamps: Dataset) -> Finding:
    """Stamps whose r-band light within 1.5 arcsec of the centre is below five sigma of the sky."""
    blank, n, examples = 0, 0, []
    columns = [
        "target_id",
        "kind",
        "stamp_npz",
        "x_center_pix",
        "y_center_pix",
        "pixel_scale_arcsec",
        "reject",
    ]
    for key in stamps.keys:
        for row in stamps.read_shard(key, columns).to_pylist():
            if row["kind"] != "lens" or row["reject"] is not None:
                continue
            n += 1
            if _is_blank(row):
                blank += 1
                examples.append(row["target_id"])
    share = blank / n if n else None
    return ANCHOR_CHECKS["anchors_blank_sky"].measure(
        share, n=n, detail=f"{blank} of {n}", examples=examples[:EXAMPLES]
    )


def _is_blank(row: Mapping[str, Any]) -> bool:
    plane = decode_planes(row["stamp_npz"], where=row["target_id"])[BANDS.index("r")].astype(np.float64)
    x, y, scale = row["x_center_pix"], row["y_center_pix"], row["pixel_scale_arcsec"]
    sky = plane[annulus_mask(plane.shape, _SKY_ARCSEC[0] / scale, _SKY_ARCSEC[1] / scale, x, y)]
    middle = float(np.median(sky))
    sigma = MAD_TO_STD * float(np.median(np.abs(sky - middle)))
    light = plane[core_mask(plane.shape, x, y, radius_pix=_APERTURE_ARCSEC / scale)] - middle
    return bool(light.sum() < BLANK_SIGMAS * sigma * np.sqrt(light.size))


def _placeholders(rows: pa.Table, names: Sequence[str]) -> NDArray[np.bool_]:
    """Names that only count (GZRing001) on coordinates of two decimals, or any on whole degrees."""
    counted = np.array([bool(_PLACEHOLDER.match(name)) for name in names], dtype=bool)
    return np.asarray((counted & _round(rows, 2)) | _round(rows, 0))
