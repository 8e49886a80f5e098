"""One experiment as one frozen value: what is painted, injected, split, trained and measured."""

import json
from pathlib import Path
from typing import ClassVar

import yaml
from pydantic import Field

from darkhaloscope.contracts.config import Frozen, find_config, fingerprint, load
from darkhaloscope.contracts.errors import ConfigError, DataError, ProtocolChanged
from darkhaloscope.contracts.lock import differences, plain, refuse_changed
from darkhaloscope.contracts.protocol import Protocol, load_protocol
from darkhaloscope.contracts.store import open_dataset, write_whole
from darkhaloscope.contracts.tables import PAIRED_STAMPS, STAMPS
from darkhaloscope.dataset.sampling import PairSampling
from darkhaloscope.dataset.splits import SplitConfig
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.survey.priors import Psf, SkyPriors
from darkhaloscope.training.config import TrainConfig

MOCK_ANCHORS = 30
RUN_PROTOCOL = "protocol.json"


class Lookalikes(Frozen):
    """Mock contaminants by class and mock anchors, painted in bricks of their own and used by test only.

    The defaults are the least that the protocol asks for.
    """

    bricks: int = Field(default=20, ge=1)
    ring: int = Field(default=50, ge=0)
    spiral: int = Field(default=50, ge=0)
    merger: int = Field(default=30, ge=0)
    spike: int = Field(default=20, ge=0)
    anchors: int = Field(default=MOCK_ANCHORS, ge=0)


class Distractors(Frozen):
    """Mock contaminants by class that training may use as negatives, in bricks of their own; none by default.

    The test set holds others of the same kinds: its figures for them are then those of a network that has
    seen the like.
    """

    bricks: int = Field(default=20, ge=1)
    ring: int = Field(default=0, ge=0)
    spiral: int = Field(default=0, ge=0)
    merger: int = Field(default=0, ge=0)
    spike: int = Field(default=0, ge=0)


class SurveyConfig(Frozen):
    """Where galaxies come from: a synthetic sky, real cutouts, or both.

    targets_per_brick       deflectors and discs together; `priors.discs.share` of them are discs
    hosts                   a stamps dataset of real galaxies (`dhs survey cutouts … --out hosts`)
    known_lenses            cutouts of real lenses to score: .npz or FITS
    assumed_psfsize_arcsec  FWHM g r z of known-lens cutouts that bring no PSF
    known_lenses_optional   where their files are absent, their figures are NOT_EVALUATED instead of an error
    """

    bricks: int = Field(default=160, ge=1)
    targets_per_brick: int = Field(default=8, ge=0)
    bricks_per_shard: int = Field(default=8, ge=1)
    size: int = Field(default=64, ge=64)
    priors: SkyPriors = SkyPriors()
    lookalikes: Lookalikes = Lookalikes()
    distractors: Distractors = Distractors()
    hosts: str | None = None
    known_lenses: tuple[str, ...] = ()
    known_lenses_optional: bool = False
    assumed_psfsize_arcsec: tuple[float, float, float] = Psf().size_arcsec


class Experiment(Frozen):
    """Everything that decides a run's numbers; its fingerprint names them.

    trusted_pairs   a dataset of pairs whose arcs another renderer made, with this recipe and in other hosts:
                    two gates compare with them and are open without (`python -m benchmarks.independent_arcs`)
    """

    unfingerprinted: ClassVar[frozenset[str]] = frozenset({"about"})

    name: str
    about: str = ""
    seed: int = 42
    protocol: str = "evaluation_protocol.yaml"
    draws_per_host: int = Field(default=1, ge=1)
    trusted_pairs: str | None = None
    survey: SurveyConfig = SurveyConfig()
    recipe: Recipe = Recipe()
    splits: SplitConfig = SplitConfig()
    preprocess: Preprocess = Preprocess()
    sampling: PairSampling = PairSampling()
    training: TrainConfig = TrainConfig()


def load_experiment(config: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> Experiment:
    """Read an experiment file (a path, or the name of one that comes with the package)."""
    return load(find_config(config), Experiment, overrides)


def held_experiment(run_folder: Path) -> Experiment:
    """The experiment that a run's folder belongs to; DataError where there is none."""
    config = run_folder / "config.yaml"
    if not config.exists():
        raise DataError(str(run_folder), "holds no run (no config.yaml)", "give the --out of a dhs run")
    return load_experiment(config)


def check_inputs(experiment: Experiment) -> None:
    """Open everything an experiment names, before a folder is taken for it and before any work is done.

    Raises ConfigError for the protocol, DataError for a dataset or a cutout that cannot be used.
    """
    path = find_config(experiment.protocol)
    refuse_changed(load_protocol(path), path)
    survey = experiment.survey
    if survey.hosts is not None:
        hosts = open_dataset(survey.hosts).expect(STAMPS)
        if not hosts.num_rows:
            raise DataError(survey.hosts, "holds no row", "give a dataset with galaxies in it")
        if "lrg" not in hosts.read(["kind"]).column("kind").to_pylist():
            raise DataError(
                survey.hosts, "holds no possible deflector", "harvest the cutouts with --kind lrg"
            )
    if experiment.trusted_pairs is not None:
        trusted = open_dataset(experiment.trusted_pairs).expect(PAIRED_STAMPS)
        if not trusted.num_rows:
            raise DataError(experiment.trusted_pairs, "holds no row", "give pairs, or leave it out")
    for name in () if survey.known_lenses_optional else survey.known_lenses:
        if not Path(name).is_file():
            raise DataError(name, "there is no such file", "or set survey.known_lenses_optional=true")


def claim(out: Path, experiment: Experiment) -> None:
    """Take a folder for an experiment, or recognise it as its own; ConfigError if it is another's."""
    path = out / "config.yaml"
    protocol = load_protocol(find_config(experiment.protocol))
    if out.is_file():
        raise ConfigError(str(out), "", "is a file, not a folder", "another --out")
    if path.exists():
        found = load(path, Experiment)
        if fingerprint(found) != fingerprint(experiment):
            key = _first_difference(found.model_dump(mode="json"), experiment.model_dump(mode="json"))
            problem = "differs from the run that this folder holds"
            raise ConfigError(str(out), key, problem, "another --out, or the settings in its config.yaml")
        _keep_protocol(out, protocol)
        return
    text = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_whole(path, text.encode())
    _keep_protocol(out, protocol)


def _keep_protocol(out: Path, protocol: Protocol) -> None:
    """Record what a run is measured by; ProtocolChanged if the folder was begun under another one."""
    path = out / RUN_PROTOCOL
    if not path.exists():
        write_whole(path, (json.dumps(plain(protocol), indent=1) + "\n").encode())
        return
    changes = run_protocol_changes(out, protocol)
    if changes:
        raise ProtocolChanged(str(path), "the run began", changes)


def run_protocol_changes(out: Path, protocol: Protocol) -> list[str]:
    """What differs between a protocol and the one that the run in a folder began under."""
    path = out / RUN_PROTOCOL
    if not path.exists():
        return []
    return differences(json.loads(path.read_text(encoding="utf-8")), plain(protocol))


def _first_difference(a: object, b: object, path: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            if a.get(key) != b.get(key):
                return _first_difference(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
    return path
