"""What Dagster costs per file: the real graph, job and storage around stages that do no work."""

from __future__ import annotations

import hashlib
import io
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from demo.pictures import render_landscape
from media_pipeline.config import load_settings
from media_pipeline.engine.instance import open_instance
from media_pipeline.engine.submit import execute_batch
from media_pipeline.execution.outcome import Outcome

PREVIEW = "Rechnung 4711  \nKunde: Müller & Söhne, Lübeck  \nZahlbar bis 30. November"


class IdleRunner:
    """Says of every medium that it is done."""

    def __init__(self) -> None:
        picture = io.BytesIO()
        Image.fromarray(render_landscape((240, 160))).save(picture, "JPEG", quality=60)
        self._thumbnail = picture.getvalue()

    def run_stage(
        self,
        name: str,
        partition_keys: Sequence[str],
        *,
        run_id: str,
        redo: Collection[str] = (),
        retry_failed: bool = False,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> list[Outcome]:
        return [
            Outcome(
                media_id=hashlib.sha256(key.encode()).hexdigest(),
                partition_key=key,
                status="done",
                fingerprint=f"{name}-1",
                rows=3,
                seconds=0.1,
                model="idle",
                preview=PREVIEW,
                thumbnail_jpeg=self._thumbnail if name == "media" else None,
            )
            for key in partition_keys
        ]

    def begin(self, partition_keys: Sequence[str]) -> None: ...

    def end(self, partition_keys: Sequence[str]) -> None: ...

    def release(self, partition_keys: Sequence[str], *, because: str | None = None) -> None: ...

    def finish(self, partition_keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        return {"duplicates": {}, "search_index": {}, "warehouse": {}}


def orchestration_cpu_s_per_file(count: int) -> float:
    """CPU seconds of this process per file, for the second batch of `count`: imports and first use left out."""
    with tempfile.TemporaryDirectory() as home, open_instance(load_settings(home=Path(home))) as instance:
        runner = IdleRunner()
        execute_batch(instance, runner, [f"warm-up-{n}~{n:012x}" for n in range(count)])
        started = time.process_time()
        execute_batch(instance, runner, [f"file-{n}~{n:012x}" for n in range(count)])
        return (time.process_time() - started) / count
