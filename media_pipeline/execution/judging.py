"""What is to be done: for each stage and medium whether there is a current result, and if not, why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from media_pipeline.errors import ModelUnavailable
from media_pipeline.execution.outcome import Outcome
from media_pipeline.execution.stages import Stage, effective_fingerprint
from media_pipeline.media.originals import why_removed
from media_pipeline.storage.ledger import Entry
from media_pipeline.storage.sources import KnownMedium

Entries = Mapping[tuple[str, str], Entry]  # by media_id and stage

# In fingerprints: of a stage that a medium has nothing for, and of a need without a model.
NO_INPUT = "no input"
NO_RESULT = "none"


@dataclass(frozen=True, slots=True)
class Todo:
    """One medium that a stage has to compute, and the fingerprint its result will have."""

    known: KnownMedium
    fingerprint: str
    standing: Entry | None = None  # what the ledger says of it so far


class Judge:
    """Compares what the ledger says with what the stages would make now."""

    def __init__(self, stages: Mapping[str, Stage]) -> None:
        self._stages = stages

    @property
    def stages(self) -> Mapping[str, Stage]:
        """By name, those that others need first."""
        return self._stages

    def made_from(self, name: str) -> list[str]:
        """This stage and all that read its results, or results of those."""
        found = [name]
        for stage in self._stages.values():
            if not set(found).isdisjoint(stage.needs):
                found.append(stage.name)
        return found

    def own_fingerprint(self, name: str) -> str | ModelUnavailable:
        """Of everything but the inputs, or why there is no model."""
        try:
            return self._stages[name].prepare()
        except ModelUnavailable as error:
            return error

    def verdict(
        self, name: str, known: KnownMedium, own: str | ModelUnavailable, entries: Entries, *, retry_failed: bool
    ) -> Todo | Outcome:
        """Whether this medium is to be computed, and if not, what stands."""
        stage = self._stages[name]
        entry = entries.get((known.media_id, name))
        broken = self._broken_need(stage, known.media_id, entries)
        if broken is not None:
            return Outcome(known.media_id, known.partition_key, "blocked", "", reason=broken)
        upstream = {need: entries[known.media_id, need] for need in stage.needs}
        inputs = {need: e.fingerprint if e.status == "done" else NO_RESULT for need, e in upstream.items()}
        if gone := self.unreadable(name, known):
            if entry is not None and entry.status == "done":
                return _standing(known, entry)  # made when there was an original; nobody can make it anew
            return Outcome(known.media_id, known.partition_key, "unavailable", "", reason=gone)
        if _has_no_input(stage, known, entries):
            own = NO_INPUT  # a picture has no sound, whatever the model: done at once, and for good
        if isinstance(own, ModelUnavailable):
            if entry is not None and entry.status == "done":
                return _standing(known, entry)  # made when there was a model; still true
            return Outcome(known.media_id, known.partition_key, "unavailable", "", reason=str(own))
        fingerprint = effective_fingerprint(own, inputs)
        if entry is None or entry.fingerprint != fingerprint or entry.status == "unavailable":
            return Todo(known, fingerprint, entry)
        # A reason beside "done" says what is missing from a result that stands otherwise.
        if retry_failed and (entry.status == "failed" or entry.reason is not None):
            return Todo(known, fingerprint, entry)
        return _standing(known, entry)

    def unreadable(self, name: str, known: KnownMedium) -> str | None:
        """Why this stage cannot look at the medium any more, where retention has removed the original."""
        if known.original_removed_at is None or not decodes(name, self._stages[name].needs):
            return None
        return f"{why_removed(known.original_removed_at)}; analyze the file once more to bring it back"

    def is_pending(
        self,
        medium: KnownMedium,
        own_fingerprints: Mapping[str, str | ModelUnavailable],
        entries: Entries,
        *,
        retry_failed: bool,
    ) -> bool:
        """Whether one of these stages has no current result for the medium."""
        for name, own in own_fingerprints.items():
            verdict = self.verdict(name, medium, own, entries, retry_failed=retry_failed)
            if isinstance(verdict, Todo):
                return True
            # A run that was cut off before the ledger said so: what needs this stage still waits for its word.
            if verdict.status == "unavailable" and (medium.media_id, name) not in entries:
                return True
        return False

    def _broken_need(self, stage: Stage, media_id: str, entries: Entries) -> str | None:
        """Why this stage cannot run, named after the stage where the trouble began."""
        for need in stage.needs:
            entry = entries.get((media_id, need))
            if entry is None:
                return self._broken_need(self._stages[need], media_id, entries) or f"{need} has not run"
            if entry.status == "failed":
                return f"{need} failed"
        return None


def decodes(name: str, needs: Collection[str]) -> bool:
    """Whether a stage looks at the medium itself, not only at what others found in it."""
    return name == "media" or not {"media", "frames", "audio"}.isdisjoint(needs)


def _has_no_input(stage: Stage, known: KnownMedium, entries: Entries) -> bool:
    decoded = [entries[known.media_id, need] for need in stage.needs if need in ("frames", "audio")]
    return bool(decoded) and all(entry.rows == 0 for entry in decoded)


def _standing(known: KnownMedium, entry: Entry) -> Outcome:
    return Outcome(
        media_id=known.media_id,
        partition_key=known.partition_key,
        status="done" if entry.status == "done" else "failed",
        fingerprint=entry.fingerprint,
        reason=entry.reason,
        rows=entry.rows,
        seconds=entry.seconds,
        device=entry.device or "cpu",
        model=entry.model,
        current=True,
    )
