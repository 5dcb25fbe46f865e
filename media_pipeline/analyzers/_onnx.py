"""Sessions of onnxruntime, made the same way for every model."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_session(model: Path | bytes, *, threads: int = 1, device: str = "cpu", keep_memory: bool = True) -> Any:
    """An `onnxruntime.InferenceSession`, which many threads may share.

    Args:
        model: a file, or the graph itself
        threads: of one call
        keep_memory: False gives memory back after each call; the arena would keep that of the largest input for ever
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # its warnings speak of the graph, which nobody here can change
    options.enable_cpu_mem_arena = keep_memory
    providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=[*providers, "CPUExecutionProvider"])
