"""COCO: boxes and key points of frames, as pycocotools reads them.

Format: Lin et al., Microsoft COCO (2014), "data format" of cocodataset.org. An image is a frame with something in it;
its `file_name` is `<partition_key>/<frame_index>.jpg`. Ids count from 1 and mean nothing beyond the file.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from media_pipeline import __version__
from media_pipeline.analyzers._pose_points import COCO_POINTS
from media_pipeline.execution.rows import by_medium
from media_pipeline.results.exports._library import Library, Medium, Portion, in_time
from media_pipeline.results.exports._target import file_name

# From 1, as in COCO's own annotations.
SKELETON = (
    *((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9)),
    *((8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)),
)
VISIBLE_SCORE = 0.5  # from which a key point counts as visible; below it, as hidden by something
NOT_LABELLED, HIDDEN, VISIBLE = 0, 1, 2

Row = Mapping[str, Any]
Frame = tuple[str, int]  # media_id, frame_index


@dataclass(frozen=True, slots=True)
class Source:
    """A view with boxes.

    Attributes:
        label: column that names the category; None where all rows are of one, `category`
        facts: columns that go along as `attributes`
    """

    view: str
    category: str
    label: str | None = None
    facts: tuple[str, ...] = ()


SOURCES = {
    source.view: source
    for source in (
        Source("poses", "person", facts=("person_index",)),
        Source("faces", "face", facts=("track_index", "person_id")),
        Source("nsfw", "nsfw", label="label"),
        Source("logos", "logo", label="logo"),
        Source("ocr", "text", facts=("text", "angle_deg")),
    )
}
DEFAULT_BOXES = ("poses", "faces", "nsfw", "logos")


class Pictures(Protocol):
    """Writes the frames of an export as files."""

    def write(self, frames: Mapping[Medium, Collection[int]]) -> Mapping[Frame, tuple[int, int]]:
        """Width and height of each file written; frames that cannot be had are left out."""
        ...


class Coco:
    """One COCO file.

    Args:
        boxes: names of SOURCES
        pictures: where frames are written too; boxes are then in pixels of these files
        spool: folder for what has to wait on the disk; the system's temporary folder if None
    """

    def __init__(
        self, boxes: Sequence[str] = DEFAULT_BOXES, pictures: Pictures | None = None, spool: Path | None = None
    ) -> None:
        self._sources = [SOURCES[name] for name in boxes]
        self._pictures, self._spool = pictures, spool

    def write(self, library: Library, sink: IO[bytes]) -> Generator[Portion, None, None]:
        """Writes the file; yields each portion once it is written. Annotations wait on the disk for the images."""
        categories = self._categories(library)
        ids = {(c["supercategory"], c["name"]): c["id"] for c in categories}
        people = library.names_of("person")
        sink.write(f'{{"info": {_json({"description": f"media-pipeline {__version__}", "version": "1"})},\n'.encode())
        sink.write(f'"licenses": [],\n"categories": {_json(categories)},\n"images": ['.encode())
        with tempfile.TemporaryFile(dir=self._spool) as waiting:
            images, annotations = _List(sink), _List(waiting)
            for portion in library.portions():
                frames, found = self._frames(library, portion), self._annotations(library, portion, ids, people)
                sizes = self._written(portion, found)
                for frame, rows in sorted(found.items()):
                    if frame in frames and (sizes is None or frame in sizes):
                        _add(images, annotations, frames[frame], rows, sizes[frame] if sizes else None)
                yield portion
            sink.write(b'],\n"annotations": [')
            waiting.seek(0)
            while block := waiting.read(1 << 20):
                sink.write(block)
        sink.write(b"]}\n")

    def _categories(self, library: Library) -> list[dict[str, Any]]:
        """In the order of SOURCES, labels sorted: the same media give the same ids."""
        categories: list[dict[str, Any]] = []
        for source in self._sources:
            names = [source.category]
            if source.label:
                names = library.distinct(source.view, source.label, "x1 IS NOT NULL")
            for name in names:
                category = {"id": len(categories) + 1, "name": name, "supercategory": source.category}
                if source.view == "poses":
                    category |= {"keypoints": list(COCO_POINTS), "skeleton": [list(edge) for edge in SKELETON]}
                categories.append(category)
        return categories

    def _frames(self, library: Library, portion: Portion) -> dict[Frame, dict[str, Any]]:
        """The image of each sampled frame, without its id."""
        names = {medium.media_id: file_name(medium.partition_key, medium.media_id) for medium in portion.media}
        columns = "media_id, frame_index, pts_s, width, height"
        return {
            (row["media_id"], row["frame_index"]): {
                "file_name": f"{names[row['media_id']]}/{row['frame_index']}.jpg",
                **row,
            }
            for row in library.read("frames", portion, columns).to_pylist()
            if row["media_id"] in names
        }

    def _annotations(
        self, library: Library, portion: Portion, ids: Mapping[tuple[str, str], int], people: Mapping[str, str]
    ) -> dict[Frame, list[dict[str, Any]]]:
        """What is to be seen in each frame of these media, in pixels of the displayed picture, without ids."""
        found: dict[Frame, list[dict[str, Any]]] = {}
        for source in self._sources:
            schema = library.schemas[source.view]
            rows = library.read(source.view, portion, order=in_time(schema))
            for own in by_medium(rows).values():
                for row in own.to_pylist():
                    if row["x1"] is None or row["x2"] <= row["x1"] or row["y2"] <= row["y1"]:
                        continue  # a judgement about the whole picture
                    name = row[source.label] if source.label else source.category
                    annotation = _annotation(row, ids[source.category, name])
                    facts = {fact: row[fact] for fact in source.facts if row.get(fact) is not None}
                    if (person := people.get(row.get("person_id") or "")) is not None:
                        facts["person_name"] = person
                    annotation |= {"attributes": facts} if facts else {}
                    found.setdefault((row["media_id"], row["frame_index"]), []).append(annotation)
        return found

    def _written(self, portion: Portion, found: Collection[Frame]) -> Mapping[Frame, tuple[int, int]] | None:
        if self._pictures is None:
            return None
        wanted: dict[str, list[int]] = {}
        for media_id, frame_index in sorted(found):
            wanted.setdefault(media_id, []).append(frame_index)
        return self._pictures.write({m: wanted[m.media_id] for m in portion.media if m.media_id in wanted})


class _List:
    """Members of a JSON list, written one by one; numbers them from 1."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink, self._count = sink, 0

    def add(self, member: Mapping[str, Any]) -> int:
        self._count += 1
        self._sink.write(f"{',' if self._count > 1 else ''}\n{_json({'id': self._count, **member})}".encode())
        return self._count


def _add(images: _List, annotations: _List, image: Row, rows: Sequence[Row], size: tuple[int, int] | None) -> None:
    """One image and what is in it; where its file has another size than the picture as displayed, in pixels of it."""
    width, height = size or (image["width"], image["height"])
    scale = (width / image["width"], height / image["height"])
    number = images.add({**image, "width": width, "height": height})
    for row in rows:
        annotations.add({"image_id": number, **(row if scale == (1, 1) else _scaled(row, *scale))})


def _annotation(row: Row, category: int) -> dict[str, Any]:
    x, y, width, height = (row["x1"], row["y1"], row["x2"] - row["x1"], row["y2"] - row["y1"])
    annotation = {
        "category_id": category,
        "bbox": [_px(x), _px(y), _px(width), _px(height)],
        "area": _px(width * height),
        "iscrowd": 0,
        "score": None if row["score"] is None else round(row["score"], 4),
    }
    if "keypoints" in row:
        points = keypoints(row["keypoints"] or ())
        annotation |= {"keypoints": points, "num_keypoints": sum(v > NOT_LABELLED for v in points[2::3])}
    return annotation


def keypoints(points: Sequence[Row]) -> list[float]:
    """x, y, v of COCO's 17 points in COCO's order, from those of any network that names them alike.

    v is 0 (and x, y too) where the point is not in the picture or not known, 1 where it is hidden, 2 where it is seen.
    """
    known = {point["name"]: point for point in points}
    values: list[float] = []
    for name in COCO_POINTS:
        point = known.get(name)
        if point is None or point["x"] is None or point["y"] is None:
            values += [0, 0, NOT_LABELLED]
        else:
            values += [_px(point["x"]), _px(point["y"]), VISIBLE if point["score"] >= VISIBLE_SCORE else HIDDEN]
    return values


def _scaled(row: Row, across: float, down: float) -> dict[str, Any]:
    x, y, width, height = row["bbox"]
    scaled = dict(row) | {
        "bbox": [_px(x * across), _px(y * down), _px(width * across), _px(height * down)],
        "area": _px(row["area"] * across * down),
    }
    if "keypoints" in row:
        by = (across, down, 1)
        scaled["keypoints"] = [_px(value * by[number % 3]) for number, value in enumerate(row["keypoints"])]
    return scaled


def _px(value: float) -> float:
    return round(value, 2)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
