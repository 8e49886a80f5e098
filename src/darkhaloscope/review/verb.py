"""What `dhs review` does, as a function that takes paths."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from darkhaloscope.pipeline.verbs import phase0_of
from darkhaloscope.report.run import Verdict
from darkhaloscope.review.audit import review
from darkhaloscope.review.issues import Severity
from darkhaloscope.review.write import write_review


def review_all(
    run_folder: Path | None,
    *,
    code: Sequence[Path] = (),
    out: Path | None = None,
    anchors: Path | None = None,
    contaminants: Path | None = None,
) -> Verdict:
    """Review a run, code, or both; write the review and print its summary."""
    phase0, console = None, Console(stderr=True)
    if run_folder is not None:
        phase0, console = phase0_of(run_folder, anchors=anchors, contaminants=contaminants)
    made = review(phase0, code=code)
    folder = out or (run_folder / "review" if run_folder is not None else Path("review"))
    page = write_review(made, folder)[1]
    if phase0 is not None:
        phase0.write()
    _say(console, made.assessment)
    for number, issue in enumerate(made.issues, start=1):
        if issue.severity is not Severity.LOW:
            place = f"{issue.file}:{issue.lines}" if issue.file.endswith(".py") else issue.file
            _say(console, f"{number:>3}  {issue.severity:<8}  {issue.title} ({place})")
    _say(console, f"{made.verdict}: review in {page}")
    return made.verdict


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
