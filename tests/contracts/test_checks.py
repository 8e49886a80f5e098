import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkhaloscope.contracts.checks import Check, Findings, Status, above, below, exactly, inside
from darkhaloscope.contracts.errors import CheckFailed, GateFailed

GATE = Check(name="core_lr_auc", bound=below(0.65), why="the core alone must not reveal the label")


def test_a_gate_knows_its_direction():
    assert GATE.measure(0.60, n=10).status is Status.PASS
    assert GATE.measure(0.71, n=10).status is Status.FAIL
    assert GATE.measure(0.65, n=10).status is Status.FAIL
    assert Check(name="auroc", bound=above(0.85)).measure(0.85).status is Status.FAIL
    assert Check(name="leaks", bound=exactly(0)).measure(1).status is Status.FAIL
    assert Check(name="slope", bound=inside(0.8, 1.2)).measure(0.8).passed


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(-1e6, 1e6))
def test_below_and_above_never_both_hold(value, limit):
    assert not (below(limit).holds(value) and above(limit).holds(value))


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_has_no_value_is_not_evaluated_and_has_not_passed(value):
    finding = GATE.measure(value, n=100)
    assert finding.status is Status.NOT_EVALUATED
    assert not finding.passed


def test_too_few_rows_are_not_evaluated_and_say_how_many_are_needed():
    finding = GATE.model_copy(update={"needs_n": 300}).measure(0.1, n=299)
    assert finding.status is Status.NOT_EVALUATED
    assert "needs n=300" in str(finding)
    assert not Findings([finding]).all_passed
    assert not Findings().all_passed


def test_failures_that_decide_raise_with_everything_in_the_sentence():
    findings = Findings([GATE.measure(0.71, n=18_432), GATE.measure(0.2, n=5)])
    with pytest.raises(GateFailed) as caught:
        findings.raise_if_failed(GateFailed)
    assert str(caught.value) == "gate failed: core_lr_auc = 0.71, must be below 0.65 (n=18432)"
    reported = GATE.model_copy(update={"decides": False})
    assert Findings([reported.measure(0.9)]).raise_if_failed(CheckFailed)


def test_findings_survive_json():
    findings = Findings(
        [GATE.measure(0.71, n=10, interval=(0.6, 0.8), examples=["a"]), GATE.not_evaluated("no rows")]
    )
    assert list(Findings.from_json(findings.to_json())) == list(findings)
