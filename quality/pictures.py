"""Search for pictures by what they show, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quality import metrics
from quality.area import Bench
from quality.report import Measurement

DEPTH = 5


class Pictures:
    name = "pictures"
    analyzers = ("image_embeddings",)

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        captions: dict[str, set[str]] = {}
        for item in bench.collection.of_kind("image_content"):
            captions.setdefault(item.truth["caption"], set()).add(item.file)
        root = bench.collection.root
        hits = 0
        for caption, right in captions.items():
            paths = [Path(hit.path) for hit in bench.home.search(caption, DEPTH)]
            hits += any(path.relative_to(root).as_posix() in right for path in paths if path.is_relative_to(root))
        yield Measurement(
            f"pictures by caption: the right one among the first {DEPTH}",
            hits / len(captions) if captions else None,
            n=len(captions),
            of="captions",
            interval=metrics.wilson(hits, len(captions)),
            maker=bench.home.maker("image_embeddings"),
        )
