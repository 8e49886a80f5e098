"""What a failed check means and what to do about it: one entry for each finding that the house can raise.

The check itself says what was measured, against which bound, and why it matters; here stand the brief's
category and severity, a title, the fix, and why the fix is right. `{run}` in a fix is the folder of the run.
"""

from collections.abc import Mapping
from typing import NamedTuple

from darkhaloscope.review.issues import Category, Severity

_BUG, _SCIENCE = Category.BUG, Category.SCIENCE
_INCONSISTENT, _ERRORS = Category.INCONSISTENCY, Category.ERROR_HANDLING
_CRITICAL, _HIGH, _MEDIUM, _LOW = Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM, Severity.LOW


class Advice(NamedTuple):
    """How a failed check is reported."""

    category: Category
    severity: Severity
    title: str
    fix: str
    explanation: str
    lessons: tuple[str, ...] = ()


_REMAKE = (
    "rm -r {run}/pairs-* {run}/sham-* {run}/splits-* {run}/scores-* {run}/training\n"
    "dhs run {run}/config.yaml --out {run}"
)
_SPLIT_AGAIN = "rm -r {run}/splits-* {run}/training {run}/scores-*\ndhs run {run}/config.yaml --out {run}"
_NEW_FOLDER = "dhs run {run}/config.yaml --out {run}-new"
_HOSTS = "dhs survey cutouts FILES --out hosts   # or: dhs survey bricks TARGETS …"
_MORE = "dhs run {run}/config.yaml --set survey.bricks=N --out {run}-larger"
_PROTOCOL = (
    "dhs protocol diff   # then restore the line, or raise the version and lock it again with a reason"
)
_ANCHORS = "dhs survey anchors TABLES --lenscat --sources SWEEPS --out anchors"
_CONTAMINANTS = "dhs survey contaminants TABLES --out contaminants"

_PIXELS_AGAIN = (
    "Blobs are only written by jobs, so pairs made again from sound stamps are sound; edit none by hand."
)
_TAKE_OUT = "A row without usable pixels belongs in the dataset with a reject code, where rates can count it."

_PAIRS: Mapping[str, Advice] = {
    "schema_paired_stamps": Advice(
        _INCONSISTENT, _HIGH, "Rows break the declared table", _REMAKE,
        "Every later room relies on the columns, types and limits of the table.", ("L8.1",),
    ),
    "pair_decodes": Advice(
        _ERRORS, _CRITICAL, "Blobs that cannot be read", _REMAKE, _PIXELS_AGAIN, ("L9.1",),
    ),
    "pair_shape": Advice(
        _INCONSISTENT, _CRITICAL, "Stamp, control, arc and noise differ in size", _REMAKE,
        "A pair is one galaxy on one grid; one size for all is survey.size of the experiment.", ("L8.1",),
    ),
    "pair_finite": Advice(
        _BUG, _CRITICAL, "NaN or infinity in pixels", _REMAKE,
        _TAKE_OUT + " Injection rejects such hosts as `not_finite`.", ("L4.4", "L7.1"),
    ),
    "pair_range": Advice(
        _INCONSISTENT, _CRITICAL, "Fluxes that are not nanomaggies", _HOSTS,
        "The unit of every flux is the nanomaggie at zero-point 22.5; readers convert or refuse.", ("L9.3",),
    ),
    "pair_variance": Advice(
        _BUG, _CRITICAL, "A band is constant: missing data passed for sky", _HOSTS,
        _TAKE_OUT + " Survey readers reject a missing band as `missing_band`.", ("L7.2",),
    ),
    "pair_blank": Advice(
        _BUG, _HIGH, "Blocks of zeros pass for observed sky", _HOSTS,
        "Unobserved pixels have inverse variance 0, which every later step respects.", ("L7.2",),
    ),
    "pair_clipped": Advice(
        _SCIENCE, _HIGH, "Galaxy cores are clipped", _HOSTS,
        "Clipping destroys the arc in the core and hides the core shortcut from its gate. Store pixels as "
        "the survey gives them: the asinh stretch of the preprocessing saturates nothing.",
    ),
    "pair_identical": Advice(
        _BUG, _CRITICAL, "Control and stamp are the same image", _REMAKE,
        "A negative that carries the positive's label, or the reverse, teaches noise.",
    ),
    "sham_identical": Advice(
        _SCIENCE, _CRITICAL, "Injecting no light changes pixels", _REMAKE,
        "Whatever the pipeline leaves behind without an arc tells the label with one.",
    ),
    "pair_control_identity": Advice(
        _SCIENCE, _CRITICAL, "Stamp and control differ outside the arc", _REMAKE,
        "Nuisances are drawn once per pair and put into both members; only the arc may differ.", ("L21",),
    ),
    "pair_footprint": Advice(
        _INCONSISTENT, _MEDIUM, "Arcs run on below the noise", _REMAKE,
        "Light below 1e-3 of the pixel noise is left out and its share recorded, so that the rest of the "
        "stamp can be compared bit for bit.",
    ),
    "pair_residual": Advice(
        _BUG, _CRITICAL, "Stamp minus control is not the declared arc", _REMAKE,
        "Shot noise explains a few sigma. More means swapped bands, another unit, another place, or another "
        "galaxy's control.", ("L1.5", "L9.3"),
    ),
    "pair_arc_flux": Advice(
        _SCIENCE, _CRITICAL, "Arc flux is not the declared lensed magnitude", _REMAKE,
        "Flux is normalised in the source plane and magnified by the lens, band by band; one flux in all "
        "bands, or flux per pixel for flux per arcsec², shows here.", ("L1.5",),
    ),
    "pair_arc_snr": Advice(
        _INCONSISTENT, _HIGH, "arc_snr is of another definition", _REMAKE,
        "The brief's column is the peak per-pixel S/N in r; strata and floors mean nothing with another.",
        ("L4.5",),
    ),
    "pair_arc_snr_mf": Advice(
        _SCIENCE, _HIGH, "arc_snr_mf does not follow from the pixels", _REMAKE,
        "It uses the white-equivalent noise of the inverse variance; the rms of blank pixels makes it 12 % "
        "too large.", ("L4.5",),
    ),
    "pair_strata": Advice(
        _SCIENCE, _HIGH, "Columns of the strata are missing", _REMAKE,
        "Completeness by theta_E, S/N and seeing needs all of them on every row.", ("L14",),
    ),
    "pair_centering": Advice(
        _BUG, _HIGH, "Declared centres miss the galaxies", _HOSTS,
        "Pixel centres are integers and the middle of 64 pixels is 31.5; a table that counts from 1 or from "
        "pixel corners is half a pixel off.",
    ),
    "pair_registration": Advice(
        _SCIENCE, _HIGH, "Bands are shifted against each other", _HOSTS,
        "Stamps are cut on one native grid and never resampled by band.",
    ),
    "pair_band_order": Advice(
        _BUG, _CRITICAL, "Bands are not in the order g, r, z", _HOSTS,
        "The ratio of measured to catalogue flux, or else the colour of galaxies, says which band is which.",
    ),
    "pair_units": Advice(
        _INCONSISTENT, _CRITICAL, "Pixels are not in nanomaggies", _HOSTS,
        "Arcs are added in nanomaggies: in another unit they are too faint or too bright by that factor.",
        ("L1.5", "L9.3"),
    ),
    "pair_reproduces": Advice(
        _BUG, _CRITICAL, "Rows made again differ from those on the disk", _REMAKE,
        "Every draw is keyed by seed, purpose and target, so a job's rows are the same on any machine. A "
        "difference is a seed from `hash()`, a row edited by hand, or pairs of another code version.",
        ("L4.3",),
    ),
}  # fmt: skip

_SPLITS: Mapping[str, Advice] = {
    **{
        f"split_{what}_overlap": Advice(_SCIENCE, _CRITICAL, title, _SPLIT_AGAIN, explanation, ("L17",))
        for what, title, explanation in (
            ("host", "A galaxy stands in two splits", "Splits never cut a group, and a host has one group."),
            ("group", "A sky cell stands in two splits", "Splits never cut a HEALPix cell."),
            ("target", "A target stands in two splits", "The same image cannot train and test."),
            ("brick", "A brick stands in two splits", "The guard band sets the cell beside it aside."),
            (
                "source",
                "A source galaxy is lensed in two splits",
                "The network would know the source; give each split sources of its own.",
            ),
        )
    },
    "split_guard_band": Advice(
        _SCIENCE, _HIGH, "Neighbouring cells stand in two splits", _SPLIT_AGAIN,
        "With splits.block_nside unset, blocks are chosen so that a guard band of a cell costs little.",
        ("L17",),
    ),
    "split_near_duplicates": Advice(
        _SCIENCE, _CRITICAL, "One image under two names in two splits", _SPLIT_AGAIN,
        "Drop one of the two targets from its catalogue: positions may differ while pixels do not.", ("L17",),
    ),
    "split_complete": Advice(
        _BUG, _HIGH, "Rows without a split, or with two", _SPLIT_AGAIN,
        "Splits follow their dataset row by row; a dataset that changed must be split again.",
    ),
    "split_fractions": Advice(
        _INCONSISTENT, _HIGH, "Splits do not have their declared shares", _SPLIT_AGAIN,
        "Shares hold within .05 unless splits were swapped or edited.", ("L4.6", "L7.3"),
    ),
    **{
        f"split_{split}_filled": Advice(
            _SCIENCE, _HIGH, f"The {split} split lacks a class", _MORE,
            "Each split needs hosts with and without an arc.",
        )
        for split in ("train", "select", "calib", "test")
    },
}  # fmt: skip

_CATALOGUES: Mapping[str, Advice] = {
    **{
        f"contaminants_{kind}": Advice(
            _SCIENCE, _MEDIUM, f"Too few look-alikes of class {kind}", _CONTAMINANTS,
            "With no hit among n look-alikes their rate is only known to be below 3/n.",
        )
        for kind in ("ring", "spiral", "merger", "spike")
    },
    **{
        f"contaminants_{what}": Advice(category, severity, title, _CONTAMINANTS, explanation)
        for what, category, severity, title, explanation in (
            ("columns", _INCONSISTENT, _HIGH, "Look-alikes without name, place or class",
             "The reader of published tables fills the columns of the table or refuses the row."),
            ("duplicates", _SCIENCE, _MEDIUM, "One look-alike under two names",
             "Rows within 5 arcsec are one galaxy: M51 is NGC 5194."),
            ("known_lens", _SCIENCE, _CRITICAL, "Known lenses among the look-alikes",
             "A lens that counts as a contaminant turns a right detection into a false one."),
            ("size", _SCIENCE, _HIGH, "Look-alikes larger than a stamp",
             "A nearby spiral fills 17 arcsec with texture; no deflector looks like that."),
            ("provenance", _SCIENCE, _HIGH, "Look-alikes that name no table",
             "Catalogues come from files with a checksum, never from memory."),
            ("placeholder", _BUG, _CRITICAL, "Placeholder coordinates",
             "Numbered names on round coordinates point at blank sky."),
        )
    },
    **{
        f"anchors_{what}": Advice(category, severity, title, _ANCHORS, explanation)
        for what, category, severity, title, explanation in (
            ("columns", _INCONSISTENT, _HIGH, "Anchors without name, place or a possible Einstein radius",
             "The reader of published tables fills the columns of the table or refuses the row."),
            ("duplicate_names", _SCIENCE, _HIGH, "One lens twice under one name",
             "Rows of several tables are merged by position, so that a system counts once."),
            ("duplicate_sky", _SCIENCE, _HIGH, "One lens under two names",
             "Rows within 5 arcsec are one system."),
            ("theta_e", _SCIENCE, _MEDIUM, "Anchors whose arc the seeing hides",
             "The protocol counts anchors from half an arcsecond up."),
            ("provenance", _SCIENCE, _CRITICAL, "Anchors that name no table",
             "Catalogues come from files with a checksum, never from memory."),
            ("domains", _INCONSISTENT, _CRITICAL, "Mock lenses among the real ones",
             "A figure from simulated arcs may not stand under a real lens's name."),
            ("positions", _BUG, _CRITICAL, "Anchor coordinates are rounded",
             "A hundredth of a degree is 36 arcsec, twice the stamp."),
            ("survey_match", _BUG, _CRITICAL, "Anchors lie beside every survey source",
             "Positions that are off by arcminutes show blank sky: nothing can be concluded from them."),
            ("on_sources", _SCIENCE, _CRITICAL, "Anchors lie on what cannot be a deflector",
             "Deflectors are extended sources between magnitude 13 and 23."),
            ("blank_sky", _BUG, _CRITICAL, "Anchor stamps show blank sky",
             "Compare the positions with the published table before anything is scored."),
        )
    },
    "anchors_count": Advice(
        _SCIENCE, _HIGH, "Too few known lenses", _ANCHORS,
        "Recall of fewer than 30 lenses has an interval wider than any difference between arms.",
    ),
}  # fmt: skip

_PROTOCOLS: Mapping[str, Advice] = {
    "protocol_directions": Advice(
        _BUG, _CRITICAL, "A gate points the wrong way", _PROTOCOL,
        "core_lr_auc and core_masked_drop must be small, auroc_synth and hardneg_auroc large.",
    ),
    "protocol_complete": Advice(
        _INCONSISTENT, _HIGH, "The protocol lacks what the brief measures", _PROTOCOL,
        "A verdict on a subset of the gates is no verdict.",
    ),
    "protocol_bounds": Advice(
        _SCIENCE, _CRITICAL, "A bound or minimum was changed", _PROTOCOL,
        "Bounds are chosen before results are seen.",
    ),
    "protocol_locked": Advice(
        _SCIENCE, _HIGH, "The protocol is not the locked one", _PROTOCOL,
        "Numbers are read against a protocol fixed beforehand.",
    ),
}  # fmt: skip

_PROVENANCE: Mapping[str, Advice] = {
    "provenance_shards": Advice(
        _BUG, _CRITICAL, "Shards changed after their commit", _NEW_FOLDER,
        "A manifest holds the hash of each shard; make the dataset again rather than edit it.",
    ),
    "provenance_finished": Advice(
        _ERRORS, _HIGH, "Unfinished or foreign datasets",
        "dhs run {run}/config.yaml --out {run}   # it continues",
        "The manifest is written last: a dataset without one is not complete.", ("L5.1",),
    ),
    "provenance_inputs": Advice(
        _INCONSISTENT, _CRITICAL, "A dataset was made from another version of its input", _NEW_FOLDER,
        "Fingerprints of inputs stand in each manifest; mixing two runs mixes their splits.",
    ),
    "provenance_recipe": Advice(
        _INCONSISTENT, _CRITICAL, "Pairs carry another recipe than the run declares", _NEW_FOLDER,
        "Results must carry the prior they were made with.",
    ),
    "provenance_protocol": Advice(
        _SCIENCE, _CRITICAL, "The protocol changed while the run was under way", _PROTOCOL,
        "A run is measured by the protocol it began under; another protocol needs another run.",
    ),
    "provenance_code": Advice(
        _INCONSISTENT, _LOW, "Datasets of several code versions", _NEW_FOLDER,
        "Usually harmless; a paper's run is made by one version.", ("L6.2", "L6.3"),
    ),
    "provenance_results": Advice(
        _INCONSISTENT, _HIGH, "Figures whose manifests are gone", "dhs report {run}",
        "A figure must be traceable to its pixels.",
    ),
    "provenance_gates": Advice(
        _INCONSISTENT, _HIGH, "Gates of other data or another model", "dhs run {run}/config.yaml --out {run}",
        "Gates are made again when data, protocol or checkpoint change.",
    ),
}  # fmt: skip

_GATES: Mapping[str, Advice] = {
    "auroc_synth": Advice(
        _SCIENCE, _MEDIUM, "AUROC on simulated arcs is below the brief's bound", _MORE,
        "Reported to the letter. It depends on the faint limit and on the training size.",
    ),
    "core_lr_auc": Advice(
        _SCIENCE, _MEDIUM, "The brief's core gate fails to the letter", "dhs report {run}",
        "Reported to the letter: on pairs its null is .2, so core_lr_auc_grouped decides.", ("L21",),
    ),
    "core_masked_drop": Advice(
        _SCIENCE, _MEDIUM, "Masking the core costs more than the brief allows", "dhs report {run}",
        "Reported to the letter: right physics gives .02 to .13; the core swap decides.", ("L21",),
    ),
    "hardneg_auroc": Advice(
        _SCIENCE, _MEDIUM, "The brief's shuffled negatives pass for arcs", "dhs report {run}",
        "Reported to the letter: the shuffle destroys the PSF, so a high value proves little.",
    ),
    "core_lr_auc_grouped": Advice(
        _SCIENCE, _CRITICAL, "The core alone tells the label", _NEW_FOLDER,
        "On hosts that the probe has not seen, the core must not tell the label: fainter sources or a larger "
        "floor in theta_E put less light there; then look for a shortcut in the data.", ("L21", "L22"),
    ),
    "core_lr_auc_unpaired": Advice(
        _SCIENCE, _CRITICAL, "The core alone tells the label of galaxies not seen before", _NEW_FOLDER,
        "As core_lr_auc_grouped, on rows of which no two share a host.", ("L21", "L22"),
    ),
    "control_identity": Advice(
        _SCIENCE, _CRITICAL, "With zero flux the pipeline changes the control", _REMAKE,
        "Stamp and control must share every nuisance.",
    ),
    **{
        name: Advice(
            _SCIENCE, _CRITICAL, "The pipeline leaves a trace without any arc", _REMAKE,
            "A probe that tells sham injections apart has found what the pipeline does, not what lenses do.",
        )
        for name in ("sham_core_lr_auc", "sham_core_nl_auc")
    },
    **{
        name: Advice(
            _SCIENCE, _HIGH, "Without any arc, something outside the core tells the label", _REMAKE,
            "A mark, a noise texture or a background that one class alone has: reported, and no verdict "
            "rests on it until the protocol names it.",
        )
        for name in ("sham_texture_auc", "sham_pixel_shift")
    },
    **{
        name: Advice(
            _SCIENCE, _HIGH, "What the network is given tells the label without any arc", _NEW_FOLDER,
            "One class has a normalisation, a loader or a choice of hosts of its own: give both the same, "
            "and draw the hosts of both alike in magnitude, size, seeing and depth.",
        )
        for name in (
            "class_core_lr_auc",
            "class_core_nl_auc",
            "class_texture_auc",
            "class_pixel_shift",
            "host_matching",
        )
    },
    "leakage_excess": Advice(
        _SCIENCE, _CRITICAL, "The core tells more than an independent renderer's arcs allow", _NEW_FOLDER,
        "The same probe on arcs by another code is the physical ceiling.", ("L22",),
    ),
    "low_overlap_excess": Advice(
        _SCIENCE, _CRITICAL, "The core tells the label where no arc lies", _NEW_FOLDER,
        "Where the arc hardly touches the core there is no physics to learn there.", ("L22",),
    ),
    **{
        name: Advice(
            _SCIENCE, _HIGH, title,
            "dhs run {run}/config.yaml --set sampling.core_dropout_prob=0.7 --out {run}-b",
            "Core dropout and controls of the same galaxy make the network look at the arc.",
            ("L21", "L10.3"),
        )
        for name, title in (
            ("core_swap_necessity", "Detections rest on the core"),
            ("core_swap_sufficiency", "The core alone triggers detections"),
            ("core_swap_sufficiency_low_overlap", "The core alone triggers detections where no arc lies"),
            ("core_swap_placebo_excess", "What the swap leaves of an unlensed source is detected"),
        )
    },
    "bright_arc_monotonicity": Advice(
        _SCIENCE, _HIGH, "The brightest arcs are found less often than fainter ones",
        "dhs run {run}/config.yaml --set preprocess.kind=asinh --out {run}-b",
        "A clip that saturates bright arcs, or too few of them in training, hides what is easiest to see.",
        ("L20",),
    ),
}  # fmt: skip

ADVICE: Mapping[str, Advice] = {
    **_PROTOCOLS, **_PROVENANCE, **_PAIRS, **_SPLITS, **_CATALOGUES, **_GATES,
}  # fmt: skip
"""By name of the finding. A test walks every finding that the rooms declare and wants it here."""


_INDEPENDENT = (
    "python -m benchmarks.independent_arcs --config EXPERIMENT --out trusted   # in a clone\n"
    "dhs run EXPERIMENT --set trusted_pairs=trusted --out NEW_FOLDER"
)
OPEN_FIXES: Mapping[str, str] = {
    "protocol_locked": "dhs protocol lock PROTOCOL",
    "leakage_excess": _INDEPENDENT,
    "low_overlap_excess": _INDEPENDENT,
}
"""What to do about a check that could not be made, where that is not to make it right."""


def advice_for(name: str) -> Advice:
    """The advice for a finding; a general one for a name that nobody foresaw, such as a plugin's."""
    if name in ADVICE:
        return ADVICE[name]
    return Advice(
        _INCONSISTENT,
        _HIGH,
        f"{name} does not hold",
        "dhs verify {run}",
        "The check says what it measured and against which bound.",
    )
