"""NSFW: false alarms on pictures that are safe. What it finds in others is not measured: the collection has none."""

from __future__ import annotations

from collections.abc import Iterator

from quality import metrics
from quality.area import Bench
from quality.report import Measurement

LOWEST = 0.01  # a threshold that shows nearly every score


class Nsfw:
    name = "nsfw"
    analyzers = ("nsfw",)

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        rows = bench.home.rows("nsfw", "label, score, explicit")
        maker = bench.home.maker("nsfw")
        safe = [item.file for item in bench.collection if item.truth.get("moderation") == "safe"]
        alarms = [file for file in safe if any(row["explicit"] for row in rows[file])]
        yield Measurement(
            "nsfw: safe pictures with an explicit finding",
            len(alarms) / len(safe) if safe else None,
            n=len(safe),
            of=f"pictures, {sum('borderline' in bench.collection[file].truth for file in safe)} of them borderline",
            interval=metrics.wilson(len(alarms), len(safe)),
            at_most=0.0,
            maker=maker,
            remark="; ".join(alarms),
        )
        # Nothing else in the collection is meant to be explicit either: faces, scans, cartoons, test pictures.
        judged = {media_id for file, media_id in bench.home.files().items() if not file.startswith("bad/")}
        others = {i for i in self._with_picture(bench) if i in judged}
        wrong = {row["media_id"] for row in bench.home.sql("SELECT DISTINCT media_id FROM nsfw WHERE explicit")}
        yield Measurement(
            "nsfw: pictures and videos of the collection with one",
            len(wrong & others) / len(others) if others else None,
            n=len(others),
            of="media",
            interval=metrics.wilson(len(wrong & others), len(others)),
            maker=maker,
        )
        yield self._highest(bench, safe)

    @staticmethod
    def _with_picture(bench: Bench) -> list[str]:
        return [row["media_id"] for row in bench.home.sql("SELECT DISTINCT media_id FROM frames")]

    @staticmethod
    def _highest(bench: Bench, safe: list[str]) -> Measurement:
        home = bench.extra_home("nsfw-scores", bench.collection.root)
        home.analyze([bench.collection.path(f) for f in safe], ["nsfw"], {"nsfw": {"min_score": LOWEST}})
        rows = home.sql("SELECT label, score FROM nsfw WHERE explicit ORDER BY score DESC LIMIT 1")
        home.close()
        return Measurement(
            "nsfw: highest score of an explicit label on the safe pictures",
            rows[0]["score"] if rows else 0.0,
            "score",
            n=len(safe),
            of="pictures",
            maker=bench.home.maker("nsfw"),
            remark=rows[0]["label"] if rows else f"all below {LOWEST}",
        )
