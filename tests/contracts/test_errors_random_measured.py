import inspect
import pickle

import numpy as np
import pytest
from pydantic import ValidationError

from darkhaloscope.contracts import errors
from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.measured import ArcDomain, HostDomain, Measured
from darkhaloscope.contracts.random import stream

TREE = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.DarkhaloscopeError)]


@pytest.mark.parametrize("kind", TREE, ids=lambda c: c.__name__)
def test_every_error_survives_pickling_with_its_note(kind):
    if kind.__init__ is Exception.__init__:
        error = kind("x")
    else:
        names = list(inspect.signature(kind.__init__).parameters)[1:]
        error = kind(*(("a", "b") if name == "lines" else name for name in names))
    error.add_note("target_id=7")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert copy.__notes__ == ["target_id=7"]


def test_the_tree_is_drawn_in_the_module_docstring():
    for kind in TREE:
        assert kind.__name__ in errors.__doc__


def test_exit_codes_are_those_of_the_contract():
    assert errors.ConfigError("f", "k", "p").exit_code == 2
    assert errors.DataError("f", "p").exit_code == 1
    assert errors.CredentialsExpired("x").exit_code == 3


def test_naming_adds_the_target_and_lets_the_error_through():
    with pytest.raises(ValueError, match="bad") as caught, errors.naming(target_id="t-1"):
        raise ValueError("bad")
    assert caught.value.__notes__ == ["target_id=t-1"]


def test_streams_belong_to_seed_purpose_and_target():
    draw = stream(1, "lens", "a").random(4)
    assert np.array_equal(draw, stream(1, "lens", "a").random(4))
    for other in (
        stream(2, "lens", "a"),
        stream(1, "source", "a"),
        stream(1, "lens", "b"),
        stream(1, "len", "sa"),
    ):
        assert not np.array_equal(draw, other.random(4))


def test_streams_are_uniform_over_targets():
    first = np.array([stream(5, "p", str(k)).random() for k in range(4000)])
    assert abs(first.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / np.sqrt(4000)


def _measured(name, arc, **more):
    base = dict(
        value=0.5,
        low=0.4,
        high=0.6,
        method="m",
        n=10,
        seeds=(1,),
        manifests=("f",),
        host_domain=HostDomain.SIM,
    )
    return Measured(name=name, arc_domain=arc, **(base | more))


def test_simulated_arcs_never_stand_under_a_real_name():
    assert _measured("real_lens_score", ArcDomain.REAL)
    assert _measured("auroc_synth", ArcDomain.SIM)
    for name in ("real_lens_score", "anchor_recall_at_100"):
        for arc in (ArcDomain.SIM, ArcDomain.NATURE, ArcDomain.NONE):
            with pytest.raises(ValidationError, match="names real lenses"):
                _measured(name, arc)
    with pytest.raises(ValidationError, match="names a mock"):
        _measured("mock_anchor_recall", ArcDomain.REAL)


def test_a_figure_without_manifest_or_without_reason_is_refused():
    with pytest.raises(ValidationError, match="manifest"):
        _measured("auroc_synth", ArcDomain.SIM, manifests=())
    with pytest.raises(ValidationError, match="say why"):
        _measured("auroc_synth", ArcDomain.SIM, value=None, status=Status.NOT_EVALUATED)
