import re

import numpy as np
import pytest

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.config import fingerprint
from darkhaloscope.contracts.errors import ConfigError
from darkhaloscope.contracts.protocol import V1, V2, Strata, check_protocol, load_protocol


@pytest.fixture(scope="module")
def protocol():
    return load_protocol()


def test_shipped_protocol_holds_the_contract(protocol):
    findings = check_protocol(protocol)
    for name in ("protocol_directions", "protocol_complete", "protocol_bounds"):
        assert findings.named(name).passed, findings.named(name)


@pytest.mark.parametrize("name", [*(f"v1.{n}" for n in V1), *(f"v2.{n}" for n in V2)])
def test_a_flipped_direction_is_found_for_every_gate(name):
    bound = (V1 | V2)[name.split(".")[1]]
    if bound.direction == "inside":
        overrides = [f"gates.{name}.direction=above", f"gates.{name}.bound={bound.high}"]
    else:
        overrides = [f"gates.{name}.direction={'below' if bound.direction == 'above' else 'above'}"]
    finding = check_protocol(load_protocol(overrides=overrides)).named("protocol_directions")
    assert finding.status is Status.FAIL
    assert finding.value == 1
    assert name.split(".")[1] in finding.detail


def test_a_flipped_direction_alone_does_not_change_the_bounds_finding():
    findings = check_protocol(load_protocol(overrides=["gates.v1.core_lr_auc.direction=above"]))
    assert [f.name for f in findings.failed] == ["protocol_directions"]


@pytest.mark.parametrize(
    "override",
    [
        "gates.v1.core_lr_auc.bound=0.75",
        "gates.v1.auroc_synth.decides=true",
        "gates.v2.core_lr_auc_grouped.decides=false",
        "gates.v2.core_lr_auc_grouped.needs_n=50",
        "gates.v2.sham_core_lr_auc.bound=[0.4, 0.6]",
        "gates.v2.sham_core_lr_auc.decided_by=value",
        "gates.v2.core_swap_sufficiency.needs_n=10",
        "leakage_probe.repeats=1",
        "operating_points.negatives_times_fpr=1",
        "anchor_recall.pool_min=100",
        "anchor_recall.anchors_min=5",
        "contaminants.minima.ring=2",
        "statistics.bootstrap_min=10",
        "statistics.bootstrap=100",
        "statistics.seeds_min=1",
        "statistics.confidence=0.68",
        "calibration.bins=5",
        "precision_at_recall.recall=0.5",
        "strata.theta_e_arcsec.edges=[0.5, 1.0]",
    ],
)
def test_a_loosened_number_is_found(override):
    failed = check_protocol(load_protocol(overrides=[override])).failed
    assert [f.name for f in failed] == ["protocol_bounds"]


@pytest.mark.parametrize(
    ("override", "lacks"),
    [
        ("operating_points.fpr=[0.01]", "0.001"),
        ("anchor_recall.k=[50]", "100"),
        ("contaminants.thresholds=[0.5]", "0.7"),
        ("metrics.primary=[auroc_synth]", "anchor_recall_at_k"),
        ("contaminants.minima={ring: 50}", "spiral"),
    ],
)
def test_something_missing_is_found(override, lacks):
    finding = check_protocol(load_protocol(overrides=[override])).named("protocol_complete")
    assert finding.status is Status.FAIL
    assert lacks in finding.detail


def test_a_removed_gate_is_found(protocol):
    gates = protocol.gates.model_copy(
        update={"v2": {k: v for k, v in protocol.gates.v2.items() if k != "control_identity"}}
    )
    finding = check_protocol(protocol.model_copy(update={"gates": gates})).named("protocol_complete")
    assert "gates.v2 lacks control_identity" in finding.detail


def test_old_files_with_a_date_of_their_lock_are_still_read(protocol):
    dated = load_protocol(overrides=["locked_date='2031-01-01'"])
    assert dated.locked_date == "2031-01-01"
    assert fingerprint(dated) == fingerprint(protocol)  # when it was locked is not what it says


def test_an_unknown_key_and_a_misfit_bound_are_named():
    with pytest.raises(ConfigError, match=re.escape("gates.v1.core_lr_auc.treshold")):
        load_protocol(overrides=["gates.v1.core_lr_auc.treshold=0.7"])
    with pytest.raises(ConfigError, match="two limits"):
        load_protocol(overrides=["gates.v2.sham_core_lr_auc.bound=0.5"])
    with pytest.raises(ConfigError, match="rise"):
        load_protocol(overrides=["strata.arc_snr.edges=[3.0, 2.0]"])


def test_every_value_changes_the_fingerprint(protocol):
    assert fingerprint(protocol) == fingerprint(load_protocol())
    assert fingerprint(protocol) != fingerprint(load_protocol(overrides=["calibration.bins=20"]))


def test_checks_carry_version_and_direction(protocol):
    v1, v2 = protocol.check("core_lr_auc"), protocol.check("core_lr_auc_grouped")
    assert (v1.version, v1.decides, str(v1.bound)) == ("v1", False, "below 0.65")
    assert (v2.version, v2.decides, v2.needs_n) == ("v2", True, 300)
    with pytest.raises(KeyError, match="no gate 'core_lr'"):
        protocol.check("core_lr")


def test_a_gate_decided_by_its_interval_needs_all_of_it_inside(protocol):
    def status(interval, n=4000):
        return protocol.measure("sham_core_lr_auc", 0.5, n=n, interval=interval).status

    assert status((0.48, 0.52)) is Status.PASS
    assert status((0.46, 0.52)) is Status.FAIL
    assert status(None) is Status.NOT_EVALUATED
    assert status((0.48, 0.52), n=100) is Status.NOT_EVALUATED


def test_warning_bands_warn_and_decide_nothing(protocol):
    finding = protocol.measure("hardneg_auroc", 0.95, n=100)
    assert finding.passed
    assert "warning: above 0.9" in finding.detail
    assert "warning: below 0.65" in protocol.measure("hardneg_auroc", 0.6, n=100).detail
    assert "warning" not in protocol.measure("hardneg_auroc", 0.8, n=100).detail


def test_no_value_falls_between_the_bins(protocol):
    strata = protocol.strata["arc_snr"]
    values = [0.1, 3.0, 9.99, 10.0, 999.0, 1000.0, 1e6, np.nan, -1.0]
    assert strata.labels[0] == "< 3"
    assert [strata.labels[i] for i in strata.assign(values)] == [
        "< 3", "[3, 10)", "[3, 10)", "[10, 20)", "[50, 1000)", ">= 1000", ">= 1000", "unknown", "< 3",
    ]  # fmt: skip
    brief = Strata(edges=(3.0, 10.0), outside=False)
    assert brief.assign([1.0, 3.0, 10.0, np.nan]).tolist() == [-1, 0, -1, -1]
    assert brief.labels == ("[3, 10)",)


def test_operating_points_say_how_many_negatives_they_need(protocol):
    needed = [protocol.operating_points.negatives_needed(f) for f in protocol.operating_points.fpr]
    assert needed == [1000, 10_000, 100_000]
