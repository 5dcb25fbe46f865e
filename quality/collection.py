"""Media with known answers: a folder with a `MANIFEST.json` that says of each file what is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class CollectionMissing(Exception):
    """There is nothing to measure with; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file of the collection."""

    file: str  # relative to the collection, with forward slashes
    kind: str  # "speech", "ocr", "face_reid" …
    truth: Mapping[str, Any]


class Collection:
    """The files of one folder and what is known of them.

    Raises:
        CollectionMissing: the folder or its manifest is not there or cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        try:
            listed = json.loads((self.root / "MANIFEST.json").read_text(encoding="utf-8"))["files"]
            self._items = {e["file"]: Item(e["file"], e["kind"], e.get("ground_truth") or {}) for e in listed}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CollectionMissing(
                f"no collection of media in {root} ({type(error).__name__}: {error}); name a folder with a "
                "MANIFEST.json: `make quality MEDIA=/path/to/media`"
            ) from error

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, file: str) -> Item:
        return self._items[file]

    def __contains__(self, file: object) -> bool:
        return file in self._items

    def path(self, file: str) -> Path:
        return self.root / file

    def of_kind(self, *kinds: str) -> list[Item]:
        return [item for item in self if item.kind in kinds]

    def knowing(self, *keys: str) -> list[Item]:
        """The files whose truth has all of these entries."""
        return [item for item in self if all(item.truth.get(key) is not None for key in keys)]
