"""The stages of the graph: what each needs, what its result depends on, and how it is computed.

A stage knows nothing of ledgers, tables or Dagster: `pipeline.Pipeline` decides what is to be done and keeps the
results. Three stages read foreign bytes (`media`, `frames`, `audio`; decoded once, in a sandbox), every analyzer is
one more.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
from pydantic import ValidationError

from media_pipeline.analyzers._markdown import escaped
from media_pipeline.analyzers._registry import registry
from media_pipeline.analyzers._spec import AnalyzerSpec, Medium, ModelChoice, Options
from media_pipeline.config import Settings
from media_pipeline.errors import MediaPipelineError, ModelUnavailable, UsageError
from media_pipeline.execution.outcome import StageInfo
from media_pipeline.execution.rows import by_medium
from media_pipeline.media.decode import DECODE_VERSION
from media_pipeline.storage import schemas

if TYPE_CHECKING:
    from media_pipeline.analyzers._models import ModelStore
    from media_pipeline.execution.decoded import DecodedMedia
    from media_pipeline.execution.executor import AnalyzerResult, Executor
    from media_pipeline.media.cache import CacheEntry
    from media_pipeline.media.types import MediaFacts
    from media_pipeline.storage.sources import KnownMedium
    from media_pipeline.storage.tables import Tables


@dataclass(frozen=True, slots=True)
class Result:
    """One medium out of one stage: rows or an error."""

    media_id: str
    rows: pa.Table | None = None  # of the stage's schema; None and no error: this stage has nothing to say about it
    error: MediaPipelineError | None = None
    seconds: float = 0.0
    device: str = "cpu"  # that computed it
    preview: str | None = None
    thumbnail_jpeg: bytes | None = None
    incomplete: str | None = None  # why the rows are good but not all that was asked for


class Stage(Protocol):
    """One asset of the graph, ready to compute."""

    name: str
    needs: tuple[str, ...]
    schema: pa.Schema
    version: str
    options_digest: str  # 16 hex digits that change when an option of the fingerprint does
    choice: ModelChoice | None  # set once `prepare` has run

    def prepare(self) -> str:
        """Decide on the model; returns the fingerprint of everything but the inputs.

        Raises:
            ModelUnavailable: nothing can be computed here, with the remedy.
        """

    def compute(self, media: Iterable[KnownMedium]) -> Iterator[Result]:
        """Results as they complete, in any order, exactly one per medium.

        One with the error ModelUnavailable or BudgetReached says that there is no result yet, not that the medium
        failed.
        """


def stage_infos() -> list[StageInfo]:
    """All stages, those that others need first. Needs no home and loads no model library."""
    decoding = [
        StageInfo("media", (), DECODE_VERSION, _MEDIA_DESCRIPTION, "intake", ("pyav",)),
        StageInfo("frames", ("media",), DECODE_VERSION, _FRAMES_DESCRIPTION, "intake", ("pyav",)),
        StageInfo("audio", ("media",), DECODE_VERSION, _AUDIO_DESCRIPTION, "intake", ("pyav",)),
    ]
    analysis = [
        StageInfo(spec.name, spec.needs, spec.version, spec.description, "analysis", (spec.compute_kind,))
        for spec in registry().values()
    ]
    return decoding + analysis


def with_needs(stages: Iterable[StageInfo], names: Collection[str]) -> list[str]:
    """These stages and all they need, in the order of the stages."""
    needs = {stage.name: stage.needs for stage in stages}
    wanted: set[str] = set()
    frontier = set(names)
    while frontier:
        wanted |= frontier
        frontier = {need for name in frontier for need in needs[name]} - wanted
    return [name for name in needs if name in wanted]


_MEDIA_DESCRIPTION = (
    "One uploaded file, identified by the hash of its content: what kind it is, how large and long, when, where and "
    "with what it was taken. Decoded once, in a disposable process."
)
_FRAMES_DESCRIPTION = "The frames the analyzers see: sampled by scene change with a maximum gap; a cache."
_AUDIO_DESCRIPTION = "The sound at 16 kHz, mono unless each channel carries a voice of its own; a cache."


class _DecodingStage:
    """What the three have in common: no model, and a result that depends on how media are decoded."""

    version = DECODE_VERSION
    choice: ModelChoice | None = None

    def __init__(self, decoded: DecodedMedia) -> None:
        self._decoded = decoded
        self.options_digest = decoded.fingerprint  # of the sampling, beside the version

    def prepare(self) -> str:
        return self._decoded.fingerprint


class MediaStage(_DecodingStage):
    """Decodes: container facts, and the cached frames and sound that later stages read."""

    name = "media"
    needs: tuple[str, ...] = ()
    schema = schemas.MEDIA

    def compute(self, media: Iterable[KnownMedium]) -> Iterator[Result]:
        for known, decoded in self._decoded.decode(media):
            if decoded.error is not None or decoded.facts is None:
                yield Result(known.media_id, error=decoded.error, seconds=decoded.seconds)
                continue
            entry = self._decoded.cached(known.media_id)
            yield Result(
                known.media_id,
                rows=pa.Table.from_pylist([media_row(known, decoded.facts)], schema=schemas.MEDIA),
                seconds=decoded.seconds,
                preview=describe(decoded.facts),
                thumbnail_jpeg=entry.thumbnail() if entry else None,
            )


class FramesStage(_DecodingStage):
    """Publishes the sampled frames' rows; the pictures stay in the cache."""

    name = "frames"
    needs: tuple[str, ...] = ("media",)
    schema = schemas.FRAMES

    def compute(self, media: Iterable[KnownMedium]) -> Iterator[Result]:
        for known, entry in self._decoded.entries(media):
            if isinstance(entry, MediaPipelineError):
                yield Result(known.media_id, error=entry)
                continue
            rows = entry.frame_rows()
            yield Result(
                known.media_id, rows=rows, preview=f"{rows.num_rows} frames" if rows.num_rows else "no picture"
            )


class AudioStage(_DecodingStage):
    """Publishes length and level of the sound; the samples stay in the cache."""

    name = "audio"
    needs: tuple[str, ...] = ("media",)
    schema = schemas.AUDIO

    def compute(self, media: Iterable[KnownMedium]) -> Iterator[Result]:
        for known, entry in self._decoded.entries(media):
            if isinstance(entry, MediaPipelineError):
                yield Result(known.media_id, error=entry)
            elif entry.audio is None:
                yield Result(known.media_id, preview="no sound")
            else:
                apart = entry.facts.audio_cached_channels == 2
                preview = "16 kHz, two voices on two channels" if apart else "16 kHz mono"
                yield Result(known.media_id, rows=self._row(known.media_id, entry), preview=preview)

    @staticmethod
    def _row(media_id: str, entry: CacheEntry) -> pa.Table:
        facts = entry.facts
        row = {
            "media_id": media_id,
            "duration_s": facts.audio_duration_s,
            "peak": facts.audio_peak,
            "rms": facts.audio_rms,
            "channels": facts.audio_cached_channels,
        }
        return pa.Table.from_pylist([row], schema=schemas.AUDIO)


class AnalyzerStage:
    """One analyzer over the cached frames, the sound and the rows of the analyzers it needs."""

    choice: ModelChoice | None = None

    def __init__(
        self,
        spec: AnalyzerSpec,
        settings: Settings,
        models: ModelStore,
        decoded: DecodedMedia,
        tables: Tables,
        executor: Executor,
    ) -> None:
        self.name, self.needs, self.schema, self.version = spec.name, spec.needs, spec.schema, spec.version
        self.spec = spec
        self.options = options_for(spec, settings)
        self.options_digest = _digest(self.options)
        self._models, self._decoded, self._tables, self._executor = models, decoded, tables, executor

    def prepare(self) -> str:
        self.choice = self.spec.choose(self.options, self._models)
        return self.spec.fingerprint(self.choice, self.options)

    def compute(self, media: Iterable[KnownMedium]) -> Iterator[Result]:
        todo = list(media)
        rows = self._upstream_rows([m.media_id for m in todo])
        settled: list[Result] = []
        inputs = self._inputs(todo, rows, settled)
        if self.choice is None:
            # Without a model only media that have nothing to analyse come here: reading the inputs settles them all.
            deque(inputs, maxlen=0)
        else:
            answered: set[str] = set()
            try:
                for result in self._executor.run(self.spec, self.choice, self.options, inputs):
                    answered.add(result.media_id)
                    yield self._described(result)
            except ModelUnavailable as error:
                answered |= {result.media_id for result in settled}
                yield from self._without_model([m.media_id for m in todo if m.media_id not in answered], error)
        yield from settled

    def _without_model(self, media_ids: list[str], why: ModelUnavailable) -> Iterator[Result]:
        """The model cannot be opened: who has nothing to analyse is done all the same, the others wait.

        Told from tables: to find out that nothing can be computed nothing is decoded.
        """
        decoded = [need for need in self.needs if need in ("frames", "audio")]
        kinds = self._kinds(media_ids) if decoded else {}
        full = {i for need in decoded for i in self._tables.read(need, media_ids, ["media_id"])["media_id"].to_pylist()}
        for media_id in media_ids:
            says_nothing = decoded and (media_id not in full or kinds.get(media_id) not in self.spec.kinds)
            yield Result(media_id) if says_nothing else Result(media_id, error=why)

    def _described(self, result: AnalyzerResult) -> Result:
        if result.rows is None:
            return Result(result.media_id, error=result.error, seconds=result.seconds, device=result.device)
        return Result(
            media_id=result.media_id,
            rows=result.rows,
            seconds=result.seconds,
            device=result.device,
            preview=self.spec.preview(result.rows) if self.spec.preview else None,
            incomplete=self.spec.incomplete(result.rows) if self.spec.incomplete else None,
        )

    def _upstream_rows(self, media_ids: list[str]) -> dict[str, dict[str, pa.Table]]:
        names = (*self.spec.upstream_analyzers, *(["frames"] if self.spec.reads_frame_times else []))
        return {name: by_medium(self._tables.read(name, media_ids)) for name in names if self._tables.exists(name)}

    def _inputs(
        self, todo: list[KnownMedium], rows: dict[str, dict[str, pa.Table]], settled: list[Result]
    ) -> Iterator[Medium]:
        """What the analyzer sees of each medium; those that say nothing to it end at once, without a model."""
        wants_frames, wants_audio = "frames" in self.needs, "audio" in self.needs
        if not (wants_frames or wants_audio):
            kinds = self._kinds([m.media_id for m in todo])
            for known in todo:
                upstream = {n: r[known.media_id] for n, r in rows.items() if known.media_id in r}
                yield Medium(known.media_id, kinds.get(known.media_id, "unknown"), rows=upstream)
            return
        for known, entry in self._decoded.entries(todo):
            if isinstance(entry, MediaPipelineError):
                settled.append(Result(known.media_id, error=entry))
                continue
            facts = entry.facts
            has_input = (wants_frames and len(entry.frames) > 0) or (wants_audio and entry.audio is not None)
            if facts.kind not in self.spec.kinds or not has_input:
                settled.append(Result(known.media_id))
                continue
            yield Medium(
                media_id=known.media_id,
                kind=facts.kind,
                frames=entry.frames if wants_frames else (),
                audio=entry.audio if wants_audio else None,
                frame_scores=entry.frame_scores if wants_frames and self.spec.reads_scores else None,
                duration_s=facts.duration_s,
                rows={n: r[known.media_id] for n, r in rows.items() if known.media_id in r},
            )

    def _kinds(self, media_ids: list[str]) -> dict[str, str]:
        table = self._tables.read("media", media_ids, columns=["media_id", "kind"])
        return dict(zip(table["media_id"].to_pylist(), table["kind"].to_pylist(), strict=True))


def options_for(spec: AnalyzerSpec, settings: Settings) -> Options:
    """The analyzer's options: its defaults, what several analyzers must agree on, then what the user set for it.

    Raises:
        UsageError: an option is unknown or has a wrong value; names the setting.
    """
    given = dict(settings.options.get(spec.name, {}))
    for common in ("language", "clip_model"):
        if common in spec.options.model_fields:
            given.setdefault(common, getattr(settings, common))
    try:
        return spec.options(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = f"MEDIA_PIPELINE_OPTIONS__{spec.name.upper()}__{'__'.join(str(p).upper() for p in first['loc'])}"
        raise UsageError(
            f"{name}: {first['msg']}", f"options of {spec.name}: {sorted(spec.options.model_fields)}"
        ) from None


def _digest(options: Options) -> str:
    text = json.dumps(options.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def refuse_unknown_options(settings: Settings) -> None:
    """Options of an analyzer that does not exist would have no effect and say nothing.

    Raises:
        UsageError: names the first of these settings.
    """
    unknown = sorted(settings.options.keys() - registry().keys())
    if unknown:
        raise UsageError(
            f"MEDIA_PIPELINE_OPTIONS__{unknown[0].upper()}: no analyzer is called {unknown[0]!r}",
            f"there are: {', '.join(registry())}",
        )


def effective_fingerprint(own: str, inputs: Mapping[str, str]) -> str:
    """A result changes when the stage does or when anything it was made from does."""
    text = own + "".join(f"|{name}={inputs[name]}" for name in sorted(inputs))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def media_row(known: KnownMedium, facts: MediaFacts) -> dict[str, Any]:
    """The row of table `media`: what intake knows of the file and what decoding found in it."""
    row = {name: getattr(facts, name) for name in schemas.MEDIA.names if hasattr(facts, name)}
    row.update(
        media_id=known.media_id,
        partition_key=known.partition_key,
        name=known.name,
        path=known.path,
        bytes=known.bytes,
        added_at=known.added_at,
        latitude=facts.place.latitude if facts.place else None,
        longitude=facts.place.longitude if facts.place else None,
        altitude_m=facts.place.altitude_m if facts.place else None,
        streams=[asdict(stream) for stream in facts.streams],
        warnings=list(facts.warnings),
    )
    return row


def describe(facts: MediaFacts) -> str:
    """One line of Markdown for people: "video, 1280 x 720, 11.0 s, h264 + aac"."""
    parts: list[str] = [facts.kind]
    if facts.width and facts.height:
        parts.append(f"{facts.width} x {facts.height}")
    if facts.duration_s is not None:
        parts.append(f"{facts.duration_s:.1f} s")
    codecs = " + ".join(c for c in (facts.video_codec, facts.audio_codec) if c)
    if codecs:
        parts.append(codecs)
    if facts.camera:
        parts.append(escaped(facts.camera))
    if facts.captured_at:
        parts.append(facts.captured_at.strftime("%Y-%m-%d %H:%M"))
    return ", ".join(parts + [f"warning: {escaped(w)}" for w in facts.warnings[:2]])
