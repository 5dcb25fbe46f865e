"""Subtitles: what is shown when, and that other programs read it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from media_pipeline.results.exports._cues import LINE_CHARS, MIN_MS, Cue, cues, width
from media_pipeline.results.exports.subtitles import About, srt, vtt
from media_pipeline_tests._export_home import ExportHome, export_home, key, segment

ABOUT = About("talk.mp4 (3fa9)", "whisper small", "en")
LONG = (
    "This sentence is rather short. The second one, however, goes on for so long that no screen in the world "
    "would show all of it at once without hiding the picture behind it."
)
HOSTILE = [
    "00:00:01,000 --> 00:00:02,000",
    "one\n\n2\n00:00:07,000 --> 00:00:08,000\ninjected",
    "a < b & c > d <i>not a tag</i> {\\an8}",
    "שלום עולם, مرحبا بالعالم",
    "👩‍👩‍👧‍👦 family 🇩🇪 \u202eevil\x00\x1b[31m",
    "NOTE\nSTYLE",
    "字" * 90,
    "a" * 200,
    "\ufeffWEBVTT",
]


def read_back(path: Path) -> list[tuple[float, float, str]]:
    """Start and end, in seconds, and text of each cue, as ffmpeg's demuxer sees them."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        for packet in container.demux(stream):
            if packet.size:
                start_s = float(packet.pts * packet.time_base)
                found.append((start_s, start_s + float(packet.duration * packet.time_base), bytes(packet).decode()))
    return found


def shown(cue: Cue) -> list[str]:
    return [line for part in cue.parts for line in part.lines]


def written(tmp_path: Path, suffix: str, found: list[Cue]) -> Path:
    path = tmp_path / f"out{suffix}"
    path.write_text(srt(found) if suffix == ".srt" else vtt(found, ABOUT), encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_another_program_reads_the_same_cues(tmp_path: Path, suffix: str) -> None:
    found = cues([segment(0.25, 1.5, "Good morning."), segment(3723.004, 3724, "Über\n  alles")])
    assert [(start, end) for start, end, _ in read_back(written(tmp_path, suffix, found))] == [
        (0.25, 1.5),
        (3723.004, 3724.0),
    ]
    assert [text for _, _, text in read_back(written(tmp_path, suffix, found))] == ["Good morning.", "Über alles"]


@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_hostile_text_is_text(tmp_path: Path, suffix: str) -> None:
    segments = [segment(10 * n, 10 * n + 9, text, f"S{n % 2}\n<v>") for n, text in enumerate(HOSTILE)]
    found = cues(segments)
    read = read_back(written(tmp_path, suffix, found))
    assert [round(start * 1000) for start, _, _ in read] == [cue.start_ms for cue in found]
    for (_, _, text), cue in zip(read, found, strict=True):
        assert len(text.splitlines()) == len(shown(cue))
        assert "-->" not in text
    assert all(c.isprintable() or c in "\u200d\u202e\ufeff" for cue in found for line in shown(cue) for c in line)


def test_voice_tags_and_escapes_of_webvtt() -> None:
    text = vtt(cues([segment(0, 1, "a < b & c --> d", "Anna & <Co>\n")]), ABOUT)
    assert text.startswith(
        "WEBVTT\nKind: captions\nLanguage: en\n\nNOTE\nSource: talk.mp4 (3fa9)\nModel: whisper small\n\n1\n"
    )
    assert "<v Anna &amp; &lt;Co&gt;>a &lt; b &amp; c --&gt; d</v>\n" in text


def test_a_note_cannot_end_early() -> None:
    about = About("x\n\n1\n00:00 --> 00:01", None, "e\nn", draft=True)
    note = vtt(cues([segment(0, 1, "hello")]), about).split("\n\n")[1]
    assert note.splitlines() == [
        "NOTE",
        "Source: x 1 00:00 → 00:01",
        "Draft: good for finding a place, not for quoting",
    ]


def test_srt_names_the_speaker_where_it_changes() -> None:
    said = [(0, "Hello.", "Anna"), (2, "How are you?", "Anna"), (4, "Fine.", "Ben"), (6, "And then?", None)]
    found = cues([segment(at, at + 1, text, speaker) for at, text, speaker in said])
    assert [line for line in srt(found).splitlines() if line and "-->" not in line and not line.isdigit()] == [
        "Anna: Hello.",
        "How are you?",
        "Ben: Fine.",
        "And then?",
    ]
    alone = cues([segment(0, 1, "Hello.", "Anna")])
    assert "Anna" not in srt(alone)


def test_two_at_once_share_a_cue_with_a_dash_each() -> None:
    found = cues([segment(0, 2, "No, wait!", "Anna"), segment(0.5, 2.5, "I will not wait.", "Ben")])
    assert srt(found) == "1\n00:00:00,000 --> 00:00:02,500\n– Anna: No, wait!\n– Ben: I will not wait.\n"
    later = cues([segment(0, 2, "No, wait!", "Anna"), segment(0, 2, "I will.", "Ben"), segment(3, 4, "Why?", "Ben")])
    assert srt(later).endswith("\nBen: Why?\n")
    assert "<v Anna>No, wait!</v>\n<v Ben>I will not wait.</v>\n" in vtt(found, ABOUT)


def test_long_segments_are_split_where_words_begin() -> None:
    words = [
        {"word": word, "start_s": number * 0.5, "end_s": number * 0.5 + 0.4, "score": 0.9}
        for number, word in enumerate(LONG.split())
    ]
    found = cues([segment(0, len(words) * 0.5, LONG, words=words)])
    assert [shown(cue) for cue in found] == [
        ["This sentence is rather short.", "The second one, however, goes"],
        ["on for so long that no screen", "in the world would show all of"],
        ["it at once without hiding", "the picture behind it."],
    ]
    # "on" is the 11th word, "it" the 25th.
    assert [cue.start_ms for cue in found] == [0, 10 * 500, 24 * 500]
    # Without times of words: evenly by characters, in the same order and to the same end.
    even = cues([segment(0, len(words) * 0.5, LONG)])
    assert [shown(cue) for cue in even] == [shown(cue) for cue in found]
    assert even[-1].end_ms == found[-1].end_ms == len(words) * 500


def test_a_sentence_is_kept_together_where_it_ends_late_enough() -> None:
    text = "It was the best of times, it was the worst of times. It was the age of wisdom, they said."
    assert [" ".join(shown(cue)) for cue in cues([segment(0, 8, text)])] == [
        "It was the best of times, it was the worst of times.",
        "It was the age of wisdom, they said.",
    ]


@pytest.mark.parametrize("speaker", [None, "S1", "Someone with quite a long name, PhD, of Somewhere"])
def test_no_line_is_too_wide(speaker: str | None) -> None:
    texts = [LONG, "字" * 90, "a" * 200, "no " * 80, "e\u0301" * 100, "👩‍👩‍👧‍👦" * 30]
    found = cues([segment(10 * n, 10 * n + 9, text, speaker) for n, text in enumerate(texts)])
    assert max(width(line) for cue in found for line in shown(cue)) <= LINE_CHARS
    assert max(len(shown(cue)) for cue in found) <= 2
    said = [
        "".join("".join(shown(cue)) for cue in found if n * 10_000 <= cue.start_ms < n * 10_000 + 9000)
        for n in range(6)
    ]
    assert [text.replace(" ", "") for text in said] == [text.replace(" ", "") for text in texts]
    assert not any(line.startswith(("\u0301", "\u200d")) for cue in found for line in shown(cue))


def _overlapping() -> list[dict[str, Any]]:
    many = [segment(n * 0.1, n * 0.1 + 3, f"{LONG[:60]} {n}", f"S{n % 3}") for n in range(40)]
    odd = [segment(1, 1, "no length"), segment(2, 1, "ends before it begins"), segment(-1, -0.5, "too early")]
    odd += [segment(float("nan"), 3, "no time"), segment(3, float("nan"), "no end"), segment(4, float("inf"), "never")]
    return [*many, *odd, segment(5, 6, "   "), segment(5, 6, "\x00"), *(segment(9, 9.1, f"same {n}") for n in range(9))]


def test_cues_never_overlap_and_last() -> None:
    found = cues(_overlapping())
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(found))
    assert all(cue.end_ms - cue.start_ms >= MIN_MS and cue.start_ms >= 0 for cue in found)
    assert all(line.strip() for cue in found for line in shown(cue))
    assert sum("same" in line for cue in found for line in shown(cue)) == 9


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportHome]:
    home = export_home(tmp_path_factory.mktemp("subtitles") / "home")
    home.add(
        "talk",
        transcript=[segment(0, 1, "Guten Tag.", language="de", segment_index=0, draft=True)],
        speakers=[{"turn_index": 0, "start_s": 0.0, "end_s": 1.0, "speaker": "S1"}],
    )
    home.add("silent", transcript=[])
    home.add("new")
    home.add("broken")
    failed = {"analyzer": "transcript", "status": "failed", "reason": "no sound could be read"}
    home.put("analyses", {"broken": [failed]})
    yield home
    home.app.close()


def test_one_medium_goes_to_standard_output(home: ExportHome) -> None:
    result = home.export(key("talk"), "--format", "vtt")
    assert result.return_value == 0, result.exception
    assert "Language: de\n" in result.stdout
    assert "Model: transcript-model\nDraft: " in result.stdout
    assert "<v S1>Guten Tag.</v>" in result.stdout


def test_media_without_speech_are_named_with_the_reason(home: ExportHome, tmp_path: Path) -> None:
    names = ("talk", "silent", "new", "broken")
    result = home.export(*map(key, names), "--format", "srt", "-o", tmp_path / "out")
    assert result.return_value == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{key('talk')}.srt"]
    said = result.stderr.splitlines()
    assert f"{key('silent')}: there is no speech in it" in said
    assert f"{key('broken')}: its speech could not be transcribed: no sound could be read" in said
    assert any(line.startswith(f"{key('new')}: its speech was not transcribed yet") for line in said)


def test_a_single_medium_without_speech_leaves_no_empty_file(home: ExportHome, tmp_path: Path) -> None:
    assert home.export(key("silent"), "--format", "srt", "-o", tmp_path / "silent.srt").return_value == 3
    assert list(tmp_path.iterdir()) == []


def test_of_all_media_those_without_speech_are_counted(home: ExportHome, tmp_path: Path) -> None:
    result = home.export("--all", "--format", "srt", "-o", tmp_path / "out")
    assert result.return_value == 0
    assert "left out 1 medium: there is no speech in it" in result.stderr
