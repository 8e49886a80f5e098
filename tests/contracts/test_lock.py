"""The lock of the protocol: every state, every difference named, a changed protocol refused."""

import pickle

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.config import find_config, fingerprint
from darkhaloscope.contracts.errors import ConfigError, DataError, PreflightFailed, ProtocolChanged
from darkhaloscope.contracts.lock import (
    check_lock,
    differences,
    lock_path,
    lock_protocol,
    plain,
    read_locks,
    refuse_changed,
)
from darkhaloscope.contracts.protocol import load_protocol

SHIPPED = find_config("evaluation_protocol.yaml")
LOCKED_FINGERPRINT = "5f535ccc62e07c77"
"""Of the protocol that comes with the package. To change it: raise `version` in the file, then
`dhs protocol lock --reason …`, and put the new fingerprint here."""


@pytest.fixture
def own(tmp_path):
    """A copy of the protocol to do with as one likes, without a lock."""
    path = tmp_path / "own.yaml"
    path.write_text(SHIPPED.read_text(encoding="utf-8"), encoding="utf-8")
    return path


def changed(path, key, value):
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    node = data
    for parent in parents:
        node = node[parent]
    node[last] = value
    path.write_text(yaml.safe_dump(data), encoding="utf-8")


def test_the_shipped_protocol_is_locked_and_unchanged():
    locks = read_locks(SHIPPED)
    assert locks[-1].fingerprint == LOCKED_FINGERPRINT == fingerprint(load_protocol())
    assert check_lock(load_protocol(), SHIPPED).passed
    assert locks[-1].content == plain(load_protocol())


def test_an_unlocked_protocol_is_not_evaluated_and_may_run(own):
    assert check_lock(load_protocol(own), own).status is Status.NOT_EVALUATED
    refuse_changed(load_protocol(own), own)


def test_a_lock_says_when_and_by_whom_and_locking_again_changes_nothing(own):
    lock, new = lock_protocol(own, user="E. Hubble")
    before = lock_path(own).read_bytes()
    assert new
    again, new = lock_protocol(own, user="somebody else")
    assert (again, new) == (lock, False)
    assert lock_path(own).read_bytes() == before
    found = check_lock(load_protocol(own), own)
    assert found.passed
    assert "by E. Hubble" in found.detail


def test_a_changed_protocol_fails_is_refused_and_the_difference_is_named(own):
    lock_protocol(own, user="a")
    changed(own, "core_swap.fpr", 0.01)
    found = check_lock(load_protocol(own), own)
    assert found.status is Status.FAIL
    assert "core_swap.fpr: 0.001 -> 0.01" in found.detail
    with pytest.raises(ProtocolChanged, match=r"core_swap\.fpr: 0\.001 -> 0\.01") as caught:
        refuse_changed(load_protocol(own), own)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_changed_protocol_is_locked_again_only_with_another_version_and_a_reason(own):
    lock_protocol(own, user="a")
    changed(own, "core_swap.fpr", 0.01)
    with pytest.raises(ConfigError, match="another version"):
        lock_protocol(own, user="a", reason="because")
    changed(own, "version", "2.1")
    with pytest.raises(ConfigError, match=r"core_swap\.fpr"):
        lock_protocol(own, user="a")
    lock, new = lock_protocol(own, user="b", reason="ten thousand negatives were not to be had")
    assert new
    assert [(k.version, k.user) for k in read_locks(own)] == [("2.0", "a"), ("2.1", "b")]
    assert lock.reason.startswith("ten thousand")
    changed(own, "core_swap.fpr", 0.001)
    changed(own, "version", "2.0")
    with pytest.raises(ConfigError, match="another version"):  # nor back to a version that was locked before
        lock_protocol(own, user="a", reason="back")


def test_a_protocol_that_does_not_hold_its_contract_cannot_be_locked(own):
    changed(own, "gates.v1.core_lr_auc.direction", "above")
    with pytest.raises(PreflightFailed, match="must be 'below'"):
        lock_protocol(own, user="a")
    assert not lock_path(own).exists()


@pytest.mark.parametrize("text", ["", "{}", '{"locks": 3}', "not json"])
def test_a_damaged_lock_is_refused_in_a_sentence(own, text):
    lock_path(own).write_text(text)
    with pytest.raises(DataError, match="is not a lock"):
        read_locks(own)


def leaves(node, path=()):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, node


CONTENT = plain(load_protocol())
LEAVES = list(leaves(CONTENT))


@given(st.sampled_from(range(len(LEAVES))))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_any_single_change_is_reported_with_exactly_its_key(at):
    path, value = LEAVES[at]
    other = yaml.safe_load(yaml.safe_dump(CONTENT))
    node = other
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = [value, "changed"]
    (line,) = differences(CONTENT, other)
    assert line.startswith(".".join(map(str, path)) + ": ")
    assert differences(CONTENT, CONTENT) == []


def test_an_absent_and_an_added_key_are_differences():
    fewer = {k: v for k, v in CONTENT.items() if k != "calibration"}
    assert [line.partition(":")[0] for line in differences(CONTENT, fewer)] == ["calibration"]
    assert [line.partition(":")[0] for line in differences(fewer, CONTENT)] == ["calibration"]


def test_comments_spaces_and_the_order_of_keys_are_no_change(own):
    lock_protocol(own, user="a")
    data = yaml.safe_load(own.read_text(encoding="utf-8"))
    own.write_text(
        "# another remark\n" + yaml.safe_dump(dict(reversed(data.items())), sort_keys=False, indent=6)
    )
    assert check_lock(load_protocol(own), own).passed
