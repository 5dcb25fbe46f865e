"""Near-duplicates: all that are, and none that are not.

A near-duplicate is the same picture or video under another size, format or compression. What of this collection is
one, is decided here, by file name, and by the groups in the manifest:

- a group of the manifest: every pair of its members;
- `SAME_SPAN`: the same three seconds of a film, encoded anew three times;
- copies that were turned or mirrored, excerpts beside the whole film, and an icon of 16 x 16 pixels are reported apart;
- damaged files (folder `bad`) and those in `LEFT_OUT` are not judged.
"""

from __future__ import annotations

from collections.abc import Collection as AnyCollection
from collections.abc import Iterator
from itertools import combinations

from quality import metrics
from quality.area import Bench
from quality.collection import Collection
from quality.report import Maker, Measurement

Pair = frozenset[str]

SAME_SPAN = ("video/chaplin_mpeg4.avi", "video/chaplin_mjpeg_noaudio.mov", "video/vfr_chaplin.mp4")
WHOLE_FILM = "video/chaplin.mp4"
ICON = "formats/hopper.ico"
TURNED = (
    ("faces/P01_img11.jpg", "faces/P01_img11_mirrored.jpg"),
    ("ocr/phototest.tif", "ocr/phototestrot.tif"),
    ("ocr/phototest.tif", "ocr/phototest-rotated-R.png"),
    ("ocr/phototestrot.tif", "ocr/phototest-rotated-R.png"),
    *((film, "video/rotated90_chaplin.mp4") for film in (*SAME_SPAN, WHOLE_FILM)),
)
# Put together from four others; one photograph in grey and in another cut, of which the manifest does not say so.
LEFT_OUT = ("video/scenes_4shots.mp4", "formats/hopper_16bit.pgm", "faces/grace_hopper.bmp")


class Duplicates:
    name = "duplicates"
    analyzers: tuple[str, ...] = ()  # comes with every run, from the frames

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        files = bench.home.files()
        by_medium: dict[str, list[str]] = {}
        for file, media_id in files.items():
            by_medium.setdefault(media_id, []).append(file)
        found = {
            frozenset((left, right))
            for row in bench.home.sql("SELECT media_id, other_id FROM duplicate_pairs")
            for left in by_medium.get(row["media_id"], ())
            for right in by_medium.get(row["other_id"], ())
        }
        wanted, apart = _truth(bench.collection)
        # Files of the same bytes are one medium, which is no pair.
        files_judged = [next(filter(_is_judged, same), None) for same in by_medium.values()]
        judged = {frozenset(pair) for pair in combinations(filter(None, files_judged), 2)} - apart
        counts = metrics.set_counts(wanted & judged, found & judged)
        maker = Maker("64-bit DCT hash")
        yield Measurement(
            "near-duplicates: recall",
            counts.recall,
            n=counts.hits + counts.missed,
            of="pairs",
            interval=metrics.wilson(counts.hits, counts.hits + counts.missed),
            at_least=1.0,
            maker=maker,
            remark=_named("missed", (wanted & judged) - found),
        )
        yield Measurement(
            "near-duplicates: precision",
            counts.precision,
            n=counts.hits + counts.extra,
            of="pairs",
            interval=metrics.wilson(counts.hits, counts.hits + counts.extra),
            at_least=1.0,
            maker=maker,
            remark=_named("wrong", (found & judged) - wanted) or f"of {len(judged)} pairs that were compared",
        )
        excerpts, icons = [{file, WHOLE_FILM} for file in SAME_SPAN], [pair for pair in apart if ICON in pair]
        for what, pairs, remark in (
            ("excerpts found beside the whole film", excerpts, ""),
            ("turned and mirrored copies found", TURNED, "they are not looked for"),
            ("a 16 x 16 icon found beside its picture", icons, "too few pixels to hash"),
        ):
            there = [frozenset(pair) for pair in pairs if files.keys() >= set(pair)]
            if there:
                hits = sum(pair in found for pair in there)
                yield Measurement(
                    f"near-duplicates: {what}", hits / len(there), n=len(there), of="pairs", maker=maker, remark=remark
                )


def _truth(collection: Collection) -> tuple[set[Pair], set[Pair]]:
    """(pairs that are near-duplicates, pairs that are reported apart)."""
    groups: dict[str, list[str]] = {"same span": list(SAME_SPAN)}
    for item in collection.knowing("near_duplicate_group"):
        groups.setdefault(item.truth["near_duplicate_group"], []).append(item.file)
    wanted = {frozenset(pair) for members in groups.values() for pair in combinations(members, 2)}
    apart = {frozenset(pair) for pair in TURNED} | {frozenset((file, WHOLE_FILM)) for file in SAME_SPAN}
    icons = {pair for pair in wanted if ICON in pair}
    return wanted - icons, apart | icons


def _is_judged(file: str) -> bool:
    return not file.startswith("bad/") and file not in LEFT_OUT


def _named(what: str, pairs: AnyCollection[Pair]) -> str:
    names = sorted(" and ".join(sorted(file.rpartition("/")[2] for file in pair)) for pair in pairs)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}: {', '.join(names[:3])}{more}" if names else ""
