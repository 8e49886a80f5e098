import pytest
from pydantic import ValidationError

from darkhaloscope.contracts.config import Frozen, find_config, fingerprint, load, tagged
from darkhaloscope.contracts.errors import ConfigError


class Inner(Frozen):
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)


class Outer(Frozen):
    unfingerprinted = frozenset({"place"})
    name: str
    inner: Inner = Inner()
    place: str = ""


@pytest.fixture
def write(tmp_path):
    def _write(text):
        path = tmp_path / "experiment.yaml"
        path.write_text(text)
        return path

    return _write


def test_a_file_becomes_the_object_that_runs(write):
    config = load(write("name: a\ninner: {rate: 0.25, sizes: [3]}\n"), Outer)
    assert config == Outer(name="a", inner=Inner(rate=0.25, sizes=(3,)))


def test_overrides_reach_into_sections_and_are_typed(write):
    config = load(write("name: a\n"), Outer, ["inner.rate=0.125", "inner.sizes=[7, 8]"])
    assert config.inner == Inner(rate=0.125, sizes=(7, 8))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\ncolour: red\n", ["colour", "not a known key"]),
        ("name: a\ninner: {speed: 1.0}\n", ["inner.speed", "not a known key"]),
        ("inner: {rate: 0.5}\n", ["name", "missing"]),
        ("name: a\ninner: {rate: 1e-3}\n", ["inner.rate", "1e-3", "1.0e-3"]),
        ("name: 3\n", ["name", "string"]),
        ("name: a\ninner: {rate: .nan}\n", ["inner.rate"]),
        ("- a\n", ["mapping"]),
        ("name: [a\n", ["not YAML"]),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_key(write, text, words):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load(path, Outer)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    for word in words:
        assert word in sentence


@pytest.mark.parametrize("override", ["inner.rate", "=3", "name.first=x"])
def test_a_bad_override_is_refused(write, override):
    with pytest.raises(ConfigError):
        load(write("name: a\n"), Outer, [override])


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml", Outer)
    with pytest.raises(ConfigError, match="no such configuration file"):
        find_config("nowhere.yaml")


def test_the_fingerprint_follows_meaning_not_place():
    base = Outer(name="a")
    assert fingerprint(base) == fingerprint(Outer(name="a", place="/elsewhere"))
    assert fingerprint(base) != fingerprint(Outer(name="b"))
    assert fingerprint(base) != fingerprint(Outer(name="a", inner=Inner(rate=0.51)))
    assert fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})


def test_a_config_cannot_be_changed_and_numbers_are_not_text():
    config = Outer(name="a")
    with pytest.raises(ValidationError):
        config.name = "b"
    with pytest.raises(ValidationError):
        Inner(rate="0.5")


def test_a_tagged_number_carries_its_provenance():
    class Prior(Frozen):
        median: float = tagged(0.25, "M", "100 galaxies", unit="arcsec", gt=0)

    extra = Prior.model_fields["median"].json_schema_extra
    assert extra == {"tag": "M", "basis": "100 galaxies", "unit": "arcsec"}
    with pytest.raises(ValidationError):
        Prior(median=-1.0)
