"""Lets diffusers, transformers, peft and open_clip be imported where torchvision's compiled part does not fit torch.

These libraries import torchvision, whose Python part registers fakes for two of its operators and fails when the
compiled part could not be loaded (a CPU torch beside a CUDA torchvision, for one). Nothing here calls them: a bare
declaration is enough. Imported first by every module that imports one of those libraries.
"""

import importlib.util
from pathlib import Path

import torch


def _compiled_part_loads() -> bool:
    """Whether torchvision brings its own operators (or is not there at all)."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    for library in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(library)
            return True
        except (OSError, ImportError):
            continue
    return False


if not hasattr(torch.ops.torchvision, "nms") and not _compiled_part_loads():
    _library = torch.library.Library("torchvision", "FRAGMENT")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
