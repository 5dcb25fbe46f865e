"""Sessions of onnxruntime, made the same way for every model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from media_pipeline.analyzers._device import CPU, CUDA, resolved, say_lower
from media_pipeline.analyzers._gpu_memory import arena_bytes, in_brief

GPU_PROVIDER, CPU_PROVIDER = "CUDAExecutionProvider", "CPUExecutionProvider"


def open_session(model: Path | bytes, *, threads: int = 1, device: str = CPU, keep_memory: bool = True) -> Any:
    """An `onnxruntime.InferenceSession`, which many threads may share.

    Args:
        model: a file, or the graph itself
        threads: of one call
        device: "cpu" or "cuda"; a session that cannot be had on the GPU is one on the CPU, with a warning
        keep_memory: False gives memory back after each call; the arena would keep that of the largest input for ever
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # its warnings speak of the graph, which nobody here can change
    options.enable_cpu_mem_arena = keep_memory
    source = model if isinstance(model, bytes) else str(model)

    def opened(device: str) -> Any:
        providers, settings = providers_for(device)
        # Its own way of falling back prints to standard output, which belongs to the results of a worker.
        return onnxruntime.InferenceSession(
            source, options, providers=providers, provider_options=settings, enable_fallback=0
        )

    device = resolved("onnxruntime", device)
    if not device.startswith(CUDA):
        return opened(CPU)
    try:
        session = opened(device)
    except Exception as error:  # a broken file too; then the CPU says so
        say_lower("onnxruntime", f"it opens no session on the GPU: {in_brief(error)}")
        return opened(CPU)
    check_session(session)
    return session


def providers_for(device: str) -> tuple[list[str], list[dict[str, str]]]:
    """Execution providers in the order in which they are asked for an operator, and the settings of each."""
    if not device.startswith(CUDA):
        return [CPU_PROVIDER], [{}]
    settings = {
        "device_id": device.partition(":")[2] or "0",
        # TF32 keeps 10 bits of each factor: results would differ from the CPU's in the third digit.
        "use_tf32": "0",
        # The default tries every algorithm for every new shape: pictures differ in size, and the choice in its sums.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default doubles what it takes; several sessions share one card.
        "arena_extend_strategy": "kSameAsRequested",
    }
    limit = arena_bytes()
    if limit is not None:
        settings["gpu_mem_limit"] = str(limit)
    return [GPU_PROVIDER, CPU_PROVIDER], [settings, {}]


def check_session(session: Any) -> None:
    """A session that was to compute on the GPU and does not is said: onnxruntime takes the CPU without an error."""
    if session.get_providers()[0] != GPU_PROVIDER:
        say_lower("onnxruntime", "it took the CPU for a session that was to be on the GPU")
