"""`make demo`: make sample media, analyse them with the models that came with the packages, show what was found.

Everything goes through the command line that users have; each command is shown before its answer. Ends with 1 when
the answers are not what the samples contain.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo.samples import Sample, make_samples

FOLDER = Path("data/demo")
HOME = FOLDER / "home"
SAMPLES = FOLDER / "samples"
EXIT_SOME_FAILED = 3  # expected: two of the samples are broken on purpose
# English speech, no downloads, only the models inside the installed packages.
SETTINGS = {"LANGUAGE": "en", "OFFLINE": "1", "TIER": "embedded"}

SAID = """SELECT m.name AS file, t.start_s, t.text
FROM transcript t JOIN media m USING (media_id) ORDER BY file, t.start_s"""
READ = """SELECT m.name AS file, CASE m.kind WHEN 'video' THEN min(o.pts_s) END AS at_s, o.text
FROM ocr o JOIN media m USING (media_id)
GROUP BY file, m.kind, o.text ORDER BY file, min(o.pts_s), min(o.line_index)"""
SCENES = """SELECT m.name AS file, s.scene_index AS scene, s.start_s, s.end_s
FROM scenes s JOIN media m USING (media_id) WHERE m.kind = 'video' ORDER BY file, scene"""
TWINS = """SELECT m.name AS file, o.name AS nearly_the_same_as
FROM media m JOIN media o ON m.duplicate_of = o.media_id ORDER BY file"""
MODELS = "SELECT DISTINCT analyzer, model FROM analyses WHERE status = 'done' AND model IS NOT NULL ORDER BY analyzer"

# In a terminal the width is the terminal's; in a log or a pipe 80 columns would cut the tables short.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def main() -> int:
    started = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    samples = make_samples(SAMPLES)
    title("Sample media", f"made in {SAMPLES}")
    show([{"file": s.path.name, "bytes": s.path.stat().st_size, "what it is": describe(s)} for s in samples])

    title("Analysis")
    report = json.loads(command("analyze", str(SAMPLES), "--format", "json", allowed=(0, EXIT_SOME_FAILED)))
    console.print(f"{report['files']} files, {report['done']} done")

    answers = {
        "What was said": sql(SAID, "What was said", "a draft: the small model knows English only"),
        "What was read": sql(READ, "What was read", "the turned page and the columns included"),
        "Where scenes begin": sql(SCENES, "Where scenes begin"),
        "Near-duplicates": sql(TWINS, "Near-duplicates"),
        "Models": sql(MODELS, "Which models said so"),
        "Search in English": search("When is the contract signed?"),
        "Search in German": search("Rechnung bezahlen"),
    }
    title("What could not be used", "and why; the others were not held up")
    failures = [{"file": Path(f["path"]).name, "reason": f["reason"]} for f in [*report["failed"], *report["refused"]]]
    show(failures)

    console.print(f"\nDone in {time.monotonic() - started:.0f} s. Next:")
    console.print(
        f"  .venv/bin/media-pipeline --home {HOME} serve   these in the browser: http://127.0.0.1:3000\n"
        "  make serve                                          your own: copy files into data/inbox\n"
        f"  .venv/bin/media-pipeline --home {HOME} sql …   ask more; README.md has questions to start with",
        markup=False,
    )
    return verdict(samples, answers, failures)


def verdict(samples: Sequence[Sample], answers: dict[str, list[Any]], failures: Sequence[dict[str, str]]) -> int:
    """0 when every question had an answer and exactly the broken samples failed, else 1 and why."""
    wrong = [f"{question}: no answer" for question, rows in answers.items() if not rows]
    expected = {s.path.name for s in samples if s.broken}
    failed = {f["file"] for f in failures}
    if failed != expected:
        wrong.append(f"failed: {sorted(failed)}, broken on purpose: {sorted(expected)}")
    for line in wrong:
        console.print(f"[bold red]demo:[/] {escape(line)}")
    return 1 if wrong else 0


def describe(sample: Sample) -> str:
    if sample.broken:
        return "broken on purpose"
    parts: list[str] = [str(sample.kind)]
    parts += [f"{len(sample.texts)} lines in {'German' if sample.language == 'de' else 'English'}"] * bool(sample.texts)
    parts += [f"turned by {sample.turned_deg}°"] * bool(sample.turned_deg)
    parts += [f"{len(sample.cuts_s) + 1} scenes"] * bool(sample.cuts_s)
    parts += [f"{len(sample.spoken)} spoken sentences"] * bool(sample.spoken)
    parts += [f"a smaller copy of {sample.duplicate_of}"] * (sample.duplicate_of is not None)
    return ", ".join(parts)


def sql(query: str, heading: str, note: str = "") -> list[dict[str, Any]]:
    title(heading, note)
    rows: list[dict[str, Any]] = json.loads(command("sql", query, "--format", "json"))
    show(rows)
    return rows


def search(question: str) -> list[dict[str, Any]]:
    title(f"Search: {question}")
    hits = json.loads(command("search", "--text", question, "-k", "3", "--format", "json"))
    rows = [
        {
            "file": hit["name"],
            "at_s": None if hit["kind"] == "image" else hit["pts_s"],
            "found": hit["snippet"],
            "in": hit["source"],
            "by": hit["why"],
        }
        for hit in hits
    ]
    show(rows)
    return rows


def command(*arguments: str, allowed: Sequence[int] = (0,)) -> str:
    """Run the command line as a user would and return what it prints; its progress stays on the screen."""
    # As a person would type it: the table is the default, JSON only what this program reads.
    typed = [" ".join(a.split()) for a in arguments if a not in ("--format", "json")]
    shown = " ".join(f'"{a}"' if " " in a else a for a in typed)
    console.print(f"[dim]$ media-pipeline --home {HOME} {escape(shown)}[/]")
    program = Path(sys.executable).with_name("media-pipeline")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MEDIA_PIPELINE_")}
    environment |= {f"MEDIA_PIPELINE_{name}": value for name, value in SETTINGS.items()}
    done = subprocess.run(
        [program, "--home", HOME, *arguments], stdout=subprocess.PIPE, text=True, env=environment, check=False
    )
    if done.returncode not in allowed:
        sys.exit(f"demo: media-pipeline {arguments[0]} ended with {done.returncode}")
    return done.stdout


def title(text: str, note: str = "") -> None:
    console.print(f"\n[bold cyan]{escape(text)}[/]" + (f" [dim]({escape(note)})[/]" if note else ""))


def show(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        console.print("nothing", style="yellow")
        return
    table = Table(show_header=True, header_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in rows[0]:
        numbers = all(isinstance(row[column], int | float | None) for row in rows)
        table.add_column(column, justify="right" if numbers else "left")
    previous = None
    for row in rows:
        cells = [cell(value) for value in row.values()]
        if cells[0] == previous:
            cells[0] = ""  # one name per group reads better than a column of the same name
        else:
            previous = cells[0]
        table.add_row(*cells)
    console.print(table)


def cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else escape(str(value))


if __name__ == "__main__":
    sys.exit(main())
