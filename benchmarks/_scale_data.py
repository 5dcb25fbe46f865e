"""A library that never was: the rows every stage would have written, deterministic, a batch of media at a time.

Six media in ten are pictures, three are videos of twenty sampled frames, one is sound. Of each medium there are about
50 lines of text, 45 labels, five faces of two people and ten embedded passages: 100,000 media make 10 million rows of
text, faces and labels and 1.5 million vectors. Vectors are mixtures, as embeddings are: passages of one topic and faces
of one person lie close together, and what is in between is not empty. Pictures have no CLIP vectors: no such model is
embedded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks._scale_words import joined, lines

Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SEED = 20_260_101
FRAMES = 20  # of a video
LINES_PER_PASSAGE = 5
TEXT_DIM, FACE_DIM = 384, 128
LATENT = 48  # dimensions in which what vectors are about lies
_TOPICS = 4_000
START = datetime(2024, 1, 1, tzinfo=UTC)
LABEL_SETS = {
    "content": ["beach", "dog", "office", "street", "food", "car", "forest", "document", "concert", "kitchen"],
    "violence": ["weapon", "blood", "fight"],
    "restraint": ["handcuffs", "rope"],
}
_LABELS = [(name, label) for name, labels in LABEL_SETS.items() for label in labels]


@dataclass(frozen=True, slots=True)
class Models:
    """What the rows say of who made them."""

    text: str
    face: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive media of the library."""

    numbers: range
    ids: list[str]
    kinds: list[str]
    tables: Mapping[str, pa.Table]
    frames: Ints  # sampled frames of each medium


def media_id(number: int) -> str:
    return hashlib.sha256(f"{SEED}:{number}".encode()).hexdigest()


def kind(number: int) -> str:
    place = number % 10
    return "image" if place < 6 else "video" if place < 9 else "audio"


def added_at(number: int) -> datetime:
    return START + timedelta(minutes=7 * number)


def batches(media: int, size: int, models: Models) -> Iterator[Batch]:
    for start in range(0, media, size):
        yield batch(range(start, min(media, start + size)), models)


def batch(numbers: range, models: Models) -> Batch:
    """These media with their rows; the same ones always, whatever else is made."""
    rng = np.random.default_rng([SEED, numbers.start])
    ids, kinds = [media_id(n) for n in numbers], [kind(n) for n in numbers]
    frames = np.array([{"image": 1, "video": FRAMES, "audio": 0}[k] for k in kinds])
    owners = _Owners(ids, frames)
    texts, passages = _texts(rng, owners, models)
    tables = {
        "media": _media(rng, numbers, ids, kinds),
        "frames": _frames(rng, owners),
        "ocr": texts,
        "text_embeddings": passages,
        "labels": _labels(rng, owners),
        "nsfw": _nsfw(rng, owners),
        **_faces(rng, owners, models),
        **_speech(rng, ids, kinds),
        "duplicate_pairs": _pairs(numbers),
    }
    return Batch(numbers, ids, kinds, tables, frames)


class _Owners:
    """The sampled frames of a batch: whose they are, and when they were seen."""

    def __init__(self, ids: list[str], frames: Ints) -> None:
        self.ids = pa.array(ids, pa.string())
        self.medium = np.repeat(np.arange(len(ids)), frames)
        first = np.repeat(np.cumsum(frames) - frames, frames)
        self.frame = np.arange(len(self.medium)) - first
        self.count = len(self.medium)

    def repeated(self, per_frame: Ints) -> tuple[Ints, dict[str, pa.Array]]:
        """Positions of frames, each so many times, with the columns that all tables begin with."""
        at = np.repeat(np.arange(self.count), per_frame)
        return at, {
            "media_id": self.ids.take(pa.array(self.medium[at])),
            "frame_index": pa.array(self.frame[at] * 50),
            "pts_s": pa.array(self.frame[at] * 2.0),
        }

    def is_video(self) -> npt.NDArray[np.bool_]:
        return np.bincount(self.medium, minlength=len(self.ids))[self.medium] > 1


def _media(rng: np.random.Generator, numbers: range, ids: list[str], kinds: list[str]) -> pa.Table:
    moving = [k != "image" for k in kinds]
    return pa.table(
        {
            "media_id": ids,
            "partition_key": [partition_key(n) for n in numbers],
            "name": [file_name(n) for n in numbers],
            "path": [f"/inbox/{file_name(n)}" for n in numbers],
            "kind": kinds,
            "mime": [{"image": "image/jpeg", "video": "video/mp4", "audio": "audio/mpeg"}[k] for k in kinds],
            "bytes": rng.integers(100_000, 50_000_000, len(ids)),
            "width": pa.array([None if k == "audio" else 1920 for k in kinds], pa.int32()),
            "height": pa.array([None if k == "audio" else 1080 for k in kinds], pa.int32()),
            "duration_s": pa.array([40.0 if m else None for m in moving], pa.float64()),
            "has_audio": moving,
            "captured_at": pa.array([added_at(n) - timedelta(days=3) for n in numbers], pa.timestamp("us", "UTC")),
            "added_at": pa.array([added_at(n) for n in numbers], pa.timestamp("us", "UTC")),
            "phash": [None if k == "audio" else m[:16] for m, k in zip(ids, kinds, strict=True)],
        }
    )


def file_name(number: int) -> str:
    ending = {"image": "jpg", "video": "mp4", "audio": "mp3"}[kind(number)]
    return f"{added_at(number):%Y-%m}/{kind(number)}-{number:07d}.{ending}"


def partition_key(number: int) -> str:
    return f"{kind(number)}-{number:07d}~{media_id(number)[:12]}"


def _frames(rng: np.random.Generator, owners: _Owners) -> pa.Table:
    _, columns = owners.repeated(np.ones(owners.count, np.int64))
    hashes = rng.bytes(8 * owners.count).hex()
    return pa.table(
        {
            **columns,
            "width": np.full(owners.count, 1920, np.int32),
            "height": np.full(owners.count, 1080, np.int32),
            "scene_index": (owners.frame // 5).astype(np.int32),
            "phash": [hashes[n : n + 16] for n in range(0, len(hashes), 16)],
        }
    )


def _boxes(rng: np.random.Generator, count: int, width: float, height: float) -> dict[str, npt.NDArray[np.float32]]:
    x, y = rng.random(count) * (1900 - width), rng.random(count) * (1060 - height)
    corners = {"x1": x, "y1": y, "x2": x + width, "y2": y + height}
    return {name: values.astype(np.float32) for name, values in corners.items()}


def _texts(rng: np.random.Generator, owners: _Owners, models: Models) -> tuple[pa.Table, pa.Table]:
    """Lines that were read, and the passages made of them."""
    video = owners.is_video()
    passages = np.where(video, rng.poisson(1.13, owners.count), rng.poisson(5.35, owners.count))
    per_frame = passages * LINES_PER_PASSAGE
    at, columns = owners.repeated(per_frame)
    count = len(at)
    text = lines(rng, count)
    first = np.repeat(np.cumsum(per_frame) - per_frame, per_frame)
    read = pa.table(
        {
            **columns,
            "line_index": (np.arange(count) - first).astype(np.int32),
            "text": text,
            "score": (0.6 + 0.4 * rng.random(count)).astype(np.float32),
            **_boxes(rng, count, 600, 40),
        }
    )
    where, places = owners.repeated(passages)
    topics = rng.integers(0, _TOPICS, len(owners.ids))[owners.medium[where]]
    embedded = pa.table(
        {
            "media_id": places["media_id"],
            "source": pa.repeat(pa.scalar("ocr"), len(where)),
            "row_index": np.arange(len(where)) * LINES_PER_PASSAGE,
            "pts_s": places["pts_s"],
            "text": joined(text, np.full(len(where), LINES_PER_PASSAGE)),
            "model": pa.repeat(pa.scalar(models.text), len(where)),
            "embedding": as_column(passage_vectors(rng, topics)),
        }
    )
    return read, embedded


def passage_vectors(rng: np.random.Generator, topics: Ints) -> Vectors:
    """Shape (len(topics), 384), L2-normalised: a mixture of topics in fewer dimensions, and noise in all of them."""
    fixed = np.random.default_rng(SEED)
    centres = fixed.standard_normal((_TOPICS, LATENT), np.float32)
    plane = fixed.standard_normal((LATENT, TEXT_DIM), np.float32) / np.float32(np.sqrt(LATENT))
    latent = centres[topics] + 0.6 * rng.standard_normal((len(topics), LATENT), np.float32)
    return _normalised(latent @ plane + 0.25 * rng.standard_normal((len(topics), TEXT_DIM), np.float32))


def face_vectors(rng: np.random.Generator, people: Ints) -> Vectors:
    """Shape (len(people), 128), L2-normalised: each person a point, each sighting near it."""
    centres = np.stack([_person(int(p)) for p in np.unique(people)]) if len(people) else np.zeros((0, FACE_DIM))
    own = centres[np.searchsorted(np.unique(people), people)].astype(np.float32)
    return _normalised(own + 0.05 * rng.standard_normal((len(people), FACE_DIM), np.float32))


def _person(number: int) -> Vectors:
    centre: Vectors = np.random.default_rng([SEED, 1, number]).standard_normal(FACE_DIM, np.float32)
    return _normalised(centre)


def _normalised(vectors: Vectors) -> Vectors:
    lengths: Vectors = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths


def as_column(vectors: Vectors) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def _labels(rng: np.random.Generator, owners: _Owners) -> pa.Table:
    at, columns = owners.repeated(rng.integers(5, 10, owners.count))
    picks = np.minimum(rng.geometric(0.25, len(at)) - 1, len(_LABELS) - 1)
    return pa.table(
        {
            **columns,
            "label_set": pa.array([name for name, _ in _LABELS]).take(pa.array(picks)),
            "label": pa.array([label for _, label in _LABELS]).take(pa.array(picks)),
            "score": rng.random(len(at)).astype(np.float32),
            "evidence": pa.repeat(pa.scalar("clip"), len(at)),
        }
    )


def _nsfw(rng: np.random.Generator, owners: _Owners) -> pa.Table:
    at, columns = owners.repeated((rng.random(owners.count) < 0.02).astype(np.int64))
    return pa.table(
        {
            **columns,
            "label": pa.repeat(pa.scalar("covered"), len(at)),
            "score": rng.random(len(at)).astype(np.float32),
            "source": pa.repeat(pa.scalar("detector"), len(at)),
            "explicit": rng.random(len(at)) < 0.2,
            **_boxes(rng, len(at), 300, 300),
        }
    )


def _faces(rng: np.random.Generator, owners: _Owners, models: Models) -> dict[str, pa.Table]:
    """Sightings, and the tracks they make: two people per medium at most."""
    per_frame = np.where(owners.is_video(), rng.poisson(0.73, owners.count), rng.poisson(1.0, owners.count))
    at, columns = owners.repeated(per_frame)
    track = rng.integers(0, 2, len(at))
    cast = rng.zipf(1.3, (len(owners.ids), 2)) % 20_000
    people = cast[owners.medium[at], track]
    vectors = face_vectors(rng, people)
    faces = pa.table(
        {
            **columns,
            "face_index": np.arange(len(at)).astype(np.int32),
            "track_index": track.astype(np.int32),
            "score": (0.7 + 0.3 * rng.random(len(at))).astype(np.float32),
            **_boxes(rng, len(at), 120, 150),
            "quality": rng.random(len(at)).astype(np.float32),
            "embedding": as_column(vectors),
            "model": pa.repeat(pa.scalar(models.face), len(at)),
        }
    )
    _, best = np.unique(owners.medium[at] * 2 + track, return_index=True)
    taken = faces.take(pa.array(best))
    tracks = taken.select(["media_id", "track_index", "score", "model", "x1", "y1", "x2", "y2"])
    tracks = tracks.append_column("person_id", pa.array([f"person-{p:05d}" for p in people[best].tolist()]))
    tracks = tracks.append_column("decided_by", pa.repeat(pa.scalar("auto"), len(best)))
    tracks = tracks.append_column("embedding", taken["embedding"].combine_chunks().cast(pa.list_(pa.float32())))
    tracks = tracks.append_column("at_s", taken["pts_s"])
    return {"faces": faces, "face_persons": tracks}


def _speech(rng: np.random.Generator, ids: list[str], kinds: list[str]) -> dict[str, pa.Table]:
    speaking = pa.array([media_id for media_id, k in zip(ids, kinds, strict=True) if k != "image"], pa.string())
    media, segments = len(speaking), 10
    at, index = np.repeat(np.arange(media), segments), np.tile(np.arange(segments), media)
    who = pa.array(["A", "B"]).take(pa.array((index // 3) % 2))
    said = {"media_id": speaking.take(pa.array(at)), "start_s": index * 4.0, "end_s": index * 4.0 + 3.5}
    transcript = pa.table(
        {
            **said,
            "segment_index": index.astype(np.int32),
            "text": lines(rng, len(at)),
            "language": pa.repeat(pa.scalar("de"), len(at)),
            "score": rng.random(len(at)).astype(np.float32),
        }
    )
    turns = pa.table({**said, "turn_index": index.astype(np.int32), "speaker": who})
    return {"transcript": transcript, "speakers": turns}


def _pairs(numbers: range) -> pa.Table:
    """One picture in fifty is another version of the one before."""
    found = [sorted((media_id(n), media_id(n - 1)), reverse=True) for n in numbers if n % 50 == 1]
    return pa.table(
        {
            "media_id": pa.array([a for a, _ in found], pa.string()),
            "other_id": pa.array([b for _, b in found], pa.string()),
            "distance": np.ones(len(found), np.float32),
            "matched": np.ones(len(found), np.float32),
        }
    )
