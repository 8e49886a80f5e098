"""The pages of the documentation that are made from code; `test_docs.py` fails when one is stale."""

from darkhaloscope.contracts.protocol import load_protocol
from darkhaloscope.contracts.tables import HOUSE_TABLES
from darkhaloscope.dataset.catalog_checks import ANCHOR_CHECKS, CONTAMINANT_CHECKS
from darkhaloscope.dataset.pair_checks import OVER_ALL, PAIR_CHECKS
from darkhaloscope.dataset.split_checks import SPLIT_CHECKS
from darkhaloscope.pipeline.provenance import PROVENANCE_CHECKS
from darkhaloscope.review.advice import advice_for

CHECKS = {
    "pairs, row by row": PAIR_CHECKS,
    "pairs, over all rows": OVER_ALL,
    "splits": SPLIT_CHECKS,
    "anchors": ANCHOR_CHECKS,
    "contaminants": CONTAMINANT_CHECKS,
    "provenance": PROVENANCE_CHECKS,
}


def contracts_page():
    head = "# Tables\n\nGenerated from `contracts/tables.py` and the rooms' checks; a test fails when it is stale.\n\n"
    tables = "\n".join(table.docs() for table in HOUSE_TABLES)
    lines = [
        "",
        "# Checks",
        "",
        "What `dhs verify` looks at before anything is trained, over all rows. A finding has one of these names, a",
        "value, a bound and an n; NOT_EVALUATED is never a pass. Severity is what `dhs review` gives a failure.",
    ]
    for section, checks in CHECKS.items():
        lines += ["", f"### {section}", "", "| check | must be | severity | why |", "|---|---|---|---|"]
        lines += [
            f"| `{c.name}`{'' if c.decides else ' (reported)'} | {c.bound} | {advice_for(c.name).severity} | {c.why} |"
            for c in checks.values()
        ]
    return head + tables + "\n".join(lines) + "\n"


def exit_criteria_page():
    protocol = load_protocol()
    lines = [
        "# Exit criteria",
        "",
        "Generated from `evaluation_protocol.yaml`; a test fails when it is stale. The protocol is locked "
        "(`dhs protocol status`).",
        "",
        f"Protocol version {protocol.version}. `dhs run`, `dhs verify` and `dhs review` come to one of three verdicts:",
        "",
        "- **GO**: every deciding check passed.",
        "- **CONDITIONAL-GO**: none clearly failed, but one lies within 5 % of its bound, or could not be evaluated.",
        "- **NO-GO**: a deciding check failed, or `dhs review --code` found a critical or high issue. Exit code 1.",
        "",
        "What was not evaluated, for want of rows or of a model, is never a pass.",
        "",
        "## Phase 0: before training",
        "",
        "Every check of [contracts.md](contracts.md#checks): protocol, provenance, pairs, splits, look-alikes and anchors.",
        "A failure of pairs or splits stops training.",
    ]
    for version, title in (
        ("v1", "The brief's gates, to the letter: reported"),
        ("v2", "The gates that decide"),
    ):
        lines += ["", f"## {title}", "", "| gate | must be | by its | needs | why |", "|---|---|---|---|---|"]
        for name, gate in getattr(protocol.gates, version).items():
            need = f"{gate.needs_n} {gate.needs}"
            lines.append(f"| `{name}` | {gate.as_bound()} | {gate.decided_by} | {need} | {gate.why} |")
    o, a, c, s = protocol.operating_points, protocol.anchor_recall, protocol.contaminants, protocol.statistics
    lines += [
        "",
        "A gate decided by its interval needs both ends of the 90 % interval on the right side of the bound.",
        "",
        "## What is measured",
        "",
        f"- primary: {', '.join(protocol.metrics.primary)}",
        f"- secondary: {', '.join(protocol.metrics.secondary)}",
        f"- added: {', '.join(protocol.metrics.added)}",
        f"- operating points at FPR {', '.join(f'{f:g}' for f in o.fpr)}, each with at least {o.negatives_times_fpr:g}/FPR negatives",
        f"- anchor recall at {', '.join(map(str, a.k))} in a pool of at least {a.pool_min}, of at least {a.anchors_min} anchors from {a.theta_e_min_arcsec:g} arcsec",
        f"- look-alikes above {', '.join(f'{t:g}' for t in c.thresholds)}: at least {', '.join(f'{n} {k}' for k, n in c.minima.items())}",
        f"- {s.bootstrap} bootstraps by sky cell (at least {s.bootstrap_min}), {s.confidence:.0%} intervals, at least {s.seeds_min} seeds",
        "",
        "| stratum | bins |",
        "|---|---|",
        *(f"| `{name}` | {', '.join(strata.labels)} |" for name, strata in protocol.strata.items()),
    ]
    return "\n".join(lines) + "\n"
