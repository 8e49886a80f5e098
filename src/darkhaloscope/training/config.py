"""What to train and how: configuration only, so that it loads without PyTorch."""

from typing import ClassVar, Literal

from pydantic import Field

from darkhaloscope.contracts.config import Frozen

MONITOR = "select_core_masked_auroc"
"""The curve that chooses the best epoch and stops training: AUROC on the select split, r < 5 px hidden.

Hidden by zeros, or as core dropout hides it where that is matched. A network trained without core dropout has
never seen a hidden core: of its epochs this chooses an early one.
"""


class NetworkConfig(Frozen):
    """Which network. Defaults are the brief's: ResNet-18 with a 3×3 stem."""

    backbone: str = Field(
        default="resnet18",
        description="Any timm model by name; or, with pretrained: true, what others trained: "
        "hf-hub:OWNER/NAME@REVISION, local-dir:FOLDER.",
    )
    stem: Literal["3x3", "native"] = Field(
        default="3x3",
        description="3x3: the first convolution becomes 3×3 with stride 1, so that 64 px stamps keep their "
        "resolution; the max-pool behind it is kept. native: as the backbone comes.",
    )
    field_pix: int | None = Field(
        default=None,
        ge=16,
        description="The network looks at the middle so many pixels of the normalised stamp; null for all. "
        "Five sixths of the outer images lie within 14 pixels, all within 19: 40 costs 40 % of the work.",
    )
    options: dict[str, bool | int | float | str | tuple[int, ...]] = Field(
        default_factory=dict,
        description="Arguments of the backbone, for instance channels: [16, 32, 64, 128].",
    )
    pretrained: bool = Field(
        default=False, description="Fetch pretrained weights from the hub; needs a network."
    )


class TrainConfig(Frozen):
    """How to train. Defaults are the brief's."""

    unfingerprinted: ClassVar[frozenset[str]] = frozenset(
        {"num_workers", "memory_mb", "save_minutes", "gates_every", "logger"}
    )  # rows do not depend on who reads them, nor on how often the run is saved or looked at

    network: NetworkConfig = Field(default_factory=NetworkConfig)
    epochs: int = Field(default=50, ge=1, description="At most so many passes over the pairs.")
    batch_size: int = Field(
        default=128, ge=1, description="Pairs in a batch; the network sees twice as many rows."
    )
    lr: float = Field(default=1e-4, gt=0, description="AdamW's learning rate after the warm-up.")
    weight_decay: float = Field(default=1e-4, ge=0, description="AdamW's decoupled weight decay.")
    warmup_epochs: float = Field(default=1.0, ge=0, description="Epochs of linear rise to `lr`.")
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="What follows the warm-up.")
    final_lr_share: float = Field(
        default=0.01, ge=0, le=1, description="Share of `lr` left at the cosine's end."
    )
    grad_clip: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Labels are drawn so far towards 1/2."
    )
    precision: Literal["auto", "32", "bf16-mixed", "16-mixed"] = Field(
        default="auto", description="auto: bf16-mixed on a GPU, 32 on a CPU."
    )
    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="auto: a GPU where there is one."
    )
    patience: int = Field(
        default=15,
        ge=1,
        description=f"Stop after so many epochs without a better {MONITOR} on the select split.",
    )
    seed: int = Field(default=42, ge=0, description="Of the first weights and of every choice about rows.")
    num_threads: int = Field(
        default=2, ge=1, description="Threads of a CPU run. Fixed, because sums depend on how they are split."
    )
    num_workers: int = Field(default=0, ge=0, description="Processes that read rows; changes no number.")
    memory_mb: float = Field(
        default=4096.0,
        ge=0,
        description="Pairs that fit into so much memory are decoded once (where num_workers is 0), others "
        "are read from their shards when needed. Changes no number.",
    )
    save_minutes: float = Field(
        default=10.0,
        ge=0,
        description="A run that is killed loses so many minutes at most. Changes no number.",
    )
    gates_every: int = Field(
        default=0,
        ge=0,
        description="Ask the model's gates on the select split after every so many epochs; 0: not while "
        "training. Decides nothing and changes no number.",
    )
    logger: Literal["tensorboard", "wandb"] = Field(
        default="tensorboard", description="Where curves go; wandb needs the package. Changes no number."
    )
    deterministic: bool = Field(default=True, description="Refuse operations whose result varies.")
