"""How many threads a library may use for one call.

Media are analysed side by side, one thread each; a library that took every core for every call would have N x N
threads wait for N cores. ONNX Runtime, CTranslate2 and LiteRT are told when their models are opened.
"""

from __future__ import annotations

import sys

from media_pipeline.config import set_environment_default


def one_thread_per_call() -> None:
    """Tell the libraries whose setting is one for the whole process. Cheap, may be called again."""
    # What is loaded later reads this when it starts (OpenBLAS, MKL, the OpenMP of torch).
    set_environment_default("OMP_NUM_THREADS", "1")
    import cv2

    cv2.setNumThreads(1)
    torch = sys.modules.get("torch")  # not worth its two seconds to tell it about threads it will not have
    if torch is not None:
        torch.set_num_threads(1)
