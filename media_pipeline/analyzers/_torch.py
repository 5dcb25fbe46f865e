"""Importing torch and torchvision where they were not built for each other.

The registry's torchvision is a CUDA build. Beside a CPU torch its C++ library cannot be loaded, and its Python part
then stops at the first operator it wants to describe. What CLIP and timm use of torchvision (transforms of Pillow
pictures) needs no operator: declaring the two missing ones lets the import through, and whoever called them would still
get torch's clear error.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

# Schemas as in torchvision's csrc/ops; they are what `torchvision._meta_registrations` registers its functions for.
_MISSING_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_lock = threading.Lock()
_library: Any = None  # torch forgets the operators when this is collected


def import_torch(threads: int = 1) -> Any:
    """The module `torch`, with `torchvision` importable, told how many threads one call may use.

    The number is one for the whole process: the last caller's stands. About 3 s the first time.
    """
    import torch

    with _lock:
        _mend_torchvision(torch)
    torch.set_num_threads(threads)
    # TF32, which cuDNN takes by default on a GPU, keeps 10 bits of each factor: vectors would differ from the CPU's.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch


def _mend_torchvision(torch: Any) -> None:
    global _library
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in _MISSING_OPERATORS:
        _library.define(operator + _SCHEMA)
    import torchvision  # noqa: F401
