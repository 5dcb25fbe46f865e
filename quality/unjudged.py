"""Analyzers for which the collection has no known answers: that they run, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator

from quality.area import Bench
from quality.report import Measurement, absent

_REMARK = "no known answers here: shows that it runs, and says nothing about how well"


def unjudged(bench: Bench, names: list[str]) -> Iterator[Measurement]:
    for name in names:
        missing = bench.home.missing([name])
        if missing:
            yield absent(name, missing)
            continue
        counts = bench.home.sql(f"SELECT count(*) AS rows, count(DISTINCT media_id) AS media FROM {name}")[0]  # noqa: S608
        yield Measurement(
            f"{name}: rows",
            float(counts["rows"]),
            "count",
            n=counts["media"],
            of="media",
            maker=bench.home.maker(name),
            remark=_REMARK,
        )
