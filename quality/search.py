"""Search: whether the file that answers a question is among the first hits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quality import metrics
from quality.area import Bench
from quality.report import Measurement

DEPTH = 5
MOMENTS = 3  # of one file among the hits, at most
# Words that stand in the file, and questions that share no important word with it.
BY_WORDS = (
    ("quick brown dog lazy fox", "ocr/phototest.tif"),
    ("desperately in love for the first time", "ocr/8071_093.3B.tif"),
    ("large-scale shot type annotation set", "ocr/en.jpg"),
    ("Alphabetum Latinum", "ocr/latin.jpg"),
    ("Palais du Louvre", "ocr/sign_french.jpg"),
    ("no litter", "ocr/sign_japanese.jpg"),
    ("white cheddar", "ocr/logo_missvickie.jpg.bmp"),
    ("027-88852022", "ocr/return_word_debug.jpg"),
)
BY_MEANING = (
    ("a teenage girl unhappy with her feelings", "ocr/8071_093.3B.tif"),
    ("collection of films labelled by camera distance", "ocr/en.jpg"),
    ("museum in Paris", "ocr/sign_french.jpg"),
    ("do not throw rubbish on the street", "ocr/sign_japanese.jpg"),
    ("cheese flavoured snack", "ocr/logo_missvickie.jpg.bmp"),
    ("unwanted mail from a web address", "ocr/eurotext.tif"),
)


class Search:
    name = "search"
    analyzers = ("ocr", "text_embeddings")

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        maker = bench.home.maker("text_embeddings")
        for what, questions in (("by words", BY_WORDS), ("by meaning", BY_MEANING)):
            known = [(query, file) for query, file in questions if file in bench.collection]
            missed = [query for query, file in known if file not in self._hits(bench, query)]
            hits = len(known) - len(missed)
            yield Measurement(
                f"search {what}: the right file among the first {DEPTH}",
                hits / len(known) if known else None,
                n=len(known),
                of="questions",
                interval=metrics.wilson(hits, len(known)),
                maker=maker,
                remark=f"not found: {', '.join(missed)}" if missed else "",
            )

    @staticmethod
    def _hits(bench: Bench, query: str) -> list[str]:
        root = bench.collection.root
        # Several moments of one file are one answer.
        paths = [Path(hit.path) for hit in bench.home.search(query, MOMENTS * DEPTH)]
        # Turned copies of a page hold the same text: any of them answers.
        files = [_upright(path.relative_to(root).as_posix()) for path in paths if path.is_relative_to(root)]
        return list(dict.fromkeys(files))[:DEPTH]


def _upright(file: str) -> str:
    return "ocr/phototest.tif" if file.startswith("ocr/phototest") else file
