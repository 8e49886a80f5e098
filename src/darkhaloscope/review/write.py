"""A review as Markdown in the brief's form, as a page that asks nothing of the network, and as JSON."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from darkhaloscope.contracts.checks import Finding, Status
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.report.figures import STATUS_SIGN
from darkhaloscope.report.numbers import finding_text
from darkhaloscope.report.run import Verdict
from darkhaloscope.review.assess import Review
from darkhaloscope.review.issues import Issue

NAME = "review"
LOOK = {Verdict.GO: Status.PASS, Verdict.CONDITIONAL_GO: Status.NOT_EVALUATED, Verdict.NO_GO: Status.FAIL}


def write_review(review: Review, folder: Path) -> tuple[Path, Path, Path]:
    """Write `review.md`, `review.html` and `review.json` into a folder; each appears whole or not at all.

    Returns their paths. Raises DataError if the folder cannot be written.
    """
    texts = {
        "md": render_markdown(review),
        "html": render_html(review),
        "json": json.dumps(review_json(review), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    paths = {kind: folder / f"{NAME}.{kind}" for kind in texts}
    for kind, text in texts.items():
        try:
            write_whole(paths[kind], text.encode())
        except OSError as error:
            raise DataError(str(paths[kind]), f"the review cannot be written: {error.strerror}") from error
    return paths["md"], paths["html"], paths["json"]


def review_json(review: Review) -> dict[str, object]:
    """The review as plain data; issues carry their number."""
    data = review.model_dump(mode="json")
    data["issues"] = [{"number": n, **issue} for n, issue in enumerate(data["issues"], start=1)]
    data["summary"] = [
        {
            "number": n,
            "file": i.file,
            "severity": str(i.severity),
            "category": str(i.category),
            "title": i.title,
        }
        for n, i in enumerate(review.issues, start=1)
    ]
    return data


# --- Markdown ----------------------------------------------------------------------------------------------


def render_markdown(review: Review) -> str:
    """The review in the form that the brief asks for."""
    return "\n".join(_markdown(review)).rstrip() + "\n"


def _markdown(review: Review) -> Iterator[str]:
    yield f"# Review of {review.subject}"
    yield ""
    yield f"{review.created}, darkhaloscope {review.code_version}"
    yield ""
    yield f"**Recommendation: {review.verdict}**"
    yield ""
    yield from _bullets(review.reasons)
    yield "## Overall assessment"
    yield ""
    yield review.assessment
    yield ""
    yield "Top risks:"
    yield ""
    yield from (f"{n}. {risk}" for n, risk in enumerate(review.risks, start=1))
    yield ""
    yield "## Summary"
    yield ""
    yield from _summary(review.issues)
    yield "## Issues"
    yield ""
    if not review.issues:
        yield "No issue was found."
        yield ""
    for number, issue in enumerate(review.issues, start=1):
        yield from _issue(number, issue)
    yield from _checks(review)


def _bullets(lines: Iterable[str]) -> Iterator[str]:
    yield from (f"- {line}" for line in lines)
    yield ""


def _summary(issues: Sequence[Issue]) -> Iterator[str]:
    if not issues:
        return
    yield "| # | severity | category | issue | where |"
    yield "|---|---|---|---|---|"
    for number, issue in enumerate(issues, start=1):
        cells = (str(number), issue.severity, issue.category, issue.title, issue.file)
        yield f"| {' | '.join(_cell(cell) for cell in cells)} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _issue(number: int, issue: Issue) -> Iterator[str]:
    code = issue.file.endswith(".py")
    yield f"### Issue {number}: [{issue.category}] {issue.title}"
    yield ""
    yield f"**File**: {issue.file}"
    yield f"**{'Line(s)' if code else 'Row(s)'}**: {issue.lines or 'all'}"
    yield f"**Severity**: {str(issue.severity).capitalize()}"
    yield f"**Check**: `{issue.rule}`"
    yield ""
    yield "**Problem**:"
    yield issue.problem
    yield ""
    yield f"**{'Current Code' if code else 'Measured'}**:"
    yield from _block(issue.current, "python" if code else "")
    yield f"**{'Fixed Code' if code else 'What to do'}**:"
    yield from _block(issue.fixed, "python" if code else "")
    yield "**Explanation**:"
    yield issue.explanation
    yield ""


def _block(text: str, language: str) -> Iterator[str]:
    fence = "```" if "```" not in text else "````"
    yield f"{fence}{language}"
    yield text
    yield fence
    yield ""


def _checks(review: Review) -> Iterator[str]:
    for section, findings in review.sections.items():
        yield f"## Checks: {section}"
        yield ""
        yield "| status | check | value | must be | n |"
        yield "|---|---|---|---|---|"
        for finding in findings:
            yield f"| {' | '.join(_cell(cell) for cell in _row(finding))} |"
        yield ""


def _row(finding: Finding) -> tuple[str, ...]:
    name = f"`{finding.name}`" + ("" if finding.decides else " (reported)")
    value = finding_text(finding) if finding.value is not None else "none"
    return (finding.status, name, value, str(finding.bound), "" if finding.n is None else f"{finding.n}")


# --- HTML --------------------------------------------------------------------------------------------------


def render_html(review: Review) -> str:
    """The review as one page, UTF-8, self-contained."""
    world = Environment(
        loader=ChoiceLoader(
            [
                PackageLoader("darkhaloscope.review", "templates"),
                PackageLoader("darkhaloscope.report", "templates"),
            ]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    world.filters["finding"] = finding_text
    page = world.get_template("review.html").render(
        r=review,
        look=LOOK[review.verdict],
        sign=STATUS_SIGN,
        is_code=lambda issue: issue.file.endswith(".py"),
    )
    return page.lstrip()
