"""The one door through which timm and Lightning come in.

Both import torchvision (Lightning by way of torchmetrics), whose compiled operators may not load: the wheels
on PyPI pair torchvision with a CUDA build of PyTorch, and beside a CPU-only PyTorch its ``_C`` library finds
none of the CUDA libraries it is linked to. ``import torchvision`` then stops where it describes the shapes of
operators that do not exist ("operator torchvision::nms does not exist").

We use none of these operators. Where the library does not load, the operators that torchvision's own source
names are declared without an implementation, and the import goes through. Calling one still fails, and says
so.
"""

import importlib
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch

_declared: list[torch.library.Library] = []
"""A declaration vanishes with the object that made it."""


@cache
def import_timm() -> Any:
    """The package timm."""
    declare_missing_operators()
    return importlib.import_module("timm")


@cache
def import_lightning() -> Any:
    """The package lightning."""
    declare_missing_operators()
    return importlib.import_module("lightning")


def declare_missing_operators() -> tuple[str, ...]:
    """Declare the operators torchvision describes and could not load; return their names, if any."""
    spec = importlib.util.find_spec("torchvision")  # finds, and does not import
    if spec is None or spec.origin is None or _declared:
        return ()
    folder = Path(spec.origin).parent
    if any(_loads(path) for path in sorted([*folder.glob("_C*.so"), *folder.glob("_C*.pyd")])):
        return ()
    source = folder / "_meta_registrations.py"
    named = re.findall(
        r'register_fake\("torchvision::(\w+)"\)', source.read_text() if source.exists() else ""
    )
    operators = tuple(dict.fromkeys(("nms", *named)))
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in operators:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    return operators


def _loads(path: Path) -> bool:
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True
