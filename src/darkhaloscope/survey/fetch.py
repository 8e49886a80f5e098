"""Asking a cutout service for many targets: few at a time, not too fast, patiently, and never twice.

An answer is on disk with its checksum and verdict before it counts; killed at any point, the next run asks
only for what is not there. What may be a passing fault (a cut-off body, an error page, a busy server) is
tried again with growing, random waits, and again by the next run; what the service will always say is kept.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from darkhaloscope import __version__
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.store import write_whole
from darkhaloscope.survey.service import (
    OK,
    TRANSIENT,
    Cache,
    CutoutService,
    Kind,
    Question,
    brings_mask,
    judge,
    question,
)

MAX_BODY_BYTES = 256 * 2**20
"""Far above any cutout that is asked for: a body without end is cut here."""
LONGEST_WAIT_S = 60.0
DEAD_AFTER = 20
"""So many questions in a row without any answer mean that the service is not there."""
_NO_OVERLAP = ("no overlap", "nooverlap")


@dataclass
class FetchSummary:
    """What came of the targets, and what it cost."""

    targets: int = 0
    requests: int = 0
    bytes: int = 0
    from_cache: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        bad = ", ".join(f"{code} {n}" for code, n in sorted(self.verdicts.items()) if code != OK)
        return (
            f"{self.targets} targets: {self.verdicts[OK]} with pixels{f', {bad}' if bad else ''}; "
            f"{self.requests} requests, {self.bytes / 2**20:.1f} MiB, {self.from_cache} answers from cache"
        )


class _PassingFault(Exception):
    """Worth another attempt. `wait_s` is what the server asked for."""

    def __init__(self, verdict: str, *, wait_s: float = 0.0, answered: bool = True) -> None:
        super().__init__(verdict)
        self.verdict, self.wait_s, self.answered = verdict, wait_s, answered


def fetch_answers(
    targets: pa.Table,
    service: CutoutService,
    cache: Path,
    *,
    progress: Callable[[], None] | None = None,
    first_wait_s: float = 0.5,
) -> FetchSummary:
    """Have every question about the targets (rows of TARGETS without a reject code) answered in the cache.

    progress       called once for each target that is done
    first_wait_s   scale of the waits between attempts [s]

    Raises DataError where the service does not answer at all; what was fetched until then is kept.
    """
    run = _Run(service, Cache(cache), progress or (lambda: None), first_wait_s)
    asyncio.run(run.all_of(targets))
    return run.summary


class _Run:
    """One call of fetch_answers: what its workers share."""

    def __init__(
        self, service: CutoutService, cache: Cache, progress: Callable[[], None], first_wait_s: float
    ) -> None:
        self.service, self.cache, self.progress = service, cache, progress
        self.first_wait_s = first_wait_s
        self.summary = FetchSummary()
        self.silent = 0
        self.next_slot = 0.0

    async def all_of(self, targets: pa.Table) -> None:
        """A few workers take targets from one iterator, so that a million targets are not a million tasks."""
        waiting = _rows(targets)
        limits = httpx.Limits(max_connections=self.service.connections)
        headers = {"User-Agent": f"darkhaloscope/{__version__}"}
        async with httpx.AsyncClient(
            timeout=self.service.timeout_s,
            limits=limits,
            headers=headers,
            follow_redirects=True,
            max_redirects=5,
        ) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.service.connections):
                        group.create_task(self._work(client, waiting))
            except* DataError as errors:
                raise errors.exceptions[0] from None

    async def _work(self, client: httpx.AsyncClient, waiting: Iterator[dict[str, Any]]) -> None:
        for target in waiting:
            verdict = await self._target(client, target)
            self.summary.targets += 1
            self.summary.verdicts[verdict] += 1
            self.progress()

    async def _target(self, client: httpx.AsyncClient, target: Mapping[str, Any]) -> str:
        """Native pixels, then the PSF, then mask bits where they are missing; the first fault ends it."""
        kinds: list[Kind] = ["native", "psf"]
        for kind in kinds:
            asked = question(self.service, target, kind)
            verdict = await self._answer(client, target, asked)
            if verdict != OK:
                return verdict
            if kind == "native" and not brings_mask(self.cache.body(asked)):
                kinds.append("mask")
        return OK

    async def _answer(self, client: httpx.AsyncClient, target: Mapping[str, Any], asked: Question) -> str:
        known = self.cache.verdict(asked)
        if known is not None and known not in TRANSIENT:
            self.summary.from_cache += 1
            return known
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(_PassingFault),
                stop=stop_after_attempt(self.service.attempts),
                wait=self._wait,
                reraise=True,
            ):
                with attempt:
                    verdict, body = await self._ask(client, target, asked)
        except _PassingFault as fault:
            self._mind_silence(fault)
            verdict, body = fault.verdict, b""
        self._keep(asked, verdict, body)
        return verdict

    def _wait(self, state: RetryCallState) -> float:
        """Growing and random, but never less than the server asked for."""
        fault = state.outcome.exception() if state.outcome is not None else None
        asked = fault.wait_s if isinstance(fault, _PassingFault) else 0.0
        grown = wait_random_exponential(multiplier=self.first_wait_s, max=LONGEST_WAIT_S)(state)
        return max(grown, min(asked, LONGEST_WAIT_S))

    def _mind_silence(self, fault: _PassingFault) -> None:
        self.silent = 0 if fault.answered else self.silent + 1
        if self.silent >= DEAD_AFTER:
            problem = f"does not answer: {self.silent} questions in a row, {self.service.attempts} times each"
            remedy = "what was fetched is kept: the same command continues"
            raise DataError(self.service.url, problem, remedy)

    def _keep(self, asked: Question, verdict: str, body: bytes) -> None:
        record = {
            "path": asked.path,
            "params": dict(asked.params),
            "verdict": verdict,
            "bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        if verdict == OK:
            write_whole(self.cache.body_path(asked), body)
        write_whole(self.cache.record_path(asked), json.dumps(record, indent=1).encode())

    async def _ask(
        self, client: httpx.AsyncClient, target: Mapping[str, Any], asked: Question
    ) -> tuple[str, bytes]:
        """One attempt: the verdict that stands, or _PassingFault."""
        await self._turn()
        self.summary.requests += 1
        url = f"{self.service.url.rstrip('/')}/{asked.path}"
        begun = False
        try:
            async with client.stream("GET", url, params=list(asked.params)) as response:
                begun = True
                body = await _read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _PassingFault("service_failed", answered=False) from error
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            raise _PassingFault("truncated" if begun else "service_failed") from error
        except httpx.HTTPError as error:
            raise _PassingFault("service_failed") from error
        self.silent = 0
        self.summary.bytes += len(body)
        verdict = self._verdict(response, target, asked, body)
        if verdict in TRANSIENT:
            raise _PassingFault(verdict, wait_s=_asked_to_wait(response))
        return verdict, body

    def _verdict(
        self, response: httpx.Response, target: Mapping[str, Any], asked: Question, body: bytes
    ) -> str:
        if response.status_code == httpx.codes.OK:
            return judge(self.service, target, asked.kind, body)
        text = body[:4096].decode("latin-1").lower()
        if any(words in text for words in _NO_OVERLAP) or response.status_code == httpx.codes.NOT_FOUND:
            return "outside_footprint" if asked.kind == "native" else "missing_map"
        return "service_failed"

    async def _turn(self) -> None:
        """Wait for the next place in the queue of the rate limit."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        slot = max(self.next_slot, now)
        self.next_slot = slot + 1.0 / self.service.rate_per_s
        await asyncio.sleep(slot - now)


def _rows(targets: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in targets.select(["target_id", "ra_deg", "dec_deg", "brickname", "reject"]).to_batches(1024):
        yield from (row for row in batch.to_pylist() if row["reject"] is None)


async def _read(response: httpx.Response) -> bytes:
    pieces, length = [], 0
    async for piece in response.aiter_bytes():
        pieces.append(piece)
        length += len(piece)
        if length > MAX_BODY_BYTES:
            raise _PassingFault("not_fits")
    return b"".join(pieces)


def _asked_to_wait(response: httpx.Response) -> float:
    """Retry-After in seconds, given as a number or a date; 0 where there is none."""
    said = response.headers.get("Retry-After", "")
    if said.strip().isdigit():
        return float(said)
    try:
        then = parsedate_to_datetime(said)
        return max((then - parsedate_to_datetime(response.headers["Date"])).total_seconds(), 0.0)
    except (ValueError, TypeError, KeyError):
        return 0.0
