"""Small networks with statistics as after training, as a checkpoint and as its export."""

import torch

from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.training.config import NetworkConfig
from darkhaloscope.training.model import Card, LensClassifier, load_checkpoint, save_checkpoint
from darkhaloscope.training.onnx import export_onnx

NARROW = {"channels": (8, 8, 16, 16), "stem_width": 4}
NETWORKS = {
    "stem of three": NetworkConfig(backbone="resnet10t", options=NARROW),
    "native stem": NetworkConfig(backbone="resnet10t", stem="native", options=NARROW),
    "field": NetworkConfig(backbone="resnet10t", stem="native", options=NARROW, field_pix=40),
    "convnext": NetworkConfig(
        backbone="convnext_atto", stem="native", options={"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}
    ),
    "vit": NetworkConfig(
        backbone="vit_tiny_patch16_224",
        stem="native",
        options={"img_size": 64, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
    ),
}


def exported(folder, network, *, preprocess=None, shape=(3, 64, 64), seed=3):
    """(checkpoint, export) of a network whose first weights follow from `seed`."""
    preprocess = preprocess or Preprocess(kind="asinh")
    card = Card(
        network=network,
        preprocess=preprocess,
        stamp_shape=shape,
        training={},
        sampling={},
        fingerprints={"pairs": "toy"},
        history=(),
        best_epoch=0,
    )
    model = LensClassifier.seeded(network, bands=shape[0], seed=seed)
    noise = torch.randn(32, *shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for _ in range(30):  # running statistics of batch norms settle
            model.train()(noise)
        model.head.weight.mul_(5.0 / model.eval()(noise).std())
    path = folder / "checkpoint.pt"
    scorer = load_checkpoint(path, sha256=save_checkpoint(path, model.state_dict(), card))
    sample = preprocess.apply(noise.numpy(), (shape[-1] - 1) / 2, (shape[-2] - 1) / 2)
    export_onnx(scorer, path.with_suffix(".onnx"), sample)
    return path, path.with_suffix(".onnx")
