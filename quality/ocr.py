"""Text in pictures: character error and word recall against pages whose text is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quality import metrics
from quality.area import Bench
from quality.report import Maker, Measurement

# Printed pages whose whole text is known. The page in six languages gives its English and its German sentence.
ENGLISH = ("phototest.tif", "phototestrot.tif", "phototest-rotated-R.png", "8071_093.3B.tif", "en.jpg", "issue_170.png")
SIX_LANGUAGES = "eurotext.tif"
GERMAN = "Der „schnelle” braune Fuchs springt über den faulen Hund."
FRENCH_BEGINS = "Le renard"

Pages = Sequence[tuple[str, str]]  # truth, found


class Ocr:
    name = "ocr"
    analyzers = ("ocr",)

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        rows = bench.home.rows("ocr", "text", order="media_id, frame_index, line_index")
        found = {file: "\n".join(row["text"] for row in lines) for file, lines in rows.items()}
        maker = bench.home.maker("ocr")
        english = [
            (bench.collection[file].truth["text"], found[file])
            for page in ENGLISH
            if (file := f"ocr/{page}") in bench.collection
        ]
        german: list[tuple[str, str]] = []
        if (file := f"ocr/{SIX_LANGUAGES}") in bench.collection:
            english.append((bench.collection[file].truth["text"].split("\nDer ")[0], found[file].split("\nDer ")[0]))
            german.append((GERMAN, _german_sentence(found[file])))
        for language, pages in (("English", english), ("German", german)):
            if pages:
                yield from _scores(language, pages, maker)
        yield self._required(bench, found, maker)
        yield self._nothing_read(bench, found, maker)

    @staticmethod
    def _required(bench: Bench, found: dict[str, str], maker: Maker) -> Measurement:
        """Signs, packages and screens of which only some words are known."""
        wanted = [
            (item.file, text)
            for item in bench.collection.knowing("must_contain")
            for text in item.truth["must_contain"]
        ]
        wanted += [
            (item.file, text)
            for item in bench.collection.knowing("ocr_must_contain")
            for text in item.truth["ocr_must_contain"]
        ]
        wanted = [(file, text) for file, text in wanted if file.startswith(("ocr/", "video/"))]
        hits = sum(_squeezed(text) in _squeezed(found[file]) for file, text in wanted)
        return Measurement(
            "OCR: known inscriptions read (signs, packaging, video)",
            hits / len(wanted) if wanted else None,
            n=len(wanted),
            of="inscriptions",
            interval=metrics.wilson(hits, len(wanted)),
            maker=maker,
        )

    @staticmethod
    def _nothing_read(bench: Bench, found: dict[str, str], maker: Maker) -> Measurement:
        """Pictures of animals and streets without writing."""
        empty = [item.file for item in bench.collection if item.truth.get("text", "") is None]
        empty += [item.file for item in bench.collection.of_kind("ocr") if item.truth.get("text") == ""]
        wrong = sum(bool(found[file].strip()) for file in empty)
        return Measurement(
            "OCR: pictures without text in which some was read",
            wrong / len(empty) if empty else None,
            n=len(empty),
            of="pictures",
            interval=metrics.wilson(wrong, len(empty)),
            maker=maker,
        )


def _scores(language: str, pages: Pages, maker: Maker) -> Iterator[Measurement]:
    edits = [metrics.edits(" ".join(truth.split()), " ".join(text.split())) for truth, text in pages]
    yield Measurement(
        f"OCR: character error, {language}",
        metrics.pooled_error(edits),
        n=len(pages),
        of="pages",
        interval=metrics.bootstrap(edits, metrics.pooled_error),
        at_most=0.05,
        maker=maker,
        remark=f"{sum(length for _, length in edits)} characters",
    )
    total = sum(len(metrics.words(truth)) for truth, _ in pages)
    hits = sum(metrics.recalled(metrics.words(truth), metrics.words(text)) for truth, text in pages)
    yield Measurement(
        f"OCR: words read without error, {language}",
        hits / total,
        n=total,
        of="words",
        interval=metrics.wilson(hits, total),
        at_least=0.95,
        maker=maker,
    )


def _german_sentence(text: str) -> str:
    """From the line that begins with "Der" to the one that goes on in French."""
    joined = " ".join(text.split())
    start = max(joined.find("Der "), 0)
    end = joined.find(FRENCH_BEGINS, start)
    return joined[start : end if end >= 0 else None].strip()


def _squeezed(text: str) -> str:
    return "".join(text.split()).casefold()
