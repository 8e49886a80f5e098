"""Documentation that can go stale is generated, or executed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.contracts.pages import CHECKS, contracts_page, exit_criteria_page

from darkhaloscope.contracts.config import find_config
from darkhaloscope.contracts.protocol import check_protocol, load_protocol
from darkhaloscope.gates.classes import HOST_MATCHING
from darkhaloscope.pipeline.experiment import load_experiment
from darkhaloscope.review.advice import ADVICE, advice_for

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
EXPERIMENTS = sorted(p.name for p in (ROOT / "configs" / "experiments").glob("*.yaml"))


def test_the_table_documentation_is_what_the_tables_say():
    """Renew it by writing the result of `contracts_page()` to the file."""
    assert (ROOT / "docs" / "contracts.md").read_text() == contracts_page()


def test_every_check_and_gate_that_can_fail_has_advice():
    protocol = load_protocol()
    names = {name for checks in CHECKS.values() for name in checks}
    names |= {*protocol.gates.v1, *protocol.gates.v2, "anchors_count", "protocol_locked", "provenance_gates"}
    names |= {f.name for f in check_protocol(protocol)}
    names |= {f"contaminants_{name}" for name in protocol.contaminants.minima}
    names |= {"sham_texture_auc", "sham_pixel_shift", HOST_MATCHING.name}  # reported beside the protocol's
    names |= {f"class_{name}" for name in ("core_lr_auc", "core_nl_auc", "texture_auc", "pixel_shift")}
    assert names <= set(ADVICE)
    assert set(ADVICE) - names == {"schema_paired_stamps"}
    assert advice_for("a_plugin's_own").fix  # and what nobody foresaw is told too


def test_the_exit_criteria_are_what_the_protocol_says():
    """Renew them by writing the result of `exit_criteria_page()` to the file."""
    assert (ROOT / "docs" / "exit_criteria.md").read_text() == exit_criteria_page()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_file_loads_and_is_named_for_itself(name):
    experiment = load_experiment(name)
    assert f"{experiment.name}.yaml" == name
    assert (ROOT / "configs" / "experiments" / name).read_text().startswith(f"# {experiment.name}: ")


def test_the_briefs_arms_differ_where_they_say():
    base = load_experiment("gen5_prime_baseline.yaml")
    assert base.training.network.backbone == "resnet18"
    assert (base.sampling.hard_negative_ratio, base.sampling.core_dropout_prob, base.sampling.paired) == (
        0.4,
        0.5,
        True,
    )
    assert load_experiment("ablate_no_hardneg.yaml").sampling.hard_negative_ratio == 0.0
    assert load_experiment("ablate_no_coredrop.yaml").sampling.core_dropout_prob == 0.0
    minimal = load_experiment("ablate_minimal.yaml").sampling
    assert (minimal.hard_negative_ratio, minimal.core_dropout_prob, minimal.paired) == (0.0, 0.0, False)


def test_the_readme_names_every_configuration_and_only_verbs_that_exist():
    for name in EXPERIMENTS:
        assert f"`{name}`" in README
    verbs = set(re.findall(r"^dhs (survey \w+|\w+)", README, flags=re.MULTILINE))
    assert verbs >= {"demo", "run", "train", "verify", "report", "inject", "survey sky", "survey cutouts"}
    dhs = Path(sys.executable).with_name("dhs")
    for verb in sorted(verbs):
        subprocess.run([dhs, *verb.split(), "--help"], check=True, capture_output=True)


def test_the_makefile_has_the_readmes_targets():
    if shutil.which("make") is None:
        pytest.fail("make is needed to run this project")
    for target in set(re.findall(r"`?make (\w+)`?", README)):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_configuration_is_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("demo.yaml").name == "demo.yaml"
    assert find_config("configs/experiments/demo.yaml").exists()


def test_the_tutorials_commands_run_as_they_stand(tmp_path, monkeypatch):
    """Every line of docs/bringing_in_the_sky.md, against a small sky and a service on loopback."""
    from tests.survey.cutout_server import Sky, cutout_service
    from tests.survey.test_parents import galaxies
    from tests.survey.test_tractor import write_fits

    text = (ROOT / "docs" / "bringing_in_the_sky.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(lines) >= 9
    monkeypatch.chdir(tmp_path)
    write_fits(tmp_path / "sweep-a.fits", galaxies())
    (tmp_path / "slacs.csv").write_text("name,ra,dec,theta_E,z_lens,z_source\nA,10,5,1.2,0.2,0.9\n")
    (tmp_path / "my-cutouts").mkdir()
    np.savez(tmp_path / "my-cutouts" / "a.npz", images=np.random.default_rng(1).normal(0, 1, (2, 3, 80, 80)))
    bin_folder = Path(sys.executable).parent
    subprocess.run([sys.executable, *lines[0].split()[1:]], check=True, env=_environment())
    with cutout_service(Sky(tmp_path / "sky-mirror")) as server:
        for line in lines[1:]:
            words = line.replace("sweep-*.fits", "sweep-a.fits").split()
            if words[1:3] == ["survey", "fetch"]:
                words += ["--url", server.url, "--rate", "10000"]
            done = subprocess.run(
                [bin_folder / words[0], *words[1:]], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}: {done.stderr}"
    assert (tmp_path / "stamps.h5").is_file()
    assert (tmp_path / "pictures" / "index.csv").is_file()


def _environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}


LESSONS = (ROOT / "docs" / "lessons.md").read_text()


def test_every_test_that_keeps_a_lesson_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", LESSONS)
    assert len(named) >= 50
    lost = [f"{path}::{name}" for path, name in named if not _has_test(path, name)]
    assert not lost


def _has_test(path, name):
    file = ROOT / path
    return file.is_file() and (not name or f"def {name}(" in file.read_text())


def test_a_lost_test_would_be_noticed():
    assert not _has_test("tests/contracts/test_docs.py", "test_that_nobody_wrote")
    assert not _has_test("tests/contracts/test_gone.py", "")
