"""How training rows are made from pairs: configuration only, so that it loads without PyTorch."""

from typing import Literal

from pydantic import Field

from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.tables import SkyKind

Shuffle = Literal["HN0"]
SHUFFLE: Shuffle = "HN0"
"""The brief's hard negative, made while training; the others are made of light before the PSF and stored."""


class PairSampling(Frozen):
    """How training rows are made from pairs. The brief's mitigations are the defaults.

    Hard negatives are the brief's azimuthal shuffle (HN0). A texture probe tells HN0 from a real control,
    because shuffling pixels destroys the PSF: it is the baseline to improve on, not the last word.
    """

    paired: bool = Field(
        default=True,
        description="The negative is the positive's own control. False: positives and negatives come from "
        "two halves of the hosts that share no galaxy.",
    )
    hard_negative_ratio: float = Field(
        default=0.4, ge=0, le=1, description="Share of the controls that carry the arc's light, moved."
    )
    hard_negative_kinds: tuple[Shuffle | SkyKind, ...] = Field(
        default=(SHUFFLE,),
        min_length=1,
        description="How it is moved: HN0 is the brief's azimuthal shuffle; HN1 to HN5 move the light before "
        "the PSF. One of those stored for each pair, and HN0 as often as each kind.",
    )
    hard_negative_likeness: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="A stored hard negative whose light is still the arc's to this correlation is none: HN0 "
        "stands for it where that is among the kinds, else the control stays as it is.",
    )
    core_dropout_prob: float = Field(
        default=0.5, ge=0, le=1, description="Share of the pairs that lose the core of both members."
    )
    core_dropout_radius_pix: float = Field(default=5.0, gt=0, description="Radius of the dropped core [pix].")
    core_dropout_fill: Literal["outer_median", "matched"] = Field(
        default="outer_median",
        description="outer_median: the brief's flat disc. matched: the profile beyond the core continued "
        "inward, with noise of the stamp's own, so that no edge shows.",
    )
    window_shards: int = Field(
        default=16,
        ge=1,
        description="Rows are shuffled across so many shards at a time, in a new order of shards each epoch.",
    )
    flips: bool = Field(default=True, description="Mirror half of the pairs.")
    rotations: bool = Field(default=True, description="Turn each pair by a multiple of 90 degrees.")
    shift_pix: float = Field(
        default=0.0, ge=0, lt=1, description="Both members are moved alike by up to this in x and y [pix]."
    )
    added_noise: float = Field(
        default=0.0,
        ge=0,
        description="The same noise is added to both members, of up to so many times each band's own: every "
        "band loses alike, colours stay.",
    )
    disc_share: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Share of the other negatives replaced by disc galaxies and contaminants, where the "
        "survey holds any for training.",
    )

    @property
    def stored_kinds(self) -> tuple[SkyKind, ...]:
        """Kinds that a run must make beforehand."""
        return tuple(kind for kind in self.hard_negative_kinds if kind != SHUFFLE)
