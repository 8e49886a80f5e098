"""From findings and code issues to a review: what is wrong, how bad it is, and whether to go on."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

from pydantic import Field, model_validator

from darkhaloscope.contracts.checks import Finding, Findings, Status
from darkhaloscope.contracts.config import Frozen
from darkhaloscope.pipeline.results import decide, near_miss
from darkhaloscope.report.run import Verdict
from darkhaloscope.review.advice import OPEN_FIXES, advice_for
from darkhaloscope.review.issues import Category, Issue, Severity

RISKS = 3


class Review(Frozen):
    """What a review came to.

    subject    what was reviewed, in words
    sections   findings by part: protocol, provenance, pairs, splits, look-alikes, anchors, gates
    issues     worst first; an issue's number is its place, from 1
    risks      the three that matter most
    reasons    why the verdict is what it is, one sentence each
    """

    subject: str
    created: str
    code_version: str
    sections: dict[str, tuple[Finding, ...]]
    code: tuple[str, ...] = ()
    issues: tuple[Issue, ...]
    verdict: Verdict = Field(strict=False)
    assessment: str
    risks: tuple[str, ...]
    reasons: tuple[str, ...]

    @model_validator(mode="after")
    def _go_has_no_grave_issue(self) -> Self:
        grave = [i.title for i in self.issues if i.severity.rank <= Severity.HIGH.rank]
        if self.verdict is Verdict.GO and grave:
            message = f"GO with grave issues: {', '.join(grave)}"
            raise ValueError(message)
        return self

    @property
    def findings(self) -> Findings:
        """All findings, section after section."""
        return Findings(f for part in self.sections.values() for f in part)


def assess(
    subject: str,
    sections: Mapping[str, Sequence[Finding]],
    *,
    run: str = "RUN",
    bricks: int = 0,
    code_issues: Sequence[Issue] = (),
    code: Sequence[str] = (),
    standing: Sequence[str] = (),
    created: str,
    code_version: str,
) -> Review:
    """Put findings and code issues together.

    run          folder of the run, for the commands of the fixes
    bricks       bricks of its synthetic sky, so that a fix can say how many it takes
    code_issues  of plugins or job scripts, from `review.code.check_code`
    code         what code was looked at, in words
    standing     risks that no check can remove, such as a sky without a real galaxy; named when there are
                 fewer than three issues

    A grave code issue is a NO-GO, as a failed deciding check is. One within 5 % of its bound, or a check that
    could not be made, is a CONDITIONAL-GO.
    """
    issues = _ordered([*_issues(sections, run, bricks), *code_issues])
    findings = Findings(f for part in sections.values() for f in part)
    verdict, reasons = _verdict(findings, code_issues)
    return Review(
        subject=subject,
        created=created,
        code_version=code_version,
        sections={name: tuple(part) for name, part in sections.items()},
        code=tuple(code),
        issues=tuple(issues),
        verdict=verdict,
        assessment=_assessment(verdict, findings, issues, code),
        risks=_risks(issues, standing),
        reasons=reasons,
    )


def _ordered(issues: Iterable[Issue]) -> list[Issue]:
    return sorted(issues, key=lambda issue: issue.severity.rank)


def _verdict(findings: Findings, code_issues: Sequence[Issue]) -> tuple[Verdict, tuple[str, ...]]:
    grave = [i for i in code_issues if i.severity.rank <= Severity.HIGH.rank]
    named = tuple(f"{i.file}:{i.lines}: {i.title}" for i in grave)
    if not len(findings):
        found = Verdict.NO_GO if grave else Verdict.GO
        return found, named or ("no grave issue in the code",)
    verdict, reasons = decide(findings)
    if grave:
        return Verdict.NO_GO, (*named, *(reasons if verdict is Verdict.NO_GO else ()))
    return verdict, reasons


def _issues(sections: Mapping[str, Sequence[Finding]], run: str, bricks: int) -> Iterator[Issue]:
    for section, findings in sections.items():
        for finding in findings:
            if finding.status is Status.FAIL:
                yield _failed(finding, section, run)
            elif finding.status is Status.NOT_EVALUATED and finding.decides:
                yield _open(finding, section, run, bricks)


def _failed(finding: Finding, section: str, run: str) -> Issue:
    advice = advice_for(finding.name)
    severity = advice.severity
    if not finding.decides:
        severity = Severity.LOW
    elif near_miss(finding):
        severity = max(severity, Severity.MEDIUM, key=lambda s: s.rank)
    return Issue(
        rule=finding.name,
        category=advice.category,
        severity=severity,
        title=advice.title,
        file=f"{run}: {section}",
        lines=", ".join(finding.examples),
        problem=_sentence(finding.why) or advice.title,
        current=str(finding),
        fixed=advice.fix.replace("{run}", run),
        explanation=advice.explanation,
    )


def _open(finding: Finding, section: str, run: str, bricks: int) -> Issue:
    advice = advice_for(finding.name)
    short = _lacks_rows(finding)
    needs = f" It has {finding.n:,} rows of the {finding.needs_n:,} it needs." if short else ""
    fix = OPEN_FIXES.get(finding.name, _larger(finding, bricks) if short else advice.fix)
    return Issue(
        rule=finding.name,
        category=advice.category if advice.category is Category.ERROR_HANDLING else Category.SCIENCE,
        severity=Severity.MEDIUM,
        title=f"{finding.name} could not be evaluated" + (": too few rows" if short else ""),
        file=f"{run}: {section}",
        problem=f"{_sentence(finding.why)} Nothing is known yet, and that is not a pass.{needs}".strip(),
        current=str(finding),
        fixed=fix.replace("{run}", run),
        explanation=_WITH_ROWS if short else _WITH_WHAT_IT_LACKS,
    )


_WITH_ROWS = (
    "The interval shrinks with the root of the number of rows; below the stated number it decides nothing."
)
_WITH_WHAT_IT_LACKS = "With what it lacks the check gives an answer, either way."


def _lacks_rows(finding: Finding) -> bool:
    return finding.n is not None and finding.n < finding.needs_n


def _larger(finding: Finding, bricks: int) -> str:
    """The command for a sample that is large enough, a tenth more than the rows would need."""
    wanted = "N"
    if bricks and finding.n:
        wanted = f"{math.ceil(1.1 * bricks * finding.needs_n / finding.n)}"
    return f"dhs run {{run}}/config.yaml --set survey.bricks={wanted} --out {{run}}-larger"


def _sentence(text: str) -> str:
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?', '!', ']')) else '.'}" if text else ""


_FIT = {
    Verdict.GO: "Ready: money may be spent on it.",
    Verdict.CONDITIONAL_GO: "Not yet ready: nothing clearly fails, but not all that must hold was shown.",
    Verdict.NO_GO: "Not ready: what is listed below must be mended first.",
}


def _assessment(verdict: Verdict, findings: Findings, issues: Sequence[Issue], code: Sequence[str]) -> str:
    counts = Counter(issue.severity for issue in issues)
    listed = ", ".join(f"{counts[s]} {s}" for s in Severity if counts[s]) or "none"
    deciding = findings.deciding
    passed = sum(f.passed for f in deciding)
    looked = f"Of {len(deciding)} deciding checks {passed} passed." if len(deciding) else ""
    read = f"Code was read in {', '.join(code)}." if code else ""
    return " ".join(part for part in (_FIT[verdict], looked, read, f"Issues: {listed}.") if part)


def _risks(issues: Sequence[Issue], standing: Sequence[str]) -> tuple[str, ...]:
    """Grave issues first, then what no check can remove, then what is open; open questions count as one."""
    grave = [i for i in issues if i.severity.rank <= Severity.HIGH.rank]
    rest = [i for i in issues if i.severity is Severity.MEDIUM]
    few = [i for i in rest if i.title.endswith(": too few rows")]
    risks = [f"{i.title} ({i.severity}, issue {issues.index(i) + 1}): {i.problem}" for i in grave]
    others = [f"{i.title}: {i.problem}" for i in rest if i not in few]
    if few:
        others.insert(
            0, f"{len(few)} checks had too few rows and decide nothing: {', '.join(i.rule for i in few)}."
        )
    return tuple([*risks, *standing, *others][:RISKS]) or ("None that these checks can show.",)
