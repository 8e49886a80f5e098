"""The fetcher against a server that behaves, and one that does not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pytest
from benchmarks.mirror import write_brick
from tests.survey.cutout_server import FAULTS, Sky, cutout_service

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.survey.cutouts import Cutout
from darkhaloscope.survey.fetch import _asked_to_wait, fetch_answers
from darkhaloscope.survey.release import RELEASES
from darkhaloscope.survey.service import TRANSIENT, CutoutService, read_answers
from darkhaloscope.survey.targets import make_targets

SOUTH = RELEASES["dr10-south"]
SIDE = 700
CODES = {
    "truncated": "truncated",
    "short": "truncated",
    "html": "not_fits",
    "garbage": "not_fits",
    "blank": "outside_footprint",
    "no_overlap": "outside_footprint",
    "empty": "outside_footprint",
    "clipped": "clipped",
    "500": "service_failed",
    "429": "service_failed",
    "reset": "service_failed",
    "slow": "service_failed",
    "loop": "service_failed",
    "other_release": "wrong_release",
    "missing_band": "missing_band",
    "resampled": "not_native",
}
HOW_MANY = int(os.environ.get("DHS_FETCH_TARGETS", "160"))
"""Targets of the test that kills the fetcher; 2,000 by hand."""


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    root = tmp_path_factory.mktemp("sky")
    name, ra, dec = write_brick(root, 40.0, -30.0, side=SIDE, targets=20)
    return Sky(root), root, name, ra, dec


def targets_in(sky, n, seed=3):
    """Positions well inside the brick."""
    wcs, _ = sky[0].bricks[sky[2]]
    xy = np.random.default_rng(seed).uniform(60, SIDE - 60, (2, n))
    ra, dec = wcs.pixel_to_world_values(*xy)
    return make_targets(ra, dec, release=SOUTH, source="test", columns={"brickname": [sky[2]] * n})


def asking(url, **more):
    facts = {"url": url, "rate_per_s": 1e4, "connections": 8, "attempts": 2, "timeout_s": 0.7}
    return CutoutService(release="dr10-south", **(facts | more))


def faults_of(targets, names):
    return {
        f"{ra:.8f}": name
        for ra, name in zip(targets.column("ra_deg").to_pylist(), names, strict=False)
        if name
    }


def verdicts(targets, service, cache):
    return [
        answer if isinstance(answer, str) else "ok"
        for answer in (read_answers(service, row, cache) for row in targets.to_pylist())
    ]


def test_every_fault_has_its_reason(sky, tmp_path):
    assert set(CODES) == set(FAULTS)
    targets = targets_in(sky, len(CODES) + 4)
    names = [*CODES, None, None, None, None]
    with cutout_service(sky[0], faults_of(targets, names)) as server:
        service = asking(server.url)
        summary = fetch_answers(targets, service, tmp_path, first_wait_s=0.01)
    assert verdicts(targets, service, tmp_path) == [CODES.get(name, "ok") for name in names]
    assert summary.verdicts == Counter(CODES.get(name, "ok") for name in names)
    assert summary.targets == len(names)
    assert "4 with pixels" in str(summary)


def test_what_passes_is_tried_again_and_comes(sky, tmp_path):
    names = ["truncated*1", "html*2", "500*1", "429*2", "reset*1", "short*1", "slow*1"]
    targets = targets_in(sky, len(names))
    with cutout_service(sky[0], faults_of(targets, names)) as server:
        service = asking(server.url, attempts=4)
        fetch_answers(targets, service, tmp_path, first_wait_s=0.01)
        asked = Counter(what for _, _, what in server.asked.elements())
    assert verdicts(targets, service, tmp_path) == ["ok"] * len(names)
    assert asked["fits-cutout"] == len(names) + 9


def test_a_psf_that_does_not_come_is_no_stamp(sky, tmp_path):
    targets = targets_in(sky, 2)
    faults = {f"{targets.column('ra_deg')[0].as_py():.8f}": "psf:html"}
    with cutout_service(sky[0], faults) as server:
        service = asking(server.url)
        fetch_answers(targets, service, tmp_path, first_wait_s=0.01)
    assert verdicts(targets, service, tmp_path) == ["not_fits", "ok"]


def test_the_second_run_asks_for_nothing_but_what_may_have_passed(sky, tmp_path):
    names = ["500", "blank", None, None]
    targets = targets_in(sky, len(names))
    with cutout_service(sky[0], faults_of(targets, names)) as server:
        service = asking(server.url)
        fetch_answers(targets, service, tmp_path, first_wait_s=0.01)
        before = Counter(server.asked)
        again = fetch_answers(targets, service, tmp_path, first_wait_s=0.01)
        more = server.asked - before
    assert {ra for ra, _, _ in more} == set(list(faults_of(targets, names))[:1])
    assert again.from_cache == 1 + 2 * 3


def test_a_body_that_changed_on_disk_is_fetched_again(sky, tmp_path):
    targets = targets_in(sky, 3)
    with cutout_service(sky[0]) as server:
        service = asking(server.url)
        fetch_answers(targets, service, tmp_path)
        body = max(tmp_path.rglob("*.fits"), key=lambda p: p.stat().st_size)
        data = bytearray(body.read_bytes())
        data[-5000] ^= 1
        body.write_bytes(data)
        before = sum(server.asked.values())
        fetch_answers(targets, service, tmp_path)
        assert sum(server.asked.values()) == before + 1
    assert verdicts(targets, service, tmp_path) == ["ok"] * 3


def test_no_more_connections_than_allowed_and_no_faster(sky, tmp_path):
    targets = targets_in(sky, 10)
    with cutout_service(sky[0]) as server:
        service = asking(server.url, connections=2, rate_per_s=40.0, timeout_s=10.0)
        start = time.monotonic()
        summary = fetch_answers(targets, service, tmp_path)
        seconds = time.monotonic() - start
        assert server.most_at_once <= 2
    assert seconds >= (summary.requests - 1) / 40.0 - 0.01


def test_a_service_that_is_not_there_stops_the_run(sky, tmp_path):
    targets = targets_in(sky, 60)
    service = asking("http://127.0.0.1:9", attempts=1)
    with pytest.raises(DataError, match=r"does not answer.*the same command continues"):
        fetch_answers(targets, service, tmp_path, first_wait_s=0.01)


def test_a_rejected_target_is_not_asked_for(sky, tmp_path):
    targets = targets_in(sky, 2)
    column = targets.schema.get_field_index("reject")
    targets = targets.set_column(column, targets.schema.field("reject"), [["known_lens", None]])
    with cutout_service(sky[0]) as server:
        fetch_answers(targets, asking(server.url), tmp_path)
        assert len({ra for ra, _, _ in server.asked}) == 1


def test_the_address_and_the_pace_are_not_what_is_meant():
    from darkhaloscope.contracts.config import fingerprint

    one, other = asking("http://one", attempts=3), asking("http://other", attempts=7)
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(one.model_copy(update={"size": 80}))


def test_killed_and_started_again_nothing_is_fetched_twice(sky, tmp_path):
    """5 % of each of ten faults; SIGKILL in the middle; every good target arrives once."""
    left_out = ("slow", "loop", "garbage", "no_overlap", "empty", "resampled")
    kinds = [kind for kind in CODES if kind not in left_out]
    targets = targets_in(sky, HOW_MANY, seed=9)
    names = [kinds[k % 20] if k % 20 < len(kinds) else None for k in range(HOW_MANY)]
    cache = tmp_path / "cache"
    with cutout_service(sky[0], faults_of(targets, names)) as server:
        facts = {"url": server.url, "rate_per_s": 1e4, "connections": 4, "attempts": 2, "timeout_s": 5.0}
        (tmp_path / "run.json").write_text(
            json.dumps(
                {
                    "service": facts,
                    "ra": targets.column("ra_deg").to_pylist(),
                    "dec": targets.column("dec_deg").to_pylist(),
                    "brick": sky[2],
                }
            )
        )
        command = [sys.executable, "-m", "tests.survey.fetch_alone", str(tmp_path / "run.json"), str(cache)]
        child = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        while len(list(cache.rglob("*.json"))) < HOW_MANY // 2:
            time.sleep(0.01)
            assert child.poll() is None, "it was to be killed in the middle"
        child.send_signal(signal.SIGKILL)
        child.wait()
        time.sleep(0.2)
        stored = {(r["params"]["ra"], r["params"]["dec"], _what(r)): r["verdict"] for r in _records(cache)}
        before = Counter(server.asked)
        subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
        more = server.asked - before
    kept = {asked for asked, verdict in stored.items() if verdict not in TRANSIENT}
    assert len(kept) > HOW_MANY // 8
    assert not kept & set(more)
    service = CutoutService(release="dr10-south", **facts)
    assert verdicts(targets, service, cache) == [CODES.get(name, "ok") for name in names]


def _records(cache):
    return [json.loads(path.read_bytes()) for path in cache.rglob("*.json")]


def _what(record):
    return record["path"].strip("/") if "subimage" in record["params"] or "psf" in record["path"] else "mask"


def test_mask_bits_of_a_resampled_answer_land_on_their_pixels(tmp_path):
    """Both ways to mask bits agree: beside the native pixels, or from a grid a fraction of a pixel away."""
    from benchmarks.mirror import Fault

    fault = Fault(mask=(slice(300, 340), slice(310, 360), 2))
    name, *_ = write_brick(tmp_path / "sky", 40.0, -30.0, side=SIDE, targets=3, fault=fault)
    found = []
    for native_mask in (True, False):
        sky = Sky(tmp_path / "sky", native_mask=native_mask)
        wcs, _ = sky.bricks[name]
        ra, dec = wcs.pixel_to_world_values([320.3], [330.7])
        targets = make_targets(ra, dec, release=SOUTH, source="t", columns={"brickname": [name]})
        cache = tmp_path / str(native_mask)
        with cutout_service(sky) as server:
            service = asking(server.url)
            fetch_answers(targets, service, cache)
            assert sum(server.asked.values()) == (2 if native_mask else 3)
        answer = read_answers(service, targets.to_pylist()[0], cache)
        assert isinstance(answer, Cutout)
        found.append(answer.mask)
    assert found[0].any()
    assert not found[0].all()
    assert np.mean(found[0] != found[1]) < 0.02  # an edge pixel may fall to its neighbour


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "soon"}, 0.0),
        ({"Retry-After": "Thu, 01 Jan 2026 00:00:09 GMT", "Date": "Thu, 01 Jan 2026 00:00:00 GMT"}, 9.0),
        ({"Retry-After": "Thu, 01 Jan 2026 00:00:09 GMT"}, 0.0),
    ],
)
def test_the_server_may_ask_for_patience(headers, seconds):
    assert _asked_to_wait(httpx.Response(503, headers=headers)) == seconds


def test_i_is_fetched_where_asked(tmp_path):
    name, ra, dec = write_brick(tmp_path / "sky", 40.0, -30.0, side=300, targets=1, bands="griz")
    columns = {"brickname": [name]}
    targets = make_targets(ra, dec, release=SOUTH, source="t", columns=columns)
    with cutout_service(Sky(tmp_path / "sky", bands="griz")) as server:
        service = asking(server.url, bands="griz")
        fetch_answers(targets, service, tmp_path / "cache")
        answer = read_answers(service, targets.to_pylist()[0], tmp_path / "cache")
    assert answer.image.shape[0] == 3
    assert answer.extra["i"].image.shape == answer.image.shape[1:]
    with cutout_service(Sky(tmp_path / "sky", bands="grz")) as server:
        service = asking(server.url, bands="griz")
        fetch_answers(targets, service, tmp_path / "other")
        assert read_answers(service, targets.to_pylist()[0], tmp_path / "other") == "missing_band"
