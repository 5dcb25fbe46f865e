"""TensorFlow Lite networks on LiteRT, the successor of tflite-runtime."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from media_pipeline.errors import ModelUnavailable

Array = npt.NDArray[Any]


class LiteRtModel:
    """One network with one input. May be called from several threads at once: each has an interpreter of its own.

    Raises:
        ModelUnavailable: the file is no network that LiteRT can run.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        self._file, self._threads = file, threads
        self._local = threading.local()
        self._interpreter()  # a broken file shows now, not at the first frame

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input, batch dimension first."""
        return tuple(int(n) for n in self._interpreter().get_input_details()[0]["shape"])

    def __call__(self, values: Array) -> list[Array]:
        """All outputs, in the order of the file, for an input of exactly `input_shape` (cast to its type)."""
        interpreter = self._interpreter()
        wanted = interpreter.get_input_details()[0]
        interpreter.set_tensor(wanted["index"], np.ascontiguousarray(values, wanted["dtype"]))
        interpreter.invoke()
        return [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]

    def _interpreter(self) -> Any:
        if not hasattr(self._local, "interpreter"):
            from ai_edge_litert.interpreter import Interpreter

            try:
                with _greeting_swallowed():
                    interpreter = Interpreter(str(self._file), num_threads=self._threads)
                    interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise ModelUnavailable(
                    f"{self._file.name} cannot be run: {str(error)[:200]}", "remove the file and get the model again"
                ) from None
            self._local.interpreter = interpreter
        return self._local.interpreter


_greeting = threading.Lock()
_greeted = False


@contextmanager
def _greeting_swallowed() -> Iterator[None]:
    """LiteRT greets on standard error when the first interpreter of a process is made; no setting of it stops that."""
    global _greeted
    with _greeting:
        if _greeted:
            kept = None
        else:
            kept, _greeted = os.dup(2), True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        try:
            yield
        finally:
            if kept is not None:
                os.dup2(kept, 2)
                os.close(kept)
