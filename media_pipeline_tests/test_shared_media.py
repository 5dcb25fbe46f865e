"""The whole pipeline over a collection of real files with ground truth, asked only through `media-pipeline sql`."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from media_pipeline_tests import _cli

SHARED = (_cli.REPOSITORY.parent / "shared").resolve()
MEDIA = SHARED / "media"
WHISPER = SHARED / "models" / "whisper-micro-memorised-ct2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MEDIA.is_dir(), reason="the collection of real media is not beside this checkout"),
]


@pytest.fixture(scope="module")
def manifest() -> dict[str, dict[str, Any]]:
    listed = json.loads((MEDIA / "MANIFEST.json").read_text())["files"]
    return {entry["file"]: entry for entry in listed}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    options = {"MEDIA_PIPELINE_OPTIONS__TRANSCRIPT__MODEL": str(WHISPER)}
    finished = _cli.run(home, "analyze", MEDIA, timeout=1800, **options)
    assert finished.returncode == 3, finished.stderr
    return home


def ask(home: Path, sql: str) -> list[dict[str, Any]]:
    answer = _cli.run(home, "sql", sql, "--format", "json")
    assert answer.returncode == 0, answer.stderr
    rows: list[dict[str, Any]] = json.loads(answer.stdout)
    return rows


def by_file(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {str(Path(row["path"]).relative_to(MEDIA)): row for row in rows}


FILES = "SELECT s.path, {columns} FROM sources s LEFT JOIN {view} v USING (media_id)"


def test_each_file_is_done_or_failed_with_a_reason(home: Path) -> None:
    rows = ask(
        home,
        "SELECT s.path, a.status, a.reason FROM sources s LEFT JOIN analyses a"
        " ON a.media_id = s.media_id AND a.analyzer = 'media'",
    )
    files = {str(p) for p in MEDIA.rglob("*") if p.is_file()}
    assert {row["path"] for row in rows} == files
    assert [row for row in rows if row["status"] not in ("done", "failed")] == []
    assert [row for row in rows if row["status"] == "failed" and not row["reason"]] == []


def test_good_files_are_done(home: Path, manifest: dict[str, dict[str, Any]]) -> None:
    rows = ask(
        home,
        "SELECT s.path, a.analyzer, a.reason FROM sources s JOIN analyses a USING (media_id) WHERE a.status = 'failed'",
    )
    not_media = {"MANIFEST.json", "pose/pose_1.json"}
    failed = [
        (name, row["analyzer"], row["reason"])
        for row in rows
        if not (name := str(Path(row["path"]).relative_to(MEDIA))).startswith("bad/") and name not in not_media
    ]
    assert failed == []


def test_container_facts_of_every_video(home: Path, manifest: dict[str, dict[str, Any]]) -> None:
    found = by_file(ask(home, FILES.format(view="media", columns="v.duration_s, v.width, v.height, v.streams")))
    wrong = []
    for name, entry in manifest.items():
        truth = entry.get("ground_truth") or {}
        if "video_streams" not in truth:
            continue
        row = found[name]
        streams = row["streams"]
        videos = [s for s in streams if s["type"] == "video"]
        sounds = [s for s in streams if s["type"] == "audio"]
        if truth.get("duration_s") is not None and abs(row["duration_s"] - truth["duration_s"]) > 0.1:
            wrong.append((name, "duration", row["duration_s"], truth["duration_s"]))
        for stream, want in zip(videos, truth["video_streams"], strict=True):
            got = {
                "codec": stream["codec"],
                "size": [stream["width"], stream["height"]],
                "avg_frame_rate": Fraction(stream["avg_frame_rate"]),
                "rotation": (stream["rotation"] or 0) % 360,
            }
            wanted = {
                "codec": want["codec"],
                "size": want["size"],
                "avg_frame_rate": Fraction(want["avg_frame_rate"]),
                "rotation": want["rotation"] % 360,
            }
            if got != wanted:
                wrong.append((name, got, wanted))
        for stream, want in zip(sounds, truth["audio_streams"], strict=True):
            got = (stream["codec"], str(stream["sample_rate"]), stream["channels"])
            if got != (want["codec"], str(want["rate"]), want["channels"]):
                wrong.append((name, got, want))
        display = truth.get("display_size")
        if display and [row["width"], row["height"]] != display:
            wrong.append((name, "displayed size", row["width"], row["height"], display))
    assert wrong == []


def test_exact_cuts_of_the_four_shot_clip(home: Path) -> None:
    rows = ask(
        home,
        "SELECT start_frame FROM scenes JOIN media USING (media_id) WHERE name = 'scenes_4shots.mp4' ORDER BY 1",
    )
    assert [row["start_frame"] for row in rows] == [0, 50, 90, 110]


# Printed pages in English and German whose whole text is known; the turned ones are the same page.
PAGES = ("phototest.tif", "phototestrot.tif", "phototest-rotated-R.png", "8071_093.3B.tif", "en.jpg")


@pytest.mark.parametrize("page", [*PAGES, "eurotext.tif"])
def test_printed_pages_are_read(home: Path, manifest: dict[str, dict[str, Any]], page: str) -> None:
    rows = ask(
        home,
        "SELECT text FROM ocr JOIN sources s USING (media_id)"
        f" WHERE s.name = '{page}' ORDER BY frame_index, line_index",
    )
    truth, read = (_words(text) for text in (manifest[f"ocr/{page}"]["ground_truth"]["text"], _join(rows)))
    if page == "eurotext.tif":  # six languages on one page: what this project reads first is English and German
        truth = truth[: truth.index("Le")]
        read = read[: len(truth)]
    error = _edits(" ".join(truth), " ".join(read)) / len(" ".join(truth))
    recall = sum(min(truth.count(w), read.count(w)) for w in set(truth)) / len(truth)
    assert error <= 0.05, (error, read)
    assert recall >= 0.95, (recall, sorted(set(truth) - set(read)))


def test_nothing_is_transcribed_where_nobody_speaks(home: Path, manifest: dict[str, dict[str, Any]]) -> None:
    silent = [name for name, e in manifest.items() if (e.get("ground_truth") or {}).get("speech") is False]
    assert len(silent) >= 4
    rows = ask(home, "SELECT s.path, t.text FROM transcript t JOIN sources s USING (media_id)")
    heard = {str(Path(row["path"]).relative_to(MEDIA)) for row in rows}
    assert heard.isdisjoint(silent)


KNOWN_SENTENCES = (
    "speech/jfk.flac",
    "speech/jfk.ogg",
    "speech/leopard_en.wav",
    "speech/leopard_de.wav",
    "speech/leopard_fr.wav",
    "speech/leopard_es.wav",
    "speech/leopard_de.opus",
    *(f"voice_id/spk{speaker}_snt{n}.wav" for speaker in (1, 2) for n in (1, 2, 3, 4)),
    "video/speech_jfk_over_bbb.mp4",
)


@pytest.mark.skipif(not WHISPER.is_dir(), reason="the small Whisper that knows sixteen sentences is not there")
@pytest.mark.parametrize("name", KNOWN_SENTENCES)
def test_known_sentences(home: Path, manifest: dict[str, dict[str, Any]], name: str) -> None:
    rows = ask(
        home,
        "SELECT text, language, start_s, end_s, m.duration_s FROM transcript JOIN media m USING (media_id)"
        f" JOIN sources s USING (media_id) WHERE s.path = '{MEDIA / name}' ORDER BY segment_index",
    )
    truth = manifest[name]["ground_truth"]
    accepted = {_plain(truth["transcript"]), _plain(truth.get("transcript_also_accept", truth["transcript"]))}
    assert _plain(_join(rows)) in accepted
    assert all(row["language"] == truth.get("language", "en") for row in rows)
    assert all(0 <= row["start_s"] < row["end_s"] <= row["duration_s"] + 0.1 for row in rows)
    if "word_times" in truth:
        first, last = truth["word_times"][0], truth["word_times"][-1]
        assert abs(rows[0]["start_s"] - first[1]) < 0.6
        assert abs(rows[-1]["end_s"] - last[2]) < 0.6


def test_near_duplicates_are_marked(home: Path, manifest: dict[str, dict[str, Any]]) -> None:
    groups = {
        str(MEDIA / name): group
        for name, e in manifest.items()
        if (group := (e.get("ground_truth") or {}).get("near_duplicate_group"))
    }
    rows = ask(
        home,
        "SELECT a.path AS path, b.path AS other FROM media m JOIN sources a ON a.media_id = m.media_id"
        " JOIN sources b ON b.media_id = m.duplicate_of",
    )
    wrong = [r for r in rows if groups.get(r["path"]) != groups.get(r["other"]) and "bad" not in r["path"] + r["other"]]
    assert [r for r in wrong if r["path"] in groups and r["other"] in groups] == []
    assert {groups[r["path"]] for r in rows if r["path"] in groups} >= {"cat_A", "hopper"}


def _join(rows: list[dict[str, Any]]) -> str:
    return "\n".join(row["text"] for row in rows)


def _words(text: str) -> list[str]:
    return text.split()


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s']", " ", text).lower().split())


def _edits(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
