"""A small world for tests of the engine: ten stages and a runner that computes nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Sequence
from typing import Any

from PIL import Image

from media_pipeline.errors import MediaPipelineError
from media_pipeline.execution.outcome import Outcome, StageInfo, Status
from media_pipeline.execution.placement import Decision
from media_pipeline.execution.wish import Wish


def _stage(name: str, *needs: str, group: str = "analysis") -> StageInfo:
    return StageInfo(name, needs, "1", f"What {name} says.", group, ("python",))


STAGES = (
    _stage("media", group="intake"),
    _stage("frames", "media", group="intake"),
    _stage("audio", "media", group="intake"),
    _stage("scenes", "frames"),
    _stage("ocr", "frames"),
    _stage("transcript", "audio"),
    _stage("text_embeddings", "ocr", "transcript"),
    # What results over all media are made from.
    _stage("faces", "frames"),
    _stage("speakers", "audio"),
    _stage("image_embeddings", "frames"),
)
NAMES = tuple(stage.name for stage in STAGES)


def _thumbnail() -> bytes:
    out = io.BytesIO()
    noise = Image.effect_noise((160, 120), 80)  # the hardest there is to compress
    Image.merge("RGB", (noise, noise, noise)).save(out, "JPEG", quality=70)
    return out.getvalue()


THUMBNAIL = _thumbnail()


class ScriptedRunner:
    """Keeps results like a ledger; which (stage, key) fails or has no model is said at the start.

    `calls` are the stages it was asked for, as (stage, keys, redo, retry_failed); `computed` the pairs it computed.
    """

    def __init__(
        self,
        failed: Collection[tuple[str, str]] = (),
        unavailable: Collection[tuple[str, str]] = (),
        errors: dict[str, list[MediaPipelineError]] | None = None,
        unknown: Collection[str] = (),
        interrupt_at: str | None = None,
    ) -> None:
        self.interrupt_at = interrupt_at
        self.failed, self.unavailable, self.unknown = set(failed), set(unavailable), set(unknown)
        self.errors = errors or {}
        self.calls: list[tuple[str, tuple[str, ...], frozenset[str], bool]] = []
        self.computed: list[tuple[str, str]] = []
        self.around: list[str] = []
        self.decision: Decision | None = None
        self.rented: dict[str, Any] | None = None
        self.moderated: dict[str, Any] = {"judged": 1}
        self._ledger: dict[tuple[str, str], Status] = {}

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
        self.calls.append((name, tuple(partition_keys), frozenset(redo), retry_failed))
        if name == self.interrupt_at:
            raise KeyboardInterrupt
        if self.errors.get(name):
            raise self.errors[name].pop(0)
        outcomes = [
            self._outcome(name, key, key in redo, retry_failed) for key in partition_keys if key not in self.unknown
        ]
        for outcome in outcomes:
            if on_outcome is not None:
                on_outcome(outcome)
        return outcomes

    def _outcome(self, name: str, key: str, force: bool, retry_failed: bool) -> Outcome:
        needs = next(stage.needs for stage in STAGES if stage.name == name)
        standing = self._ledger.get((name, key))
        status: Status = "done"
        if any(self._ledger.get((need, key)) in ("failed", "blocked") for need in needs):
            status = "blocked"
        elif (name, key) in self.unavailable:
            status = "unavailable"
        elif standing == "failed" and not (retry_failed or force):
            status = "failed"
        elif standing != "done" or force:
            self.computed.append((name, key))
            status = "failed" if (name, key) in self.failed else "done"
        self._ledger[name, key] = status
        return Outcome(
            media_id=f"id-{key}",
            partition_key=key,
            status=status,
            fingerprint=f"{name}-1" if status == "done" else "",
            reason=None if status == "done" else f"{name} said no",
            rows=3,
            seconds=0.25,
            current=(name, key) not in self.computed,
            preview="first line",
            thumbnail_jpeg=THUMBNAIL if name == "media" else None,
        )

    def begin(self, partition_keys: Sequence[str]) -> None:
        self.around.append("begin")

    def end(self, partition_keys: Sequence[str]) -> None:
        self.around.append("end")

    def release(self, partition_keys: Sequence[str], *, because: str | None = None) -> None:
        self.around.append(f"release: {because}" if because else "release")

    def finish(self, partition_keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        self.around.append("finish")
        results = ("duplicates", "persons", "voices", "moderation", "search_index", "warehouse")
        return {name: {"rows": 1} for name in results} | {"moderation": self.moderated}

    def place(
        self,
        partition_keys: Sequence[str],
        stages: Collection[str],
        wish: Wish,
        *,
        run_id: str,
        force: bool,
        say: Callable[[str], None],
    ) -> Decision | None:
        self.around.append(f"place {wish.target}")
        return self.decision

    def give_back(self) -> dict[str, Any] | None:
        self.around.append("give back")
        return self.rented

    def maintain(self) -> dict[str, dict[str, Any]]:
        return {"ocr": {"version": 1}}

    def close(self) -> None:
        pass
