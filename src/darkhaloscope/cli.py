"""`dhs`: one command whose verbs are the rooms of the house.

Exit codes: 0 done, 1 a check failed or the data cannot be used, 2 usage or configuration, 3 credentials
expired. Every error is one sentence that says what, where, and what to do.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from darkhaloscope import __version__
from darkhaloscope.contracts.errors import EXIT_FAILED_CHECK, DarkhaloscopeError

app = typer.Typer(
    name="dhs",
    help="Find strong gravitational lenses in seeing-limited imaging, and know what you miss.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
survey = typer.Typer(
    help="Bring the sky in: targets, and pixels from bricks, a cutout service, files or a synthetic sky.",
    no_args_is_help=True,
)
app.add_typer(survey, name="survey")
protocol = typer.Typer(
    help="What runs are measured by: lock it before results are seen, and see what changed since.",
    no_args_is_help=True,
)
app.add_typer(protocol, name="protocol")
emr = typer.Typer(
    help="A job on a cluster of AWS: what it needs and costs, checks, start, watch, end (docs/emr.md).",
    no_args_is_help=True,
)
app.add_typer(emr, name="emr")

Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for the result; the same command continues in it.")
]
Config = Annotated[
    str, typer.Argument(help="Experiment file, or the name of one that comes with the package.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: --set survey.bricks=20 (repeatable).")
]
Workers = Annotated[
    int, typer.Option("--workers", "-n", min=1, help="Worker processes. Results do not depend on it.")
]

Anchors = Annotated[
    Path | None, typer.Option(help="Known lenses to check too: a dataset of `dhs survey anchors`.")
]
Contaminants = Annotated[
    Path | None, typer.Option(help="Look-alikes to check too: a dataset of `dhs survey contaminants`.")
]
Release = Annotated[
    str, typer.Option(help="dr10-south, dr9-north, dr9-south, …: north and south are never mixed.")
]
Targets = Annotated[
    Path,
    typer.Argument(help="Targets (from `dhs survey targets`), or a table with ra and dec [deg]."),
]
Size = Annotated[int, typer.Option(min=32, help="Side of the stamps [pixel]; never resampled.")]
Bands = Annotated[str, typer.Option(help="grz, or griz to keep i beside them where the release has it.")]
MinExposures = Annotated[
    int, typer.Option(min=0, help="Fewest exposures per band at the target; fewer are rejected.")
]
KeepLenses = Annotated[
    bool, typer.Option("--keep-known-lenses", help="Do not reject what lies within 11 arcsec of a lens.")
]
KnownLensTables = Annotated[
    list[Path] | None, typer.Option("--known-lenses", help="Further tables of lenses to keep away from.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dhs {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Root of the verbs."""


@app.command()
def demo(out: Out = Path("demo"), set_: Set = None, workers: Workers = 2) -> None:
    """The whole house on a small synthetic sky, in minutes: inject, check, train, gate, score, report.

    Exits 0 once the report stands, whatever the verdict: a sample of this size can never be a GO.
    """
    from darkhaloscope.pipeline.verbs import run_experiment

    run_experiment("demo.yaml", out, overrides=set_ or (), workers=workers)


@app.command()
def run(config: Config, out: Out, set_: Set = None, workers: Workers = 2) -> None:
    """Run one experiment from pixels to report. Exits 1 when the verdict is NO-GO."""
    from darkhaloscope.pipeline.verbs import run_experiment

    _exit_with(run_experiment(config, out, overrides=set_ or (), workers=workers).verdict)


@app.command()
def train(
    config: Config,
    out: Out,
    set_: Set = None,
    workers: Workers = 2,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train so many networks, with the seeds that follow the experiment's.")
    ] = 1,
) -> None:
    """Run an experiment up to the trained model and its gates, without the report.

    Exits 1 when a gate fails, and says which and by how much.
    """
    from darkhaloscope.pipeline.verbs import train_experiment

    made = train_experiment(config, out, overrides=set_ or (), workers=workers, seeds=seeds)
    if made.failed:
        raise typer.Exit(EXIT_FAILED_CHECK)


@app.command()
def validate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="The network to look at; the run's own by default.")
    ] = None,
    again: Annotated[
        str, typer.Option(help="Why the test split is opened for another checkpoint than before.")
    ] = "",
) -> None:
    """A checkpoint against every gate and with its core hidden, on the locked test split, once.

    Exits 1 when a gate fails. Writes validation.json, and when the test split was opened for what.
    """
    from darkhaloscope.pipeline.verbs import validate_run

    if validate_run(run_folder, checkpoint=checkpoint, again=again).failed:
        raise typer.Exit(EXIT_FAILED_CHECK)


@app.command()
def score(
    model: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT_OR_RUN", help="A .pt or .onnx file, or the folder of a run.")
    ],
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Stamps or pairs: a folder, or s3://bucket/prefix.")
    ],
    out: Out,
    scores: Annotated[
        str | None,
        typer.Option(help="Where the scores are, or will be, instead of OUT/scores; made on a cluster, say."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="So many candidates, best first.")] = 1000,
    workers: Workers = 2,
) -> None:
    """Score every row of a dataset; write the best as candidates, histograms and a summary."""
    from darkhaloscope.pipeline.scoring import score_dataset

    score_dataset(model, dataset, out, scores_at=scores, top=top, workers=workers)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, one an arm.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the master table.")],
    reference: Annotated[
        str | None, typer.Option(help="Name of the arm to compare with; the protocol's reference by default.")
    ] = None,
) -> None:
    """Arms against a reference, over their seeds: every endpoint with its interval, p and verdict.

    Writes master_comparison.csv, .tex, .html and .json, and the figure into paper. Nothing is trained.
    """
    from darkhaloscope.pipeline.compare import compare_runs, say_comparison

    say_comparison(compare_runs(runs, out, reference=reference), out)


@app.command()
def verify(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    anchors: Anchors = None,
    contaminants: Contaminants = None,
) -> None:
    """Phase 0: protocol, provenance and data of a run, all rows. Exits 1 when a check fails.

    Writes phase0_summary.json into the folder; data stages that are missing are made.
    """
    from darkhaloscope.pipeline.verbs import verify_run

    _exit_with(verify_run(run_folder, anchors=anchors, contaminants=contaminants).verdict)


@app.command()
def review(
    run_folder: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run.")] = None,
    code: Annotated[
        list[Path] | None,
        typer.Option("--code", help="Your own scripts or plugins: a file or a folder (repeatable)."),
    ] = None,
    anchors: Anchors = None,
    contaminants: Contaminants = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the review; RUN/review by default.")
    ] = None,
) -> None:
    """The whole audit of a run, of code, or both: every issue, the risks, and GO or NO-GO. Exits 1 on NO-GO.

    Writes review.md, review.html and review.json. Nothing is trained.
    """
    from darkhaloscope.review.verb import review_all

    made = review_all(run_folder, code=code or (), out=out, anchors=anchors, contaminants=contaminants)
    _exit_with(made)


@app.command()
def report(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a finished run, or of a comparison.")
    ],
) -> None:
    """Write the report of a finished run again, and a paper's figures and tables into RUN/paper.

    A comparison's table, page and figure are written again from its JSON.
    """
    from darkhaloscope.pipeline.compare import comparison_again, say_comparison
    from darkhaloscope.pipeline.verbs import report_again
    from darkhaloscope.report.comparison import holds_comparison

    if holds_comparison(run_folder):
        say_comparison(comparison_again(run_folder), run_folder)
    else:
        report_again(run_folder)


@app.command()
def inject(
    stamps: Annotated[Path, typer.Argument(help="A stamps dataset (from `dhs survey …`).")],
    out: Out,
    config: Annotated[
        str, typer.Option(help="Experiment file whose recipe is used.")
    ] = "gen5_prime_baseline.yaml",
    preview: Annotated[
        int,
        typer.Option(
            min=0, help="Draw a gallery of this many hosts (gen5′, gen7, gen8) instead of a dataset."
        ),
    ] = 0,
    least_snr: Annotated[
        float, typer.Option(min=0.0, help="With --preview: pass over hosts whose arc is fainter.")
    ] = 0.0,
    set_: Set = None,
    workers: Workers = 2,
) -> None:
    """Inject arcs into the galaxies of a stamps dataset; each keeps its untouched control."""
    if preview:
        from darkhaloscope.pipeline.preview import preview_arms

        made = preview_arms(stamps, out, config, preview, least_snr=least_snr, overrides=set_ or ())
        typer.echo(str(made))
        return
    from darkhaloscope.pipeline.verbs import inject_arcs

    inject_arcs(stamps, out, config, overrides=set_ or (), workers=workers)


@app.command()
def job(
    file: Annotated[str, typer.Argument(metavar="JOB.json", help="What to do, to which dataset, where to.")],
    on: Annotated[
        str, typer.Option(help="local:N, spark:N on this machine, or spark: what spark-submit gives.")
    ] = "local:2",
    workers: Annotated[
        int | None, typer.Option("--workers", "-n", min=1, help="Cores, where --on gives no number.")
    ] = None,
) -> None:
    """One job of a file on any engine, with the same result: injection, verification, scores, splits.

    The same command continues. Exits 1 when what it verifies fails, 3 when credentials have expired.
    """
    from darkhaloscope.pipeline.jobs import job_verb

    job_verb(file, on, workers)


@app.command("export")
def export_(
    stamps: Annotated[Path, typer.Argument(help="A dataset of stamps or pairs.")],
    out: Out,
    layout: Annotated[
        str,
        typer.Option("--as", help="hdf5: one file; fits or png: a folder of files with an index.csv."),
    ] = "hdf5",
) -> None:
    """Write stamps for other tools: HDF5 (N, 3, H, W), FITS or PNG."""
    from darkhaloscope.pipeline.bring_in import export

    typer.echo(str(export(stamps, out, layout)))


@survey.command("sky")
def survey_sky(
    out: Out,
    config: Annotated[str, typer.Option(help="Experiment file whose sky is painted.")] = "demo.yaml",
    set_: Set = None,
    workers: Workers = 2,
) -> None:
    """Paint the synthetic sky of an experiment as a stamps dataset."""
    from darkhaloscope.pipeline.verbs import paint_sky

    paint_sky(out, config, overrides=set_ or (), workers=workers)


@survey.command("targets")
def survey_targets(
    tables: Annotated[
        list[Path],
        typer.Argument(help="Sweep or tractor files, tables with ra and dec, or a dataset of anchors."),
    ],
    out: Out,
    release: Release = "dr10-south",
    cuts: Annotated[
        str | None,
        typer.Option(help="For catalogues: search (z<20 galaxies), lrg, or none. Without: a plain list."),
    ] = None,
    kind: Annotated[str, typer.Option(help="lrg (possible deflectors), disc, lens or contaminant.")] = "lrg",
    category: Annotated[
        str | None, typer.Option(help="For contaminants: ring, spiral, merger or spike.")
    ] = None,
    fraction: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="With --cuts: share of the sample to keep, by name.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    keep_known_lenses: KeepLenses = False,
    known_lenses: KnownLensTables = None,
) -> None:
    """Say where stamps are wanted: a parent sample by declared cuts, or your own list."""
    from darkhaloscope.pipeline.bring_in import plan_targets

    plan_targets(
        tables,
        out,
        release=release,
        cuts=cuts,
        kind=kind,
        category=category,
        fraction=fraction,
        seed=seed,
        keep_known_lenses=keep_known_lenses,
        known_lenses=known_lenses or (),
    )


@survey.command("bricks")
def survey_bricks(
    targets: Targets,
    out: Out,
    mirror: Annotated[
        str, typer.Option(help="Coadds in the survey's layout: a folder, or s3://bucket/prefix.")
    ],
    release: Release = "dr10-south",
    size: Size = 64,
    bands: Bands = "grz",
    min_exposures: MinExposures = 2,
    workers: Workers = 2,
) -> None:
    """Make stamps from coadds that you hold, each brick opened once. Native pixels."""
    from darkhaloscope.pipeline.bring_in import bring_in_bricks

    bring_in_bricks(
        targets,
        out,
        mirror=mirror,
        release=release,
        size=size,
        bands=bands,
        min_exposures=min_exposures,
        workers=workers,
    )


@survey.command("fetch")
def survey_fetch(
    targets: Targets,
    out: Out,
    release: Release = "dr10-south",
    cache: Annotated[
        Path, typer.Option(help="Where answers are kept, with checksums; nothing is asked twice.")
    ] = Path("cutout-cache"),
    url: Annotated[str | None, typer.Option(help="Another cutout service of the same kind.")] = None,
    size: Size = 64,
    connections: Annotated[int, typer.Option(min=1, max=64, help="Requests at once.")] = 4,
    rate: Annotated[float, typer.Option(min=0.01, help="Requests per second: the service is shared.")] = 5.0,
    min_exposures: MinExposures = 2,
    workers: Workers = 2,
) -> None:
    """Make stamps from the sky viewer's cutout service: native pixels, inverse variance, mask bits, PSF."""
    from darkhaloscope.pipeline.bring_in import cutout_service, fetch_cutouts

    service = cutout_service(release, url=url, size=size, connections=connections, rate=rate)
    fetch_cutouts(targets, out, service=service, cache=cache, min_exposures=min_exposures, workers=workers)


@survey.command("anchors")
def survey_anchors(
    out: Out,
    tables: Annotated[
        list[Path] | None, typer.Argument(help="Published tables of lenses, with ra and dec [deg].")
    ] = None,
    lenscat: Annotated[
        bool, typer.Option("--lenscat", help="The systems of the package lenscat, clusters left out.")
    ] = False,
    sources: Annotated[
        list[Path] | None,
        typer.Option("--sources", help="Sweep files: an anchor needs an extended source within 2 arcsec."),
    ] = None,
    evidence: Annotated[
        str | None,
        typer.Option(help="Of every row of the tables: spec_two_z, confident, probable, candidate."),
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(help="How they were found: spectroscopic, ground_ml, ground_visual, space, quasar."),
    ] = None,
) -> None:
    """Gather known lenses from published tables: one row per system, with its evidence and its sources."""
    from darkhaloscope.pipeline.bring_in import gather_anchors

    gather_anchors(
        tables or (), out, lenscat=lenscat, sources=sources or (), evidence=evidence, channel=channel
    )


@survey.command("contaminants")
def survey_contaminants(
    tables: Annotated[list[Path], typer.Argument(help="Tables of look-alikes, with ra and dec [deg].")],
    out: Out,
    category: Annotated[
        str | None, typer.Option(help="Class of every row, where the table has no column of it.")
    ] = None,
    largest: Annotated[
        float, typer.Option(min=0.1, help="Largest apparent size [arcsec]; a stamp of 64 pixels is 17.")
    ] = 16.8,
) -> None:
    """Gather look-alikes by class from published tables; large ones and known lenses are left out."""
    from darkhaloscope.pipeline.bring_in import gather_contaminants

    gather_contaminants(tables, out, category=category, largest_arcsec=largest)


@survey.command("cutouts")
def survey_cutouts(
    files: Annotated[
        list[Path], typer.Argument(help="Cutouts: .npz, FITS, .h5, an index.csv, or a folder of them.")
    ],
    out: Out,
    kind: Annotated[str, typer.Option(help="lrg (possible deflectors), disc, lens or contaminant.")] = "lrg",
    category: Annotated[
        str | None, typer.Option(help="For contaminants: ring, spiral, merger or spike.")
    ] = None,
    size: Annotated[
        int, typer.Option(min=64, help="Stamp size; larger cutouts are cropped, never resampled.")
    ] = 64,
    psf: Annotated[
        str,
        typer.Option(help="For cutouts without a PSF: assumed FWHM g,r,z [arcsec], or a file with a PSF."),
    ] = "1.29,1.18,1.11",
    pixel_scale: Annotated[
        float | None, typer.Option(help="Pixel scale where the file does not say [arcsec].")
    ] = None,
    keep_known_lenses: KeepLenses = False,
) -> None:
    """Turn real cutouts into stamps, with the place of each target's centre, its noise and its PSF."""
    from darkhaloscope.pipeline.bring_in import bring_in_cutouts

    bring_in_cutouts(
        files,
        out,
        kind=kind,
        category=category,
        size=size,
        psf=psf,
        pixel_scale=pixel_scale,
        keep_known_lenses=keep_known_lenses,
    )


@survey.command("calibrate")
def survey_calibrate(
    files: Annotated[list[Path], typer.Argument(help="Cutouts: .npz or FITS, or a folder of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a section for an experiment file (YAML) here.")
    ] = None,
    pixel_scale: Annotated[
        float | None, typer.Option(help="Pixel scale where the file does not say [arcsec].")
    ] = None,
) -> None:
    """Measure noise, sky and artefact rates on your own cutouts, in place of the assumed ones."""
    from darkhaloscope.pipeline.bring_in import calibrate_cutouts

    typer.echo(calibrate_cutouts(files, out, pixel_scale=pixel_scale))


ProtocolFile = Annotated[
    str,
    typer.Argument(metavar="[PATH]", help="Protocol file; the one that comes with the package by default."),
]


@protocol.command("lock")
def protocol_lock(
    path: ProtocolFile = "evaluation_protocol.yaml",
    reason: Annotated[str, typer.Option(help="Why; needed when a locked protocol has changed.")] = "",
    user: Annotated[str | None, typer.Option(help="Who locks it; the login name by default.")] = None,
) -> None:
    """Record what the protocol is now, when, and by whom, in a file beside it."""
    from darkhaloscope.pipeline.protocol_verbs import lock

    typer.echo(lock(path, reason=reason, user=user))


@protocol.command("status")
def protocol_status(path: ProtocolFile = "evaluation_protocol.yaml") -> None:
    """Say whether it is locked, since when, and what changed. Exits 1 unless locked and unchanged."""
    from darkhaloscope.pipeline.protocol_verbs import status

    unchanged, lines = status(path)
    typer.echo("\n".join(lines))
    if not unchanged:
        raise typer.Exit(EXIT_FAILED_CHECK)


@protocol.command("diff")
def protocol_diff(
    path: ProtocolFile = "evaluation_protocol.yaml",
    other: Annotated[str | None, typer.Argument(help="Another protocol file instead of the lock.")] = None,
) -> None:
    """One line for each key that differs from the lock, or from another file. Exits 1 if any does."""
    from darkhaloscope.pipeline.protocol_verbs import diff, is_locked

    if other is None and not is_locked(path):
        typer.echo("not locked: there is nothing to compare with", err=True)
        raise typer.Exit(EXIT_FAILED_CHECK)
    lines = diff(path, other)
    typer.echo("\n".join(lines) if lines else "no difference")
    if lines:
        raise typer.Exit(EXIT_FAILED_CHECK)


JobAddress = Annotated[str, typer.Argument(metavar="JOB.json", help="As for `dhs job`; its addresses on S3.")]
PresetName = Annotated[str, typer.Option(help="small, medium or large: see configs/cluster.yaml.")]
WorkerNodes = Annotated[int | None, typer.Option(min=1, help="Worker nodes instead of the preset's.")]
Instance = Annotated[str | None, typer.Option(help="Kind of the workers instead of the preset's.")]
Master = Annotated[str | None, typer.Option(help="Kind of the master instead of the preset's.")]
OnDemand = Annotated[bool, typer.Option("--on-demand", help="No spot machines.")]
Wheels = Annotated[Path, typer.Option(help="Folder of the wheel set, made by scripts/wheels.")]
Subnets = Annotated[
    list[str] | None, typer.Option("--subnet", help="Of the region; EMR chooses (repeatable).")
]
KeepAlive = Annotated[bool, typer.Option("--keep-alive", help="Do not end the cluster with its last step.")]
ClusterName = Annotated[str, typer.Argument(metavar="CLUSTER", help="j-…, or the id of a launch.")]


@emr.command("plan")
def emr_plan(
    job_file: Annotated[str | None, typer.Argument(metavar="[JOB.json]", help="What is to be run.")] = None,
    preset: Annotated[str | None, typer.Option(help="One preset; all of them by default.")] = None,
    job_name: Annotated[
        str, typer.Option("--job", help="Without JOB.json: the job whose rate counts.")
    ] = "inject",
    targets: Annotated[int, typer.Option(min=1, help="Without JOB.json: rows.")] = 10_000_000,
    workers: WorkerNodes = None,
    instance: Instance = None,
    master: Master = None,
    on_demand: OnDemand = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask EC2 for vCores and memory; the table is what it was.")
    ] = False,
) -> None:
    """Plan a cluster: vCores against the budget, executors, hours and price. Starts nothing.

    Asks AWS only with --refresh.
    """
    from darkhaloscope.pipeline.emr import Machines, say_plans

    given = (workers, instance, master)
    if preset is None and (on_demand or any(value is not None for value in given)):
        raise typer.BadParameter("name the preset that is changed: --preset")
    machines = Machines(preset, *given, on_demand) if preset else None
    say_plans(job_file, machines, job=job_name, targets=targets, refresh=refresh)


@emr.command("preflight")
def emr_preflight(
    job_file: JobAddress,
    preset: PresetName = "small",
    wheels: Wheels = Path("wheels"),
    subnet: Subnets = None,
    workers: WorkerNodes = None,
    instance: Instance = None,
    master: Master = None,
    on_demand: OnDemand = False,
    keep_alive: KeepAlive = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Upload the wheel set where nothing else is wrong with it.")
    ] = False,
) -> None:
    """Everything that must hold before money is spent. Exits 1 when a check fails, 3 without credentials."""
    from darkhaloscope.pipeline.emr import Machines, check_order, make_order

    machines = Machines(preset, workers, instance, master, on_demand)
    check_order(make_order(job_file, machines, wheels, subnets=subnet or (), keep_alive=keep_alive), fix=fix)


@emr.command("launch")
def emr_launch(
    job_file: JobAddress,
    preset: PresetName = "small",
    wheels: Wheels = Path("wheels"),
    subnet: Subnets = None,
    workers: WorkerNodes = None,
    instance: Instance = None,
    master: Master = None,
    on_demand: OnDemand = False,
    keep_alive: KeepAlive = False,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Follow the steps to their end.")] = True,
) -> None:
    """Check, start, watch until the steps are COMPLETED, check the output, end the cluster.

    The same command goes on where it was stopped and never starts a second cluster. Exits 1 when a check or
    a step fails, 3 when the credentials have expired.
    """
    from darkhaloscope.pipeline.emr import Machines, launch_order, make_order

    machines = Machines(preset, workers, instance, master, on_demand)
    order = make_order(job_file, machines, wheels, subnets=subnet or (), keep_alive=keep_alive)
    launch_order(order, follow=watch)


@emr.command("watch")
def emr_watch(cluster: ClusterName) -> None:
    """Follow the steps of a cluster. Exits 0 when all are COMPLETED, 1 with the end of the log otherwise."""
    from darkhaloscope.pipeline.emr import watch_cluster

    watch_cluster(cluster)


@emr.command("status")
def emr_status(cluster: ClusterName) -> None:
    """A cluster and its steps, now."""
    from darkhaloscope.pipeline.emr import say_status

    say_status(cluster)


@emr.command("terminate")
def emr_terminate(
    clusters: Annotated[list[str], typer.Argument(metavar="CLUSTER...", help="j-…, or ids of launches.")],
) -> None:
    """End clusters, and wait until EMR says that they have ended."""
    from darkhaloscope.pipeline.emr import terminate_clusters

    terminate_clusters(clusters)


@emr.command("list")
def emr_list(
    ended: Annotated[bool, typer.Option("--all", help="Those that have ended too.")] = False,
) -> None:
    """Clusters that this project started."""
    from darkhaloscope.pipeline.emr import list_clusters

    list_clusters(ended=ended)


def _exit_with(verdict: str) -> None:
    if verdict == "NO-GO":
        raise typer.Exit(EXIT_FAILED_CHECK)


def main() -> None:
    """Entry point: run the verb; one sentence and an exit code for everything that can be explained."""
    try:
        app()
    except DarkhaloscopeError as error:
        notes = [note for note in getattr(error, "__notes__", []) if note not in str(error)]
        sentence = str(error) + (f" [{'; '.join(notes)}]" if notes else "")
        sys.stderr.write(f"dhs: {sentence}\n")
        raise SystemExit(error.exit_code) from None
    except OSError as error:  # no space left, no permission, a folder that is a file
        sys.stderr.write(f"dhs: {error.filename or 'a file'}: {error.strerror or error}\n")
        raise SystemExit(EXIT_FAILED_CHECK) from None
