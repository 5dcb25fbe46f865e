"""What is to be done, in frames and seconds of sound: counted where media were decoded, guessed where they were not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from media_pipeline.analyzers._registry import registry
from media_pipeline.config import Sampling
from media_pipeline.errors import InputError, ModelUnavailable
from media_pipeline.execution.judging import Todo
from media_pipeline.media.measure import Measured, measure
from media_pipeline.media.originals import locate

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline
    from media_pipeline.storage.sources import KnownMedium

# Until the home has videos of its own to learn from: how many frames cuts add to those that are due anyway.
_CUTS = 1.5
_FRAME_BYTES, _AUDIO_BYTES_PER_S = 250_000, 20_000  # of a JPEG in quality 95, of FLAC with speech
_SAMPLE = 500  # media that the home's own figures are learnt from


@dataclass(frozen=True, slots=True)
class Extent:
    """What analyzers get to see and hear of one medium."""

    kind: str
    frames: float
    audio_s: float
    duration_s: float = 0.0
    is_exact: bool = True  # decoded before


@dataclass(frozen=True, slots=True)
class Load:
    """What one stage has before it."""

    media: float = 0
    stills: float = 0  # pictures among them
    frames: float = 0.0
    audio_s: float = 0.0
    duration_s: float = 0.0  # of the videos and recordings among them

    def __add__(self, other: Load) -> Load:
        return Load(
            self.media + other.media,
            self.stills + other.stills,
            self.frames + other.frames,
            self.audio_s + other.audio_s,
            self.duration_s + other.duration_s,
        )

    def __mul__(self, factor: float) -> Load:
        parts = (self.media, self.stills, self.frames, self.audio_s, self.duration_s)
        return Load(*(part * factor for part in parts))


@dataclass(frozen=True, slots=True)
class Workload:
    """What a run, or several, have before them."""

    stages: Mapping[str, Load] = field(default_factory=dict)  # those without work are left out
    total: Load = Load()
    frame_bytes: float = 0.0  # if all frames, or all sound, went to another machine
    sound_bytes: float = 0.0
    guessed: int = 0  # media that were not decoded yet
    unreadable: Mapping[str, str] = field(default_factory=dict)  # files nobody can say anything of, and why

    def __add__(self, other: Workload) -> Workload:
        names = dict.fromkeys([*self.stages, *other.stages])
        return Workload(
            {name: self.stages.get(name, Load()) + other.stages.get(name, Load()) for name in names},
            self.total + other.total,
            self.frame_bytes + other.frame_bytes,
            self.sound_bytes + other.sound_bytes,
            self.guessed + other.guessed,
            {**self.unreadable, **other.unreadable},
        )

    def __mul__(self, factor: float) -> Workload:
        """As if there were so many times as much of the same."""
        stages = {name: load * factor for name, load in self.stages.items()}
        return replace(
            self,
            stages=stages,
            total=self.total * factor,
            frame_bytes=self.frame_bytes * factor,
            sound_bytes=self.sound_bytes * factor,
        )


@dataclass(frozen=True, slots=True)
class Habits:
    """What this home's media are like, learnt from those that were decoded."""

    frames_per_s: float | None = None  # sampled, of videos
    frame_bytes: float = _FRAME_BYTES
    audio_bytes_per_s: float = _AUDIO_BYTES_PER_S
    # Wall seconds of decoding, all workers together: of a picture, and per second of video or sound.
    decode_still_s: float | None = None
    decode_second_s: float | None = None

    def extent(self, found: Measured, sampling: Sampling) -> Extent:
        """What a file whose header was read will come to."""
        audio_s = found.duration_s if found.has_audio else 0.0
        if found.kind == "image":
            return Extent("image", 1, 0.0, is_exact=False)
        if found.kind == "audio":
            return Extent("audio", 0, audio_s, found.duration_s, is_exact=False)
        due = _CUTS * (2 + found.duration_s / sampling.max_gap_s)
        frames = due if self.frames_per_s is None else max(3.0, self.frames_per_s * found.duration_s)
        return Extent("video", min(frames, sampling.max_frames), audio_s, found.duration_s, is_exact=False)


def habits(pipeline: Pipeline) -> Habits:
    """Of the media that came last; cheap, whatever the size of the library."""
    extents = decoded_extents(pipeline, pipeline.sources.newest_ids(_SAMPLE))
    videos = [e for e in extents.values() if e.kind == "video"]
    cached = [(e, *pipeline.cache.sizes(media_id)) for media_id, e in extents.items()]
    seen, heard = [c for c in cached if c[1]], [c for c in cached if c[2]]
    entries = pipeline.ledger.entries(extents, ["media"])
    took = [(extents[media_id], entry.seconds or 0.0) for (media_id, _), entry in entries.items()]
    stills, timed = [t for t in took if t[0].kind == "image"], [t for t in took if t[0].kind != "image"]
    workers = pipeline.settings.thread_count
    return Habits(
        frames_per_s=_ratio(sum(e.frames for e in videos), sum(e.duration_s for e in videos)),
        frame_bytes=_ratio(sum(c[1] for c in seen), sum(c[0].frames for c in seen)) or _FRAME_BYTES,
        audio_bytes_per_s=_ratio(sum(c[2] for c in heard), sum(c[0].audio_s for c in heard)) or _AUDIO_BYTES_PER_S,
        decode_still_s=_ratio(sum(s for _, s in stills), len(stills) * workers),
        decode_second_s=_ratio(sum(s for _, s in timed), sum(e.duration_s for e, _ in timed) * workers),
    )


def _ratio(total: float, units: float) -> float | None:
    return total / units if units else None


def decoded_extents(pipeline: Pipeline, media_ids: Collection[str]) -> dict[str, Extent]:
    """Those of the media that were decoded, with what came of it."""
    if not media_ids or not pipeline.tables.exists("media"):
        return {}
    frames = {m: e.rows for (m, _), e in pipeline.ledger.entries(media_ids, ["frames"]).items() if e.status == "done"}
    rows = pipeline.tables.read("media", media_ids, ["media_id", "kind", "duration_s", "has_audio"]).to_pylist()
    return {
        row["media_id"]: Extent(
            row["kind"],
            frames[row["media_id"]],
            (row["duration_s"] or 0.0) if row["has_audio"] else 0.0,
            row["duration_s"] or 0.0,
        )
        for row in rows
        if row["media_id"] in frames
    }


def of_media(
    pipeline: Pipeline, media: Sequence[KnownMedium], stages: Collection[str], *, force: bool = False
) -> Workload:
    """What these stages have to do with media of the home. Headers are read of those that were never decoded."""
    known = decoded_extents(pipeline, [m.media_id for m in media])
    unknown = [m for m in media if m.media_id not in known]
    paths, unreadable = _located(m for m in unknown if m.original_removed_at is None and m.stored.exists())
    learnt = habits(pipeline)
    measured = dict(measure(paths, pipeline.settings.decode)) if paths else {}
    extents = dict(known)
    for path, found in measured.items():
        if isinstance(found, Measured):
            extents[paths[path]] = learnt.extent(found, pipeline.settings.sampling)
        else:
            unreadable[paths[path]] = str(found)
    todo = _todo(pipeline, media, stages, force=force)
    return _sum(((extents[m], todo[m]) for m in todo if m in extents), learnt, stages, unreadable)


def _located(media: Iterable[KnownMedium]) -> tuple[dict[Path, str], dict[str, str]]:
    """media_id by original, and why some have none that can be looked at: that one changed ends no quote."""
    found: dict[Path, str] = {}
    missing: dict[str, str] = {}
    for medium in media:
        try:
            found[locate(medium)] = medium.media_id
        except InputError as error:
            missing[medium.media_id] = str(error)
    return found, missing


def of_files(
    pipeline: Pipeline, paths: Sequence[Path], stages: Collection[str], refused: Mapping[str, str] | None = None
) -> Workload:
    """What these stages will have to do with files that are not in the home yet.

    Args:
        refused: files that are not looked at, and why
    """
    learnt = habits(pipeline)
    runnable = {n for n in stages if isinstance(pipeline.judge.own_fingerprint(n), str)}
    extents, unreadable = [], dict(refused or {})
    for path, found in measure(paths, pipeline.settings.decode):
        if isinstance(found, Measured):
            extents.append((learnt.extent(found, pipeline.settings.sampling), runnable))
        else:
            unreadable[str(path)] = str(found)
    return _sum(extents, learnt, stages, unreadable)


def _todo(
    pipeline: Pipeline, media: Sequence[KnownMedium], stages: Collection[str], *, force: bool
) -> dict[str, Collection[str]]:
    """Stages by medium that a run would compute. What an earlier stage makes anew, a later one does as well."""
    judge = pipeline.judge
    own = {name: judge.own_fingerprint(name) for name in judge.stages if name in stages}
    runnable = {name for name, print_ in own.items() if not isinstance(print_, ModelUnavailable)}
    entries = pipeline.ledger.entries([m.media_id for m in media])
    found: dict[str, Collection[str]] = {}
    for medium in media:
        stale: set[str] = set()
        for name in own:
            if name not in runnable:
                continue
            if force or not stale.isdisjoint(judge.stages[name].needs):
                stale.add(name)
                continue
            verdict = judge.verdict(name, medium, own[name], entries, retry_failed=False)
            if isinstance(verdict, Todo) or (medium.media_id, name) not in entries:
                stale.add(name)
        if stale:
            found[medium.media_id] = stale
    return found


def _sum(
    extents: Iterable[tuple[Extent, Collection[str]]],
    learnt: Habits,
    stages: Collection[str],
    unreadable: Mapping[str, str],
) -> Workload:
    loads: dict[str, Load] = {}
    total, guessed = Load(), 0
    for extent, names in extents:
        load = Load(1, extent.kind == "image", extent.frames, extent.audio_s, extent.duration_s)
        total += load
        guessed += not extent.is_exact
        for name in names:
            if _concerns(name, extent):
                loads[name] = loads.get(name, Load()) + load
    ordered = {name: loads[name] for name in stages if name in loads}
    frame_bytes, sound_bytes = total.frames * learnt.frame_bytes, total.audio_s * learnt.audio_bytes_per_s
    return Workload(ordered, total, frame_bytes, sound_bytes, guessed, unreadable)


def _concerns(name: str, extent: Extent) -> bool:
    """Whether a medium gives this stage anything to do: a picture has no sound."""
    spec = registry().get(name)
    if spec is None:
        return True
    if extent.kind not in spec.kinds:
        return False
    seen, heard = "frames" in spec.needs, "audio" in spec.needs
    return not (seen or heard) or (seen and extent.frames > 0) or (heard and extent.audio_s > 0)
