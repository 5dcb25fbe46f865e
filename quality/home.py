"""A home of the product's that only this measurement uses: analysed by the command line, asked in SQL."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection as AnyCollection
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.measure import Usage, measure
from media_pipeline.config import load_settings
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.results.search import Hit, Questions, search
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.query import run_query
from quality.report import Maker

Options = Mapping[str, Mapping[str, object]]  # by analyzer and option

EXIT_CODES = (0, 3)  # all done; some files failed, which is expected of a collection with broken ones


class AnalysisFailed(Exception):
    """The command line ended otherwise than it may."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one analyzer has used in this home."""

    unit: str  # "frame" | "audio_s" | "medium"
    units: float
    cpu_s: float

    @property
    def shown(self) -> str:
        """ "38 ms/frame" or "RTF 0.02", in two digits: more would differ from run to run."""
        each = self.cpu_s / self.units
        return f"RTF {_two_digits(each)}" if self.unit == "audio_s" else f"{_two_digits(1000 * each)} ms/{self.unit}"


class Home:
    """Analyse and ask.

    Args:
        folder: of the home; made when it is not there.
        media: the folder whose files are named by `files`.
        env: settings for every analysis, by the name of the environment variable.
    """

    def __init__(self, folder: Path, media: Path, env: Mapping[str, str] | None = None) -> None:
        self.folder, self.media = folder, media
        self._env = {"MEDIA_PIPELINE_OFFLINE": os.environ.get("MEDIA_PIPELINE_OFFLINE", "1"), **(env or {})}

    def analyze(
        self,
        paths: Sequence[Path],
        analyzers: AnyCollection[str] | None = None,
        options: Options | None = None,
    ) -> Usage:
        """`media-pipeline analyze` in a process of its own.

        Args:
            analyzers: only these and what they need; all when None.
            options: of analyzers, by name, for this analysis.

        Raises:
            AnalysisFailed: with the last lines it printed.
        """
        only = [] if analyzers is None else ["--analyzers", ",".join(analyzers)]
        command = [sys.executable, "-m", "media_pipeline", "--home", str(self.folder), "analyze", "--format", "json"]
        env = self._env | _as_environment(options or {})
        usage = measure([*command, *only, "--", *map(str, paths)], env)
        if usage.exit_code not in EXIT_CODES:
            raise AnalysisFailed(f"analyze ended with {usage.exit_code}: …{usage.output.strip()[-600:]}")
        return usage

    def search(self, text: str, k: int) -> list[Hit]:
        """Hits of `media-pipeline search --text`, best first."""
        p = self.pipeline
        return search(p.tables, p.layout, p.settings, p.models, Questions(text), k)

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Rows of one reading statement, as `media-pipeline sql` gives them."""
        rows: list[dict[str, Any]] = run_query(self.pipeline.catalog, query, self.pipeline.settings.sql).to_pylist()
        return rows

    def rows(self, view: str, columns: str = "*", order: str = "") -> dict[str, list[dict[str, Any]]]:
        """Rows of one view by file of the collection; a file without rows has an empty list.

        Files of the same content are one medium and have the same rows.
        """
        by_medium: dict[str, list[dict[str, Any]]] = {}
        sorting = f" ORDER BY {order}" if order else ""
        for row in self.sql(f"SELECT media_id, {columns} FROM {view}{sorting}"):  # noqa: S608 - our own words
            by_medium.setdefault(row["media_id"], []).append(row)
        return {file: by_medium.get(media_id, []) for file, media_id in self.files().items()}

    def files(self) -> dict[str, str]:
        """media_id by file of the collection."""
        rows = self.sql("SELECT path, media_id FROM sources WHERE media_id IS NOT NULL")
        inside = [(Path(row["path"]), row["media_id"]) for row in rows]
        return {p.relative_to(self.media).as_posix(): i for p, i in inside if p.is_relative_to(self.media)}

    def missing(self, analyzers: AnyCollection[str]) -> str | None:
        """Why one of these analyzers has no results here, or None."""
        known = {view.lower() for view in self.pipeline.catalog.names}
        for name in analyzers:
            if name not in known:
                return f"there is no analyzer {name}"
            rows = self.sql(
                "SELECT count(*) FILTER (status = 'done' AND model IS NOT NULL) AS done,"  # noqa: S608
                f" any_value(reason) FILTER (status = 'unavailable') AS reason FROM analyses WHERE analyzer = '{name}'"
            )
            if not rows[0]["done"]:
                # A page for everybody names no folder of this machine.
                reason = (rows[0]["reason"] or "it has not run").replace(str(self.folder), "<home>")
                return f"{name}: {reason}"
        return None

    def maker(self, analyzer: str) -> Maker:
        rows = self.sql(
            "SELECT DISTINCT model FROM analyses WHERE model IS NOT NULL AND status = 'done'"  # noqa: S608
            f" AND analyzer = '{analyzer}' ORDER BY model"
        )
        cost = self.cost(analyzer)
        return Maker(", ".join(row["model"] for row in rows), cost.shown if cost else "")

    def cost(self, analyzer: str) -> Cost | None:
        """What the product has learnt here of the analyzer's cost, all its models together; None where nothing."""
        sums = self.sql(
            "SELECT sum(frames) AS frame, sum(audio_s) AS audio_s, sum(media) AS medium, sum(cpu_s) AS cpu_s"  # noqa: S608
            f" FROM analyzer_costs WHERE analyzer = '{analyzer}'"
        )[0]
        unit = next((unit for unit in ("frame", "audio_s", "medium") if sums[unit]), None)
        return Cost(unit, sums[unit], sums["cpu_s"]) if unit else None

    def forget_costs(self) -> None:
        """What is learnt from here on is of the next analysis alone."""
        self.close()
        for file in self.folder.glob(f"{Layout(self.folder).costs.name}*"):
            file.unlink()

    def close(self) -> None:
        """Let go of the files; the next question opens them again."""
        if "pipeline" in self.__dict__:
            self.pipeline.close()
            del self.pipeline

    @cached_property
    def pipeline(self) -> Pipeline:
        return Pipeline(load_settings(home=self.folder))


def _as_environment(options: Options) -> dict[str, str]:
    return {
        f"MEDIA_PIPELINE_OPTIONS__{analyzer}__{option}".upper(): str(value)
        for analyzer, given in options.items()
        for option, value in given.items()
    }


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"
