"""What the figure of a comparison is drawn from: arm less reference at the endpoints that decide.

Made of the comparison alone, so that the stored master table gives the figure again.
"""

import re
from collections.abc import Sequence

from darkhaloscope.contracts.measured import HostDomain
from darkhaloscope.evaluation.ablation import Comparison, Row, Verdict
from darkhaloscope.report.catalogue import Entry
from darkhaloscope.report.figures import ablation
from darkhaloscope.report.numbers import measured_text
from darkhaloscope.report.parts import Origin
from darkhaloscope.report.values import AblationBars, Arm, Endpoint, Judged, SeedValue

NAME = "ablation"

_JUDGED: dict[Verdict, Judged] = {
    Verdict.SIGNIFICANT: "significant",
    Verdict.DIFFERS: "differs",
    Verdict.EQUIVALENT: "equivalent",
    Verdict.INCONCLUSIVE: "inconclusive",
}


def decides(endpoint: str, deciding: Sequence[str]) -> bool:
    """Whether an endpoint is one of the protocol's `metrics.primary`.

    Those are named without the domain of the arcs and with a letter for a number: ``tpr_at_fpr_001`` is
    tpr_at_fpr_001_synth here, ``anchor_recall_at_k`` mock_anchor_recall_at_100.
    """
    return any(re.fullmatch(_pattern(name), endpoint) for name in deciding)


def _pattern(name: str) -> str:
    stem = f"{re.escape(name.removesuffix('_k'))}_\\d+" if name.endswith("_k") else re.escape(name)
    return f"(mock_)?{stem}(_synth)?"


def arm_bars(found: Comparison, deciding: Sequence[str]) -> AblationBars | str:
    """The bars of the deciding endpoints; or why there are none."""
    if len(found.seeds) < 2:
        return "there is one arm: nothing is compared"
    by_endpoint: dict[str, list[Row]] = {}
    for row in found.rows:
        by_endpoint.setdefault(row.endpoint, []).append(row)
    of = {name: rows for name, rows in by_endpoint.items() if decides(name, deciding)}
    compared = {name: rows for name, rows in of.items() if any(row.verdict in _JUDGED for row in rows)}
    lacking = [f"{name} ({_why(rows)})" for name, rows in of.items() if name not in compared]
    lacking += [
        f"{name} (no such rows)" for name in deciding if not any(decides(e, (name,)) for e in by_endpoint)
    ]
    if not compared:
        return f"no deciding endpoint could be compared: {'; '.join(lacking)}"
    return AblationBars(
        endpoints=tuple(_endpoint(name, rows, found) for name, rows in compared.items()),
        reference_label=found.reference,
        lacking=tuple(lacking),
    )


def _why(rows: Sequence[Row]) -> str:
    """Why none of an endpoint's rows was compared, each reason once."""
    told = dict.fromkeys(_remark(row) for row in rows if row.verdict is not Verdict.REFERENCE)
    return "; ".join(told)


def _remark(row: Row) -> str:
    """``one seed, needs 3``: what stands in the place of a difference."""
    words = row.wording.removeprefix("not evaluated: ")
    return words.replace(": not significant by rule", "")


def _endpoint(name: str, rows: Sequence[Row], found: Comparison) -> Endpoint:
    arms = {row.arm: row for row in rows}
    deltas = [row.delta for row in rows if row.delta is not None and row.verdict in _JUDGED]
    hosts = {row.value.host_domain for row in rows}
    level = f"{100 * found.confidence:g} %"
    return Endpoint(
        quantity=f"difference in {name}",
        arms=tuple(_arm(arm, arms.get(arm), seeds) for arm, seeds in found.seeds.items()),
        reference=0.0,
        least=rows[0].least,
        method="; ".join(dict.fromkeys(f"{level}: {delta.method}" for delta in deltas)),
        origin=Origin(
            host_domain=hosts.pop() if len(hosts) == 1 else HostDomain.MIXED,
            arc_domain=rows[0].value.arc_domain,
            manifests=tuple(dict.fromkeys(m for row in rows for m in row.value.manifests)),
        ),
    )


def _arm(name: str, row: Row | None, seeds: Sequence[int]) -> Arm:
    """The reference stands with its own value, an arm that was not compared with the reason."""
    trained = tuple(SeedValue(seed=seed) for seed in seeds)
    if row is None:
        return Arm(arm=name, n=0, seeds=trained, remark="no such rows")
    if row.verdict is Verdict.REFERENCE:
        return Arm(arm=name, n=row.value.n, seeds=trained, remark=measured_text(row.value))
    if row.delta is None or row.verdict not in _JUDGED:
        return Arm(arm=name, n=row.value.n, seeds=trained, remark=_remark(row))
    delta = row.delta
    each = tuple(
        SeedValue(seed=seed, value=value) for seed, value in zip(delta.seeds, row.delta_each, strict=True)
    )
    return Arm(
        arm=name,
        n=row.value.n,
        value=delta.value,
        low=delta.low,
        high=delta.high,
        seeds=each,
        verdict=_JUDGED[row.verdict],
    )


def entries_of(found: Comparison, deciding: Sequence[str]) -> tuple[tuple[Entry, ...], dict[str, str]]:
    """The figure of a comparison, or under its name why there is none."""
    bars = arm_bars(found, deciding)
    if isinstance(bars, str):
        return (), {NAME: bars}
    return (Entry(NAME, NAME, ablation, bars),), {}
