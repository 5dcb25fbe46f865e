"""`make demo`: make sample media, analyse them with the models that came with the packages, show what was found.

Everything goes through the command line that users have; each command is shown before its answer, long queries
shortened. Ends with 1 when a question has no answer, or other files failed than the broken ones.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo import questions
from demo.pictures import render_logo, write_picture
from demo.samples import Sample, make_samples
from media_pipeline import cli

FOLDER = Path("data/demo")
HOME = FOLDER / "home"
SAMPLES = FOLDER / "samples"
EXIT_SOME_FAILED = 3  # expected: two of the samples are broken on purpose
# English speech, no downloads, only the models inside the installed packages.
SETTINGS = {"HOME": str(HOME), "LANGUAGE": "en", "OFFLINE": "1", "TIER": "embedded"}

LOGO = HOME / "logos" / "Pharos Museum.png"
SHOWN_CHARS = 84  # of a query; all of them are in questions.py


@dataclass(frozen=True, slots=True)
class Question:
    """One call of the command line that answers in JSON, and how the answer is shown."""

    heading: str
    arguments: tuple[str, ...]
    note: str = ""
    in_full: bool = False  # show the whole command
    row: Callable[[dict[str, Any]], dict[str, Any]] = dict


# In a terminal the width is the terminal's; in a log or a pipe 80 columns would cut the tables short.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def main() -> int:
    started = time.monotonic()
    use_settings()
    shutil.rmtree(FOLDER, ignore_errors=True)
    samples = make_samples(SAMPLES)
    LOGO.parent.mkdir(parents=True)
    write_picture(LOGO, render_logo(420))
    title("Sample media", f"made in {SAMPLES}; the people are drawn, the voices synthetic")
    show([{"file": s.path.name, "kB": s.path.stat().st_size / 1000, "what it is": describe(s)} for s in samples])

    title("Analysis", " ".join(f"MEDIA_PIPELINE_{name}={value}" for name, value in SETTINGS.items()))
    report = analysis("analyze", str(SAMPLES), "--format", "json")
    console.print(f"{report['files']} files, {report['done']} done")
    for analyzer, reason in report["unavailable"].items():
        console.print(f"[yellow]left out: {analyzer}[/] [dim]({escape(reason)})[/]")

    answers = ask(
        sql("What was read", questions.READ, "the turned page and the columns included"),
        sql("Key sentences", questions.SUMMARY, "of what holds enough text"),
        sql("Scenes of the video, and their titles", questions.SCENES),
        sql("Where the logo is", questions.LOGOS, f"its picture lies in {LOGO.parent}"),
        sql("Near-duplicates", questions.TWINS),
        sql("Who is that?", questions.CAPTIONED, "who is seen and heard while a name stands below"),
    )
    for row in answers["Who is that?"]:
        for kind, identity in (("persons", row["person_id"]), ("voices", row["voice_id"])):
            arguments = (kind, "name", identity, row["caption"])
            show_command(arguments)
            console.print(output_of(arguments).strip(), markup=False)
    answers |= ask(
        sql("Who is where", questions.WHO, "named once, known everywhere; the others keep their numbers"),
        sql("Who said what", questions.SAID, "a draft: the small model knows English only"),
        sql("When is Anna Berg to be seen while 'concert' is said?", questions.SEEN_WHILE_SAID, in_full=True),
        search("When is the contract signed?"),
        search("Rechnung bezahlen"),
    )
    title("What could not be used", "and why; the others were not held up")
    failures = [{"file": Path(f["path"]).name, "reason": f["reason"]} for f in [*report["failed"], *report["refused"]]]
    show(failures)

    console.print(f"\nDone in {time.monotonic() - started:.0f} s. Next:")
    console.print(
        f"  .venv/bin/media-pipeline --home {HOME} serve   these in the browser: http://127.0.0.1:3000\n"
        "  make serve                                          your own: copy files into data/inbox\n"
        f"  .venv/bin/media-pipeline --home {HOME} sql …   ask more; demo/questions.py has some to start with",
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
    parts += [f"{len(sample.spoken)} sentences by {len(set(sample.heard))} voices"] * bool(sample.spoken)
    parts += [f"shows {' and '.join(sample.seen)}"] * bool(sample.seen)
    parts += ["with a logo"] * sample.has_logo
    parts += [f"a smaller copy of {sample.duplicate_of}"] * (sample.duplicate_of is not None)
    return ", ".join(parts)


def use_settings() -> None:
    """For this process and those it starts: the user's own settings must not change what is shown."""
    for name in [name for name in os.environ if name.startswith("MEDIA_PIPELINE_")]:
        del os.environ[name]
    os.environ.update({f"MEDIA_PIPELINE_{name}": value for name, value in SETTINGS.items()})


def analysis(*arguments: str) -> dict[str, Any]:
    """The report of `analyze`, a process of its own; its progress stays on the screen."""
    show_command(arguments)
    program = Path(sys.executable).with_name("media-pipeline")
    done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, EXIT_SOME_FAILED):
        sys.exit(f"demo: media-pipeline {arguments[0]} ended with {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def sql(heading: str, query: str, note: str = "", *, in_full: bool = False) -> Question:
    return Question(heading, ("sql", query, "--format", "json"), note, in_full)


def search(text: str) -> Question:
    arguments = ("search", "--text", text, "-k", "3", "--format", "json")
    return Question(f"Search: {text}", arguments, in_full=True, row=hit)


def hit(found: dict[str, Any]) -> dict[str, Any]:
    """Of what a search found, what fits a line."""
    return {
        "file": found["name"],
        "at_s": None if found["kind"] == "image" else found["pts_s"],
        "found": found["snippet"],
        "in": found["source"],
        "by": found["why"],
    }


def ask(*asked: Question) -> dict[str, list[dict[str, Any]]]:
    """Ask and show; the answers by heading."""
    answers = {}
    for question in asked:
        title(question.heading, question.note)
        show_command(question.arguments, in_full=question.in_full)
        answers[question.heading] = [question.row(row) for row in json.loads(output_of(question.arguments))]
        show(answers[question.heading])
    return answers


def show_command(arguments: Sequence[str], *, in_full: bool = False) -> None:
    """As a person would type it: the table is the default, JSON only what this program reads."""
    typed = [a for a in arguments if a not in ("--format", "json")]
    if not in_full:
        typed = [shorten(a, SHOWN_CHARS, placeholder=" …") for a in typed]
    shown = " ".join(f'"{a}"' if " " in a else a for a in typed)
    console.print(f"[dim]$ media-pipeline {escape(shown)}[/]")


def output_of(arguments: Sequence[str]) -> str:
    """What the command line prints. It runs in this process: starting Python takes longer than most answers."""
    screen = io.TextIOWrapper(io.BytesIO(), "utf-8")
    code: object = 0
    with redirect_stdout(screen):
        try:
            cli.main(list(arguments))
        except SystemExit as end:
            code = end.code
    if code:
        sys.exit(f"demo: media-pipeline {arguments[0]} ended with {code}")
    screen.flush()
    return screen.buffer.getvalue().decode()


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
