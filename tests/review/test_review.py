"""Reviews: what findings and code issues come to, and the three forms that it is written in."""

import html
import json
import re

import pytest

from darkhaloscope.contracts.checks import Check, Status, above, below, exactly, inside
from darkhaloscope.contracts.errors import ConfigError, DataError
from darkhaloscope.pipeline.results import near_miss
from darkhaloscope.report.run import Verdict
from darkhaloscope.review.assess import Review, assess
from darkhaloscope.review.audit import review
from darkhaloscope.review.issues import Category, Issue, Severity
from darkhaloscope.review.write import render_html, render_markdown, write_review

ZERO = Check(name="pair_finite", bound=exactly(0), why="a NaN spoils a batch")
RATE = Check(name="core_lr_auc", bound=below(0.65), why="the core alone must not tell")
SEEN = Check(name="arc_annulus", bound=above(0.6), why="the arc must be seen", needs_n=500)
ASIDE = Check(name="sham_reported", bound=below(0.1), why="only told", decides=False)

CODE = Issue(
    rule="E722", category=Category.ERROR_HANDLING, severity=Severity.CRITICAL,
    title="Every error is swallowed",
    file="job.py", lines="3-5", problem="A full disk looks like an empty catalogue.",
    current="except:\n    pass", fixed="except OSError as error:\n    raise",
    explanation="What cannot be handled is not caught.",
)  # fmt: skip


def assessed(*findings, **options):
    return assess("a run", {"pairs": findings}, created="2026-01-01", code_version="1", **options)


def test_nothing_wrong_is_a_go_without_issues():
    made = assessed(ZERO.measure(0, n=10))
    assert made.verdict is Verdict.GO
    assert made.issues == ()
    assert made.risks == ("None that these checks can show.",)
    assert "Of 1 deciding checks 1 passed." in made.assessment


def test_a_failure_is_a_no_go_and_names_rows_value_and_fix():
    made = assessed(ZERO.measure(3, n=10, examples=["t-7", "t-9"]), run="runs/a")
    (issue,) = made.issues
    assert made.verdict is Verdict.NO_GO
    assert (issue.rule, issue.severity, issue.file) == ("pair_finite", Severity.CRITICAL, "runs/a: pairs")
    assert issue.lines == "t-7, t-9"
    assert "= 3" in issue.current
    assert "runs/a" in issue.fixed
    assert "{run}" not in issue.fixed
    assert made.risks[0].startswith(issue.title)


@pytest.mark.parametrize(
    ("check", "value", "near"),
    [
        (RATE, 0.66, True), (RATE, 0.6825, True), (RATE, 0.69, False), (RATE, 0.6, False),
        (SEEN, 0.58, True), (SEEN, 0.56, False),
        (ZERO, 1, False),
        (Check(name="x", bound=inside(0.5, 2.0)), 2.05, True),
        (Check(name="x", bound=inside(0.5, 2.0)), 0.45, False),
        (Check(name="x", bound=below(0.0)), 0.001, False),
    ],
)  # fmt: skip
def test_a_near_miss_is_within_a_twentieth_of_its_bound(check, value, near):
    assert near_miss(check.measure(value, n=1000)) == near


def test_a_near_miss_is_no_nearer_than_the_end_of_its_interval():
    """A gate decided by its interval fails where an end does, though its value holds."""
    failed = {"status": Status.FAIL}
    assert near_miss(RATE.measure(0.64, n=1000, interval=(0.62, 0.66)).model_copy(update=failed))
    assert not near_miss(RATE.measure(0.64, n=1000, interval=(0.58, 0.72)).model_copy(update=failed))


def test_a_near_miss_leaves_a_conditional_go_of_medium_severity():
    made = assessed(RATE.measure(0.66, n=1000), ZERO.measure(0, n=1000))
    assert made.verdict is Verdict.CONDITIONAL_GO
    assert [i.severity for i in made.issues] == [Severity.MEDIUM]
    assert "within 5 % of its bound" in made.reasons[0]
    both = assessed(RATE.measure(0.66, n=1000), ZERO.measure(1, n=1000))
    assert both.verdict is Verdict.NO_GO


def test_an_open_check_is_no_pass_and_says_how_large_a_sample_it_needs():
    made = assessed(SEEN.measure(0.9, n=100), run="r", bricks=20)
    (issue,) = made.issues
    assert made.verdict is Verdict.CONDITIONAL_GO
    assert issue.title == "arc_annulus could not be evaluated: too few rows"
    assert "100 rows of the 500" in issue.problem
    assert "survey.bricks=110 " in issue.fixed  # 20 bricks gave 100 rows; a tenth more than 500 rows need


def test_a_check_that_only_reports_decides_nothing():
    made = assessed(ASIDE.measure(0.5, n=10), ZERO.measure(0, n=10))
    assert made.verdict is Verdict.GO
    assert [i.severity for i in made.issues] == [Severity.LOW]


def test_grave_code_is_a_no_go_whatever_the_run_says():
    made = assessed(ZERO.measure(0, n=10), code_issues=[CODE], code=["jobs"])
    assert made.verdict is Verdict.NO_GO
    assert made.reasons == ("job.py:3-5: Every error is swallowed",)
    minor = CODE.model_copy(update={"severity": Severity.LOW})
    assert assessed(ZERO.measure(0, n=10), code_issues=[minor]).verdict is Verdict.GO
    only_code = assess("code", {}, code_issues=[CODE], created="now", code_version="1")
    assert only_code.verdict is Verdict.NO_GO


def test_a_go_with_a_grave_issue_cannot_be_made():
    made = assessed(ZERO.measure(0, n=10), code_issues=[CODE])
    with pytest.raises(ValueError, match="GO with grave issues: Every error is swallowed"):
        Review(**{**dict(made), "verdict": Verdict.GO})


def test_issues_and_risks_come_worst_first_and_open_checks_count_as_one_risk():
    few = [Check(name=f"open_{k}", bound=below(1.0), needs_n=10).measure(0.5, n=2) for k in range(4)]
    made = assessed(*few, ASIDE.measure(0.5, n=10), ZERO.measure(1, n=10), standing=["One seed."])
    ranks = [issue.severity.rank for issue in made.issues]
    assert ranks == sorted(ranks)
    assert len(made.risks) == 3
    assert made.risks[1] == "One seed."
    assert made.risks[2].startswith("4 checks had too few rows")


MADE = assessed(
    ZERO.measure(3, n=10, examples=["t|7"], detail="<b>bold</b>"), RATE.measure(0.5, n=900),
    code_issues=[CODE], code=["job.py"],
)  # fmt: skip
FIELDS = ("File", "Line(s)", "Severity", "Check", "Problem", "Current Code", "Fixed Code", "Explanation")


def test_the_markdown_has_the_brief_s_form():
    text = render_markdown(MADE)
    assert text.startswith("# Review of a run\n")
    assert "**Recommendation: NO-GO**" in text
    for number, issue in enumerate(MADE.issues, start=1):
        assert f"### Issue {number}: [{issue.category}] {issue.title}" in text
    part = text[text.index("[error handling] Every error") :].split("###")[0]
    places = [part.index(f"**{name}**") for name in FIELDS]
    assert places == sorted(places)
    assert "**Line(s)**: 3-5" in part
    assert "```python\nexcept:\n    pass\n```" in part
    summary = text[text.index("## Summary") : text.index("## Issues")]
    assert len(re.findall(r"^\| \d+ \|", summary, re.MULTILINE)) == len(MADE.issues)
    assert "## Overall assessment" in text
    assert re.search(r"^1\. ", text, re.MULTILINE)


def test_the_page_is_whole_and_asks_nothing_of_the_network():
    page = render_html(MADE)
    assert page.rstrip().endswith("</html>")
    assert not re.findall(r"(?:src|href)=[\"'](?!#|data:)", page)
    assert "<b>bold</b>" not in page
    assert html.escape("<b>bold</b>") in page
    for target in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{target}"' in page


def test_the_three_forms_say_the_same(tmp_path):
    md, page, data = write_review(MADE, tmp_path / "review")
    content = json.loads(data.read_text())
    assert [issue["number"] for issue in content["issues"]] == [1, 2]
    assert content["verdict"] == "NO-GO"
    assert [row["title"] for row in content["summary"]] == [i.title for i in MADE.issues]
    for issue in MADE.issues:
        assert issue.title in md.read_text()
        assert issue.title in page.read_text()
    again = Review.model_validate_json(
        json.dumps({k: v for k, v in content.items() if k != "summary"} | {"issues": [
            {k: v for k, v in issue.items() if k != "number"} for issue in content["issues"]]})
    )  # fmt: skip
    assert again == MADE


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match="the review cannot be written"):
        write_review(MADE, tmp_path / "taken")


def test_review_needs_something():
    with pytest.raises(ConfigError, match="nothing to review"):
        review(None)
