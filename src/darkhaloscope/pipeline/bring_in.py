"""Bringing the sky in: the verbs of `dhs survey` and `dhs export`, as functions of paths.

Whatever the way (a mirror of coadds, a cutout service, files), targets come first and stamps are made of
them, so that every target has a row in the end: with pixels, or with the reason why it has none.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from darkhaloscope.contracts.errors import ConfigError, DataError
from darkhaloscope.contracts.store import (
    Dataset,
    local_writer,
    open_dataset,
    write_rows,
    write_tables,
    write_whole,
)
from darkhaloscope.contracts.tables import ANCHORS, CATEGORIES, CONTAMINANTS, KINDS, STAMPS, TARGETS
from darkhaloscope.runners.local import run_local
from darkhaloscope.stamps.coadds import Acceptance, HarvestAnswers, HarvestBricks
from darkhaloscope.stamps.export import LAYOUTS, Exported, Layout, export_stamps
from darkhaloscope.stamps.harvest import AssumedPsf, harvest_cutouts
from darkhaloscope.survey.calibrate import calibrate_files
from darkhaloscope.survey.catalogs import Published, name_in, position_in, read_published, text_in
from darkhaloscope.survey.contaminants import (
    LARGEST_ARCSEC,
    Lookalikes,
    read_contaminant_table,
    targets_from_contaminants,
)
from darkhaloscope.survey.fetch import fetch_answers
from darkhaloscope.survey.known_lenses import (
    Gathered,
    KnownLenses,
    cross_match,
    merge_anchors,
    read_anchor_table,
    read_lenscat,
    targets_from_anchors,
)
from darkhaloscope.survey.matching import SkyTree, check_positions
from darkhaloscope.survey.parents import CUTS, ParentSummary, select_parents
from darkhaloscope.survey.release import Release, find_release
from darkhaloscope.survey.service import PUBLIC_URL, CutoutService
from darkhaloscope.survey.targets import by_brick, make_targets
from darkhaloscope.survey.tractor import catalogue_chunks

CUTOUT_SUFFIXES = (".npz", ".fits", ".fits.gz", ".fits.fz", ".h5", ".hdf5")


def plan_targets(
    tables: Sequence[Path],
    out: Path,
    *,
    release: str,
    cuts: str | None = None,
    kind: str = "lrg",
    category: str | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    keep_known_lenses: bool = False,
    known_lenses: Sequence[Path] = (),
) -> Dataset:
    """Targets from catalogues (with cuts), a list of positions, or a dataset of anchors or contaminants."""
    wanted = find_release(release)
    _refuse_labels(kind, category)
    console = _console()
    known = None if kind == "lens" or keep_known_lenses else KnownLenses.gather(known_lenses)
    summary, repeated = ParentSummary(), Counter[str]()
    given = _Targets(tables, wanted, kind, category, known)
    stream = given.rows() if cuts is None else given.parents(cuts, fraction, seed, summary)
    job = {
        "job": "plan_targets",
        "tables": {str(path.name): _checksum(path) for path in tables},
        "release": release,
        "cuts": CUTS[cuts].model_dump(mode="json") if cuts else None,
        "kind": kind,
        "category": category,
        "sample": [fraction, seed],
        "known_lenses": list(known.sources) if known else None,
    }
    shards = by_brick(stream, out / ".scratch", repeated=repeated)
    made = write_tables(local_writer(out, TARGETS), shards, job=job)
    if cuts is not None:
        summary.removed += repeated
        _say(console, str(summary))
    say_what_was_made(made)
    return made


class _Targets:
    """Rows of TARGETS from whatever the user gave."""

    def __init__(
        self,
        tables: Sequence[Path],
        release: Release,
        kind: str,
        category: str | None,
        known: KnownLenses | None,
    ) -> None:
        self.tables, self.release, self.kind, self.category, self.known = (
            tables,
            release,
            kind,
            category,
            known,
        )

    def parents(self, cuts: str, fraction: float, seed: int, summary: ParentSummary) -> Iterator[pa.Table]:
        """Catalogues under declared cuts."""
        if cuts not in CUTS:
            raise ConfigError("--cuts", "", f"'{cuts}' is unknown", ", ".join(CUTS))
        if self.kind != "lrg":
            raise ConfigError("--kind", "", "cuts select possible deflectors (lrg)", "leave one of them out")
        exclude = self.known.near if self.known is not None else None
        return select_parents(
            self.tables,
            CUTS[cuts],
            self.release,
            exclude=exclude,
            fraction=fraction,
            seed=seed,
            summary=summary,
        )

    def rows(self) -> Iterator[pa.Table]:
        """Lists of positions, and datasets of anchors or contaminants."""
        for path in self.tables:
            table = self._from_dataset(path) if path.is_dir() else self._from_list(read_published(path))
            yield table if self.known is None else self._without_lenses(table)

    def _from_dataset(self, path: Path) -> pa.Table:
        dataset = open_dataset(path)
        if dataset.table is ANCHORS:
            return targets_from_anchors(dataset.read(), self.release)
        if dataset.table is CONTAMINANTS:
            return targets_from_contaminants(dataset.read(), self.release)
        raise DataError(str(path), f"holds {dataset.manifest.table}", "anchors or contaminants are needed")

    def _from_list(self, table: Published) -> pa.Table:
        columns = table.columns(("ra_deg", "dec_deg"), ("name", "brickname"))
        ra, dec, names, bricks = [], [], [], []
        for number, row in enumerate(table.rows, start=1):
            a, d = position_in(row, columns, table.at(number))
            ra.append(a)
            dec.append(d)
            names.append(name_in(row, columns, a, d) if "name" in columns else None)
            bricks.append(text_in(row, columns.get("brickname")))
        given = {"name": names} | ({"brickname": bricks} if all(bricks) else {})
        return make_targets(
            ra,
            dec,
            release=self.release,
            source=table.source,
            kind=self.kind,
            category=self.category,
            columns=given,
            where=table.where,
        )

    def _without_lenses(self, table: pa.Table) -> pa.Table:
        if self.known is None:
            return table
        near = self.known.near(table.column("ra_deg").to_numpy(), table.column("dec_deg").to_numpy())
        place = table.schema.get_field_index("reject")
        codes = pa.array(["known_lens" if lens else None for lens in near.tolist()], pa.string())
        return table.set_column(place, table.schema.field(place), codes)


def bring_in_bricks(
    targets: Path,
    out: Path,
    *,
    mirror: str,
    release: str,
    size: int,
    bands: str,
    min_exposures: int,
    workers: int = 1,
) -> Dataset:
    """Stamps of the targets from coadds in a folder or a bucket."""
    source = _targets_of(targets, out, release)
    job = HarvestBricks(
        mirror=mirror,
        release=find_release(release).name,
        bands=_bands(bands),
        size=size,
        accept=Acceptance(min_exposures=min_exposures),
    )
    made = run_local(job, source, local_writer(out, STAMPS), workers=workers)
    say_what_was_made(made)
    return made


def fetch_cutouts(
    targets: Path,
    out: Path,
    *,
    service: CutoutService,
    cache: Path,
    min_exposures: int,
    workers: int = 1,
) -> Dataset:
    """Stamps of the targets from a cutout service; its answers stay in the cache."""
    source = _targets_of(targets, out, service.release)
    console = _console()
    columns = (TextColumn("fetching"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=source.num_rows)
        for key in source.keys:
            summary = fetch_answers(
                source.read_shard(key), service, cache, progress=lambda: progress.update(task, advance=1)
            )
            progress.console.print(f"{summary}", highlight=False, markup=False, soft_wrap=True)
    job = HarvestAnswers(cache=str(cache), service=service, accept=Acceptance(min_exposures=min_exposures))
    made = run_local(job, source, local_writer(out, STAMPS), workers=workers)
    say_what_was_made(made)
    return made


def cutout_service(
    release: str, *, url: str | None, size: int, connections: int, rate: float
) -> CutoutService:
    """A service by what the command line says of it."""
    return CutoutService(
        release=find_release(release).name,
        url=url or PUBLIC_URL,
        size=size,
        connections=connections,
        rate_per_s=rate,
    )


def _targets_of(given: Path, out: Path, release: str) -> Dataset:
    """A dataset of targets, or one made of a list of positions beside the stamps."""
    if (given / "manifest.json").is_file():
        return open_dataset(given).expect(TARGETS)
    if given.is_dir():
        raise DataError(
            str(given), "holds no finished dataset of targets", "make one with `dhs survey targets`"
        )
    return plan_targets([given], out / "targets", release=release)


def bring_in_cutouts(
    files: Sequence[Path],
    out: Path,
    *,
    kind: str,
    category: str | None,
    size: int,
    psf: str,
    pixel_scale: float | None,
    keep_known_lenses: bool = False,
) -> Dataset:
    """Turn cutout files (or folders of them) into a stamps dataset; lenses only where lenses are meant."""
    _refuse_labels(kind, category)
    _refuse_scale(pixel_scale)
    paths = [path for given in files for path in _cutouts_in(given)]
    rows = harvest_cutouts(
        paths, size=size, kind=kind, category=category, psf=_psf(psf), pixel_scale=pixel_scale
    )
    if kind != "lens" and not keep_known_lenses:
        rows = _without_known_lenses(rows)
    job = {
        "job": "harvest_cutouts",
        "files": {path.name: _checksum(path) for path in paths},
        "kind": kind,
        "category": category,
        "size": size,
        "psf": psf,
        "scale": pixel_scale,
        "keep_known_lenses": keep_known_lenses,
    }
    made = write_rows(local_writer(out, STAMPS), rows, shard_rows=64, job=job)
    say_what_was_made(made)
    return made


def _without_known_lenses(rows: pa.Table) -> pa.Table:
    """Stamps with known lenses rejected; only rows with a position can be told, and need the table."""
    made = rows.to_pylist()
    placed = [row for row in made if row["ra_deg"] is not None and row["dec_deg"] is not None]
    if not placed:
        return rows
    near = KnownLenses.gather().near([r["ra_deg"] for r in placed], [r["dec_deg"] for r in placed])
    pixels = [c.name for c in STAMPS.columns if c.name.endswith("_npz")]
    for row, lens in zip(placed, near.tolist(), strict=True):
        if lens:
            row.update(dict.fromkeys(pixels) | {"reject": "known_lens"})
    return STAMPS.conform(made)


def calibrate_cutouts(files: Sequence[Path], out: Path | None, *, pixel_scale: float | None) -> str:
    """Measure cutout files (or folders of them); returns what was found in words, and writes it as YAML."""
    _refuse_scale(pixel_scale)
    found = calibrate_files([path for given in files for path in _cutouts_in(given)], pixel_scale)
    if out is not None:
        write_whole(out, found.to_yaml().encode())
    return str(found)


def gather_anchors(
    tables: Sequence[Path],
    out: Path,
    *,
    lenscat: bool,
    sources: Sequence[Path],
    evidence: str | None = None,
    channel: str | None = None,
) -> Dataset:
    """Anchors of published tables and lenscat, merged; matched to survey sources where these are given."""
    console = _console()
    user = [read_anchor_table(path, evidence=evidence, channel=channel) for path in tables]
    parts = list(user)
    if lenscat:
        found = read_lenscat()
        _say(console, f"lenscat: {found}")
        everything = KnownLenses.gather().tree
        for path, table in zip(tables, user, strict=True):
            agreed = check_positions(*_positions(table), everything, where=str(path))
            _say(console, f"{path.name}: {agreed.matched} of {agreed.n} rows stand in lenscat too")
        parts.append(found.anchors)
    if not parts:
        raise ConfigError("anchors", "", "no table was given", "tables, or --lenscat")
    merged = merge_anchors(parts)
    _say(console, str(merged))
    anchors, reasons = (merged.anchors, {}) if not sources else _matched(merged.anchors, sources, console)
    job = {
        "job": "gather_anchors",
        "tables": {path.name: _checksum(path) for path in tables},
        "lenscat": lenscat,
        "sources": {path.name: _checksum(path) for path in sources},
        "labels": [evidence, channel],
        "left_out": reasons,
    }
    made = write_rows(local_writer(out, ANCHORS), anchors, shard_rows=4096, job=job)
    if not sources:
        _say(console, "no survey sources were given (--sources): nothing here is matched to the survey yet")
    say_what_was_made(made)
    return made


def _matched(anchors: pa.Table, sources: Sequence[Path], console: Console) -> tuple[pa.Table, dict[str, int]]:
    """Anchors with an extended survey source; sources far from every anchor are not kept in memory."""
    tree = SkyTree(*_positions(anchors))
    near = pa.concat_tables(_near_anchors(sources, tree), promote_options="default")
    check_positions(
        *_positions(anchors), SkyTree(*_positions(near)), where="anchors against the survey sources"
    )
    found: Gathered = cross_match(anchors, near)
    for name, reason in found.losers[:10]:
        _say(console, f"no anchor: {name}: {reason}")
    _say(console, str(found))
    return found.anchors, dict(found.removed)


_NEEDED = ("ra_deg", "dec_deg", "type", "tractor_release", "brickid", "objid", "flux_g", "flux_r", "flux_z")


def _near_anchors(sources: Iterable[Path], tree: SkyTree) -> Iterator[pa.Table]:
    for path in sources:
        for chunk in catalogue_chunks(path):
            missing = [name for name in _NEEDED if name not in chunk.column_names]
            if missing:
                raise DataError(
                    str(path), f"lacks what names a source: {', '.join(missing)}", "give sweep files"
                )
            close = tree.near(*_positions(chunk), 600.0)
            yield chunk.select(list(_NEEDED)).filter(pa.array(close))


def _positions(table: pa.Table) -> tuple[Any, Any]:
    return table.column("ra_deg").to_numpy(), table.column("dec_deg").to_numpy()


def gather_contaminants(
    tables: Sequence[Path], out: Path, *, category: str | None, largest_arcsec: float = LARGEST_ARCSEC
) -> Dataset:
    """Look-alikes of published tables, known lenses left out."""
    console = _console()
    known = KnownLenses.gather()
    parts: list[Lookalikes] = [
        read_contaminant_table(path, category, largest_arcsec=largest_arcsec, known=known) for path in tables
    ]
    for path, part in zip(tables, parts, strict=True):
        _say(console, f"{path.name}: {part}")
    job = {
        "job": "gather_contaminants",
        "tables": {path.name: _checksum(path) for path in tables},
        "category": category,
        "largest_arcsec": largest_arcsec,
        "known_lenses": list(known.sources),
    }
    rows = pa.concat_tables([part.rows for part in parts])
    made = write_rows(local_writer(out, CONTAMINANTS), rows, shard_rows=4096, job=job)
    say_what_was_made(made)
    return made


def export(stamps: Path, out: Path, layout: str) -> Exported:
    """A dataset of stamps or pairs for other tools."""
    if layout not in LAYOUTS:
        raise ConfigError("--as", "", f"'{layout}' is unknown", ", ".join(LAYOUTS))
    chosen: Layout = next(known for known in LAYOUTS if known == layout)
    return export_stamps(open_dataset(stamps), out, chosen)


def _bands(text: str) -> Literal["grz", "griz"]:
    if text == "grz":
        return "grz"
    if text == "griz":
        return "griz"
    raise ConfigError("--bands", "", f"'{text}' cannot be read", "grz, griz")


def _refuse_scale(pixel_scale: float | None) -> None:
    if pixel_scale is not None and not 0.0 < pixel_scale < math.inf:
        raise ConfigError("--pixel-scale", "", f"{pixel_scale:g} is no pixel scale", "arcsec, above 0")


def _cutouts_in(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    if (given / "index.csv").is_file():
        return [given / "index.csv"]
    found = sorted(p for p in given.iterdir() if p.name.endswith(CUTOUT_SUFFIXES))
    if not found:
        raise DataError(str(given), "holds no cutout", f"files that end in {', '.join(CUTOUT_SUFFIXES)}")
    return found


def _refuse_labels(kind: str, category: str | None) -> None:
    if kind not in KINDS:
        raise ConfigError("--kind", "", f"'{kind}' is unknown", ", ".join(KINDS))
    if category is not None and category not in CATEGORIES:
        raise ConfigError("--category", "", f"'{category}' is unknown", ", ".join(CATEGORIES))
    if (kind == "contaminant") != (category is not None):
        problem = "goes with --kind contaminant, and must be given there"
        raise ConfigError("--category", "", problem, ", ".join(CATEGORIES))


def _psf(text: str) -> AssumedPsf | Path:
    """Three FWHMs, or the path of a PSF file."""
    if Path(text).exists():
        return Path(text)
    wrong = ConfigError("--psf", "", f"'{text}' is neither a file nor three FWHMs in g,r,z", "1.29,1.18,1.11")
    try:
        g, r, z = (float(part) for part in text.split(","))
    except ValueError as error:
        raise wrong from error
    if not all(0.0 < value < math.inf for value in (g, r, z)):
        raise wrong
    return AssumedPsf(psfsize_arcsec=(g, r, z))


def _checksum(path: Path) -> str:
    """Of a file, or the fingerprint of a dataset."""
    if path.is_dir():
        return open_dataset(path).fingerprint
    if not path.is_file():
        raise DataError(str(path), "there is no such file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _console() -> Console:
    return Console(stderr=True)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def say_what_was_made(dataset: Dataset) -> None:
    """One line on stderr: where, how many rows, and the reject codes counted."""
    rejects = ", ".join(f"{code} {count}" for code, count in dataset.manifest.rejects.items()) or "none"
    text = f"{dataset.where}: {dataset.num_rows} rows of {dataset.manifest.table}, rejected: {rejects}"
    _say(_console(), text)
