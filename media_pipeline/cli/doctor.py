"""`doctor`: every dependency, model tier, disk and memory, each with its remedy."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.markup import escape

from media_pipeline.cli import _tables
from media_pipeline.cli.context import App
from media_pipeline.config import GIB

Level = Literal["ok", "warning", "error"]
# Import name by distribution: what the product cannot do without.
PACKAGES = {
    "dagster": "dagster",
    "dagster-webserver": "dagster_webserver",
    "torch": "torch",
    "opencv-python-headless": "cv2",
    "faiss-cpu": "faiss",
    "faster-whisper": "faster_whisper",
    "rapidocr": "rapidocr",
    "paddleocr": None,  # importing it alone takes seconds; its presence is enough
    "open_clip_torch": None,
    "duckdb": "duckdb",
    "pyarrow": "pyarrow",
    "deltalake": "deltalake",
    "av": "av",
    "pillow": "PIL",
    "pillow-heif": "pillow_heif",
    "scenedetect": "scenedetect",
    "pocketsphinx": "pocketsphinx",
    "onnxruntime": "onnxruntime",
}
# What may stand in another's place: on a machine with a GPU.
INSTEAD = {"onnxruntime": "onnxruntime-gpu"}
OTHER_OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    level: Level
    found: str
    remedy: str | None = None


@click.command()
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def doctor(app: App, format_: str) -> int:
    """Check every dependency, model, disk and memory; say what to do. Exit code 1 when something is broken."""
    checks = list(_checks(app))
    if format_ == "json":
        click.echo(json.dumps([asdict(check) for check in checks], ensure_ascii=False, indent=2))
    else:
        _print(_tables.output(), checks)
    return 1 if any(check.level == "error" for check in checks) else 0


def _checks(app: App) -> Iterator[Check]:
    yield _python()
    yield from _packages()
    sections: tuple[Callable[[App], Iterator[Check]], ...] = (_home, _machine, _analyzers, _instance)
    for section in sections:
        yield from section(app)


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info < (3, 13):
        return Check("python", "ok", found)
    return Check("python", "error", found, "use Python 3.11 or 3.12 and run `make setup` again")


def _packages() -> Iterator[Check]:
    for distribution, module in PACKAGES.items():
        instead = INSTEAD.get(distribution)
        try:
            found = version(instead) if instead and _installed(instead) else version(distribution)
            if module:
                importlib.import_module(module)
        except PackageNotFoundError:
            yield Check(distribution, "error", "not installed", "run `make setup`")
        except Exception as error:  # a broken native library can raise anything while it is imported
            yield Check(distribution, "error", f"{type(error).__name__}: {error}", "run `make clean setup`")
        else:
            yield Check(distribution, "ok", found)
    rivals = [name for name in OTHER_OPENCV if _installed(name)]
    if rivals:
        yield Check("opencv", "error", f"{', '.join(rivals)} beside opencv-python-headless", "run `make clean setup`")


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _home(app: App) -> Iterator[Check]:
    from media_pipeline.storage.layout import Layout

    home = app.settings.home
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    writable = os.access(home, os.W_OK)
    yield Check("home", "ok" if writable else "error", str(home), None if writable else "give this user write access")
    if home.stat().st_mode & 0o077:  # it holds faces and voices
        yield Check("privacy", "warning", f"other users of this machine may look into {home}", f"chmod 700 '{home}'")
    free = shutil.disk_usage(home).free
    enough = free >= app.settings.min_free_bytes
    yield Check("disk", "ok" if enough else "error", f"{free / GIB:.1f} GiB free", None if enough else "make room")
    open_erasures = len(list(Layout(home).erasures.glob("*.json")))
    if open_erasures:
        remedy = "`media-pipeline erase --resume` goes on and says what is left"
        yield Check("erasures", "error", f"{open_erasures} not finished", remedy)
    for inbox in app.settings.watched:
        there = inbox.is_dir() or inbox == app.layout.inbox
        yield Check("inbox", "ok" if there else "warning", str(inbox), None if there else f"mkdir -p '{inbox}'")


def _machine(app: App) -> Iterator[Check]:
    import psutil

    total = min(psutil.virtual_memory().total, _container_limit())
    enough = total >= 4 * GIB
    yield Check(
        "memory",
        "ok" if enough else "warning",
        f"{total / GIB:.1f} GiB, {min(total, psutil.virtual_memory().available) / GIB:.1f} GiB available",
        None if enough else "4 GiB are the least; lower MEDIA_PIPELINE_WORKERS and MEDIA_PIPELINE_BATCH__MAX_MEDIA",
    )
    yield Check("cores", "ok", f"{app.settings.thread_count} used")
    yield from _gpu()


def _gpu() -> Iterator[Check]:
    """A library that cannot use a GPU that is there is a warning of its own: its analyzers compute on the CPU."""
    from media_pipeline.analyzers import _device

    if not _device.has_gpu():
        yield Check("gpu", "ok", "none here; one can be rented (MEDIA_PIPELINE_GPU__TARGET)")
        return
    found = _device.report()
    usable = [library for library, state in found.libraries.items() if state == _device.CUDA]
    memory = f", {found.free_vram_mb / 1024:.1f} GiB free" if found.free_vram_mb is not None else ""
    computing = f"{', '.join(usable)} compute on it" if usable else "nothing computes on it"
    yield Check("gpu", "ok" if usable else "warning", f"{found.gpu or 'NVIDIA'}{memory}; {computing}")
    for state in found.libraries.values():
        if state != _device.CUDA:
            cause, _, remedy = state.rpartition("; ")
            yield Check("gpu", "warning", cause or state, remedy if cause else None)


def _container_limit() -> float:
    """Bytes this container may use; infinity outside one."""
    for file in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            return float(file.read_text())
        except (OSError, ValueError):  # not there, or the word "max"
            continue
    return float("inf")


def _analyzers(app: App) -> Iterator[Check]:
    """Each analyzer's model and tier as a run would choose them now."""
    from media_pipeline.analyzers._models import ModelStore
    from media_pipeline.analyzers._registry import registry
    from media_pipeline.errors import ModelUnavailable
    from media_pipeline.execution.stages import options_for

    models = ModelStore.of(app.settings, fetch=False)  # looking must not download anything
    for spec in registry().values():
        try:
            choice = spec.choose(options_for(spec, app.settings), models)
        except ModelUnavailable as error:
            yield Check(spec.name, "warning", f"unavailable: {error.cause}", error.remedy)
        else:
            yield Check(
                spec.name, "warning" if choice.warning else "ok", f"{choice.name}, {choice.tier}", choice.warning
            )


def _instance(app: App) -> Iterator[Check]:
    from media_pipeline.engine.instance import open_instance

    try:
        with open_instance(app.settings) as instance:
            partitions = len(instance.get_dynamic_partitions("media"))
    except Exception as error:  # whatever keeps Dagster's storage from opening is the finding
        yield Check(
            "dagster instance", "error", f"{type(error).__name__}: {error}", f"look at {app.settings.dagster_home}"
        )
    else:
        yield Check("dagster instance", "ok", f"{app.settings.dagster_home}, {partitions} partitions")


def _print(console: Console, checks: list[Check]) -> None:
    marks = {"ok": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "error": "[red]error[/]  "}
    for check in checks:
        console.print(
            f"{marks[check.level]} [bold]{check.name}[/]: {escape(check.found)}", highlight=False, soft_wrap=True
        )
        if check.remedy:
            console.print(f"        → {escape(check.remedy)}", highlight=False, soft_wrap=True)
