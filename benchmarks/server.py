"""What a server of some size does: files per hour, latency while it is busy, memory, disk, money.

python -m benchmarks.server [--files 60] [--sizes 8g 16g 32g] [--eur 8g=20 16g=35] [--docs docs/sizing.md]

Each size is a server of its own, started by `make up` from a clone, whose containers share one limit of memory and
processors (_server_box.py); files go in through the gateway. A size may name its processors: 8g@1. Needs root and a
Docker Engine on this machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks._server_box import Box, boxed_engine, machine_cpu_s
from benchmarks._server_document import CORES, SYSTEM_BYTES, Measured, document, table_rows
from benchmarks._server_load import Questions, Watched
from benchmarks._server_mix import make_mix, megabytes
from media_pipeline_tests import _server
from media_pipeline_tests._server import ROOT, Server, until

GIB = 1024**3
PROJECT = f"media-pipeline-sizing-{os.getpid()}"
SETTINGS = {"MEDIA_PIPELINE_LANGUAGE": "en", "MEDIA_PIPELINE_TIER": "embedded"}
RUN_MEMORY = {"8g": "4g", "16g": "10g", "32g": "24g"}
EUR_PER_MONTH = {"8g": 20.0, "16g": 35.0, "32g": 65.0}
_SETTLED_S, _IDLE_S = 30.0, 45.0
_DONE_S = 7200.0


def measure(size: str, files: Sequence[Path], engine: str) -> Measured:
    name, _, asked = size.partition("@")
    cores = min(float(asked or CORES[name]), os.cpu_count() or 1)
    limit = int(name.removesuffix("g")) * GIB - SYSTEM_BYTES
    found = Measured(name, cores, RUN_MEMORY[name], limit, len(files), megabytes(files))
    folder = Path(tempfile.mkdtemp(prefix="server-sizing-", dir="/var/tmp"))
    box = Box(limit, cores)
    try:
        with boxed_engine(engine, folder) as address:
            clone = folder / "clone"
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
            settings = SETTINGS | {"MEDIA_PIPELINE_SERVER__RUN_MEMORY": RUN_MEMORY[name]}
            server = Server(clone, address, settings, _server.wheels(engine), PROJECT)
            try:
                began = time.monotonic()
                server.up()
                found.up_s = time.monotonic() - began
                _work(server, box, files, found)
            finally:
                if runs := server.runs():
                    server.docker("rm", "--force", *runs, check=False)
                server.close()
    finally:
        box.close()
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _work(server: Server, box: Box, files: Sequence[Path], found: Measured) -> None:
    time.sleep(_SETTLED_S)
    with Watched(server, box) as idle:
        time.sleep(_IDLE_S)
    with Questions(server) as asked:
        time.sleep(2 * _IDLE_S)
    found.idle, found.idle_latencies = idle.peak, asked.latencies
    with Watched(server, box) as busy, Questions(server) as asked:
        began, cpu, machine = time.monotonic(), box.cpu_s(), machine_cpu_s()
        server.upload(files)
        found.upload_s = time.monotonic() - began
        until(lambda: _is_done(server, len(files)), _DONE_S, "everything is analysed")
        found.done_s = time.monotonic() - began
        found.cpu_s = box.cpu_s() - cpu
        found.others_cores = max(0.0, machine_cpu_s() - machine - found.cpu_s) / found.done_s
    found.busy, found.by_service, found.latencies = busy.peak, busy.by_service, asked.latencies
    found.with_caches, found.killed = busy.with_caches, box.killed()
    status = server.status()
    assert status["waiting"] == 0 and status["media"] == len(files), status
    found.failed = len(status["failures"])
    found.disk = _disk(server)


def _is_done(server: Server, files: int) -> bool:
    """Cheaply asked: whoever measures should not be measured."""
    return not server.runs() and _unfinished(server) == (files, 0)


def _unfinished(server: Server) -> tuple[int, int]:
    """Media that are known, and those of them that no run has ended on."""
    query = "SELECT count(*), coalesce(sum(announced = 0 OR attempts > 0), 0) FROM media"
    program = "import sqlite3, sys; print(*sqlite3.connect('file:/data/sources.sqlite?mode=ro', uri=True, timeout=9)"
    program += ".execute(sys.argv[1]).fetchone())"
    found = server.docker("exec", server.container("code"), "python", "-c", program, query, check=False).split()
    return (int(found[0]), int(found[1])) if len(found) == 2 else (-1, -1)


def _disk(server: Server) -> dict[str, int]:
    """Bytes of the volumes and of the images."""
    places = {
        "results and originals": ("code", "/data"),
        "Dagster's database": ("postgres", "/var/lib/postgresql/data"),
    }
    found = {}
    for what, (service, path) in places.items():
        found[what] = int(server.docker("exec", server.container(service), "du", "--bytes", "-s", path).split()[0])
    image = server.docker("inspect", "--format", "{{.Config.Image}}", server.container("code")).strip()
    tag = image.partition(":")[2]
    names = [f"media-pipeline{part}:{tag}" for part in ("", "-postgres", "-gateway")]
    found["images"] = sum(map(int, server.docker("image", "inspect", "--format", "{{.Size}}", *names).split()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=60, help="of the standard mix")
    parser.add_argument("--sizes", nargs="+", default=list(CORES), help="8g, 16g, 32g; 8g@1: with one processor")
    parser.add_argument("--eur", nargs="*", default=[], metavar="SIZE=EUR", help="price of a server per month")
    parser.add_argument("--media", type=Path, help="folder that keeps the files of the mix for the next time")
    parser.add_argument("--docs", type=Path, help="write the tables to this file")
    arguments = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("MEDIA_PIPELINE_", "DAGSTER_"))]:
        del os.environ[name]
    prices = EUR_PER_MONTH | {size: float(eur) for size, _, eur in (given.partition("=") for given in arguments.eur)}
    folder = arguments.media or Path(tempfile.mkdtemp(prefix="server-mix-"))
    try:
        files = make_mix(folder, arguments.files)
        found = []
        for size in arguments.sizes:
            found.append(measure(size, files, _server.engine()))
            for row in table_rows(found[-1:], prices):
                print(f"| {' | '.join(row)} |", flush=True)
    finally:
        if not arguments.media:
            shutil.rmtree(folder, ignore_errors=True)
    if arguments.docs:
        arguments.docs.write_text(document(found, prices), encoding="utf-8")


if __name__ == "__main__":
    main()
