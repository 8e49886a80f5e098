"""How training rows are made from pairs: configuration only, so that it loads without PyTorch."""

from pydantic import Field

from darkhaloscope.contracts.config import Frozen


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
        default=0.4, ge=0, le=1, description="Share of the controls that carry the azimuthally shuffled arc."
    )
    core_dropout_prob: float = Field(
        default=0.5, ge=0, le=1, description="Share of the pairs that lose the core of both members."
    )
    core_dropout_radius_pix: float = Field(
        default=5.0, gt=0, description="Radius of the dropped core, filled with the outer median [pix]."
    )
    window_shards: int = Field(
        default=16,
        ge=1,
        description="Rows are shuffled across so many shards at a time, in a new order of shards each epoch.",
    )
    flips: bool = Field(default=True, description="Mirror half of the pairs.")
    rotations: bool = Field(default=True, description="Turn each pair by a multiple of 90 degrees.")
    disc_share: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Share of the other negatives replaced by disc galaxies, where the survey holds any.",
    )
