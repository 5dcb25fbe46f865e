"""`media-pipeline erase` on a home that the real pipeline made, with the process killed in between."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from media_pipeline.config import load_settings
from media_pipeline.engine.instance import open_instance
from media_pipeline_tests._cli import contents, run, start
from media_pipeline_tests._synth import movie, scene, tone
from media_pipeline_tests.test_assets import shown

pytestmark = pytest.mark.slow

STAGES = ("media", "frames", "audio", "scenes", "ocr", "titles", "text_embeddings")
TEXT = "INVOICE 4711 SECRET"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three media in the inbox, analysed in one run."""
    home = tmp_path_factory.mktemp("erase") / "home"
    inbox = home / "inbox"
    inbox.mkdir(parents=True)
    page(inbox / "a page of secrets.png", TEXT)
    page(inbox / "b harmless page.png", "NOTHING TO SEE HERE")
    movie(inbox / "c film.mp4", [scene(n // 10, n) for n in range(30)], fps=10, sound=tone(3.0))
    done = run(home, "analyze", inbox, "--analyzers", ",".join(STAGES[3:]))
    assert done.returncode == 0, done.stderr
    return home


def page(path: Path, text: str) -> None:
    image = Image.new("RGB", (900, 240), "white")
    ImageDraw.Draw(image).text((40, 80), text, fill="black", font=ImageFont.load_default(60))
    image.save(path)


def media(home: Path) -> dict[str, tuple[str, str]]:
    """media_id and partition key by the first letter of the name."""
    done = run(home, "sql", "SELECT name, media_id, partition_key FROM media", "--format", "json")
    return {row["name"][0]: (row["media_id"], row["partition_key"]) for row in json.loads(done.stdout)}


def files_with(home: Path, word: bytes) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file() and word in path.read_bytes()]


def statuses(home: Path, keys: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    with open_instance(load_settings(home=home)) as instance:
        for name in STAGES:
            yield name, shown(instance, name, keys)


def test_a_medium_is_erased_for_good_though_the_process_was_killed(home: Path) -> None:
    known = media(home)
    media_id, key = known["a"]
    others = [key for letter, (_, key) in known.items() if letter != "a"]
    before = {name: [line for line in lines if media_id not in line] for name, lines in contents(home).items()}
    standing = dict(statuses(home, others))
    assert all(status == "done" for found in standing.values() for status in found.values())
    assert TEXT in run(home, "sql", "SELECT text FROM ocr").stdout
    assert files_with(home, media_id.encode())

    planned = json.loads(run(home, "erase", key, "--dry-run", "--format", "json").stdout)
    assert planned["media"] == [{"media_id": media_id, "partition_key": key}]
    assert planned["counts"]["rows in ocr"] >= 1
    assert planned["counts"]["dagster events"] >= len(STAGES)

    process = start(home, "erase", media_id[:12], "--yes")
    deadline = time.monotonic() + 60
    while not list((home / "erasures").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "1 erasure" in run(home, "status").stdout

    done = run(home, "erase", "--resume", "--by", "the tester", "--format", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    [erased] = json.loads(done.stdout)
    assert erased["hits"] == []
    looked_for = erased["receipt"]["scan"]["looked_for"]
    assert {"id", "partition", "text", "embedding", "thumbnail", "hash", "copy", "name"} <= looked_for.keys()
    for word in (media_id.encode(), key.encode(), media_id[:12].encode(), TEXT.encode(), b"a page of secrets"):
        assert files_with(home, word) == []
    assert not (home / "inbox" / "a page of secrets.png").exists()
    assert contents(home) == before
    assert dict(statuses(home, others)) == standing
    assert json.loads(run(home, "status", "--format", "json").stdout)["media"] == len(others)

    [receipt] = (home / "receipts").iterdir()
    checked = run(home, "erase", "--verify", receipt, media_id)
    assert checked.returncode == 0
    assert "valid; signed by this home" in checked.stdout
    assert "erased (medium)" in checked.stdout
    assert run(home, "erase", "--verify", receipt, known["b"][0]).returncode == 1


def test_wrong_words_are_refused(home: Path) -> None:
    for arguments, said in (
        ((), "nothing is to be erased"),
        (("ffffffffffff", "--yes"), "no medium is called"),
        (("--person", "Nobody", "--yes"), "there is no person"),
        (("ffffffffffff", "--format", "json"), "cannot ask"),
        (("--verify", home / "sources.sqlite"), "is no JSON"),
    ):
        done = run(home, "erase", *arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
