"""Files of every format through the sandbox into the cache, and nothing but a reason for those that cannot be used."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.errors import CorruptMedia, LimitExceeded, UnsafePath, UnsupportedMedia, WorkerLost
from media_pipeline.media.cache import Cache, CacheEntry
from media_pipeline.media.decode import Decoded, DecodeJob, Decoder, decode_fingerprint
from media_pipeline.storage.schemas import FRAMES
from media_pipeline_tests import _synth

SHARED = Path(__file__).parents[2] / "shared" / "media"
_numbers = itertools.count()


class Bench:
    """A decoder with its cache; every call is a new medium."""

    def __init__(self, root: Path) -> None:
        self.cache = Cache(root, 1 << 30)
        self.decoder = Decoder(self.cache, DecodeLimits(max_pixels=4_000_000), Sampling(), workers=1)

    def decode(self, path: Path) -> Decoded:
        media_id = hashlib.sha256(str(next(_numbers)).encode()).hexdigest()
        (result,) = self.decoder.decode([DecodeJob(media_id, path)])
        return result

    def entry(self, path: Path) -> CacheEntry:
        result = self.decode(path)
        assert result.error is None, result.error
        entry = self.cache.get(result.media_id, decode_fingerprint(Sampling()))
        assert entry is not None
        assert entry.facts == result.facts
        return entry

    def error(self, path: Path) -> Exception:
        result = self.decode(path)
        assert result.facts is None
        assert result.error is not None
        return result.error


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("cache"))
    with made.decoder:
        yield made


PICTURES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tif": "image/tiff",
    "heic": "image/heic",
    "avif": "image/avif",
    "ppm": "image/x-portable-anymap",
    "ico": "image/vnd.microsoft.icon",
}


@pytest.mark.parametrize(("suffix", "mime"), PICTURES.items())
def test_pictures_of_every_format_are_read(bench: Bench, tmp_path: Path, suffix: str, mime: str) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    path = tmp_path / f"p.{suffix}"
    pixels = _synth.scene(1, 0, 96, 64)
    Image.fromarray(pixels).save(path, **({"sizes": [(96, 64)]} if suffix == "ico" else {}))
    entry = bench.entry(path.rename(tmp_path / "named.txt"))

    assert (entry.facts.kind, entry.facts.mime) == ("image", mime)
    assert (entry.facts.width, entry.facts.height, entry.facts.frame_count) == (96, 64, 1)
    (frame,) = entry.frames
    assert np.abs(frame.image().astype(int) - pixels).mean() < 12  # lossy formats, and JPEG in the cache
    assert entry.facts.phash == frame.phash


MOVIES = {
    "mp4": ("libx264", "aac", "h264", "aac", "video/mp4"),
    "mov": ("mpeg4", "aac", "mpeg4", "aac", "video/mp4"),
    "mkv": ("libx265", "flac", "hevc", "flac", "video/x-matroska"),
    "webm": ("libvpx-vp9", "libopus", "vp9", "opus", "video/webm"),
    "avi": ("mpeg4", "mp3", "mpeg4", "mp3", "video/x-msvideo"),
    "ts": ("libx264", "aac", "h264", "aac", "video/mp2t"),
    "wmv": ("wmv2", "wmav2", "wmv2", "wmav2", "video/x-ms-wmv"),
    "flv": ("flv", "mp3", "flv1", "mp3", "video/x-flv"),
    "mpg": ("mpeg2video", "mp2", "mpeg2video", "mp2", "video/mpeg"),
}


@pytest.mark.parametrize("suffix", MOVIES)
def test_videos_of_every_format_are_read(bench: Bench, tmp_path: Path, suffix: str) -> None:
    video, audio, video_name, audio_name, mime = MOVIES[suffix]
    frames = [_synth.scene(1, i) for i in range(25)]
    path = _synth.movie(tmp_path / f"v.{suffix}", frames, sound=_synth.tone(1.0), video_codec=video, audio_codec=audio)
    entry = bench.entry(path.rename(tmp_path / "named.jpg"))
    facts = entry.facts

    assert facts.kind == "video"
    assert facts.mime == (mime if suffix != "mov" else "video/quicktime")
    assert (facts.video_codec, facts.audio_codec) == (video_name, audio_name)
    assert (facts.width, facts.height, facts.frame_count, facts.has_audio) == (160, 120, 25, True)
    assert facts.duration_s == pytest.approx(1.0, abs=0.15)
    assert facts.fps == pytest.approx(25, rel=0.05)
    assert facts.variable_frame_rate is False
    assert facts.warnings == ()
    scores = entry.frame_scores
    assert scores is not None
    assert scores.num_rows == 25
    assert entry.audio is not None
    heard = entry.audio.read(0.3, 0.7)
    assert np.sqrt((heard**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.15)


@pytest.mark.parametrize(
    ("suffix", "codec", "mime"),
    [
        ("mp3", "mp3", "audio/mpeg"),
        ("m4a", "aac", "audio/mp4"),
        ("aac", "aac", "audio/aac"),
        ("wav", "pcm_s16le", "audio/wav"),
        ("flac", "flac", "audio/flac"),
        ("ogg", "flac", "audio/ogg"),
        ("opus", "libopus", "audio/ogg"),
        ("aiff", "pcm_s16be", "audio/aiff"),
    ],
)
def test_recordings_of_every_format_are_read(bench: Bench, tmp_path: Path, suffix: str, codec: str, mime: str) -> None:
    rate = 48_000
    sound = _synth.tone(2.0, rate=rate)
    path = _synth.movie(
        tmp_path / f"a.{suffix}", sound=sound, audio_codec=codec, rate=rate, muxer={"m4a": "ipod"}.get(suffix)
    )
    entry = bench.entry(path.rename(tmp_path / "x"))
    facts = entry.facts

    assert (facts.kind, facts.mime, facts.has_audio, len(entry.frames)) == ("audio", mime, True, 0)
    assert facts.audio_duration_s == pytest.approx(2.0, abs=0.1)
    assert facts.audio_sample_rate == rate
    assert facts.audio_peak == pytest.approx(0.5, abs=0.06)
    assert facts.audio_rms == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04" + b"\0" * 100, "ZIP"),
        (b"%PDF-1.7\n", "PDF"),
        (b"Hello, this is a letter.\n", "text"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://example.org/a.ts\n", "playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "script"),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\n", "session description"),
        (b"<?xml version='1.0'?><MPD><BaseURL>http://example.org/</BaseURL></MPD>", "XML"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\x7fELF" + b"\0" * 60, "program"),
        (bytes(range(1, 256)) * 8, "no known"),
    ],
)
def test_what_is_no_medium_is_refused_with_what_it_is(bench: Bench, tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    error = bench.error(path)
    assert isinstance(error, UnsupportedMedia)
    assert says in error.cause


def test_empty_and_cut_off_files_say_so(bench: Bench, tmp_path: Path) -> None:
    empty = tmp_path / "a.jpg"
    empty.touch()
    assert bench.error(empty).args[0].startswith("the file is empty")

    whole = _synth.movie(tmp_path / "v.mp4", [_synth.scene(1, i) for i in range(25)]).read_bytes()
    half = tmp_path / "half.mp4"
    half.write_bytes(whole[: len(whole) // 2])
    error = bench.error(half)
    assert isinstance(error, CorruptMedia)
    assert "index" in error.cause


def test_a_cut_off_video_gives_what_there_is_and_a_warning(bench: Bench, tmp_path: Path) -> None:
    frames = [_synth.scene(1, i) for i in range(100)]
    whole = _synth.movie(tmp_path / "v.mkv", frames, video_codec="mpeg4")
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    facts = bench.entry(whole).facts
    assert facts.frame_count is not None
    assert 20 < facts.frame_count < 80
    assert any("cut off" in warning for warning in facts.warnings)
    assert facts.duration_s == pytest.approx(facts.frame_count / 25, abs=0.2)


def test_a_concat_script_in_a_playlist_format_opens_no_other_file(bench: Bench, tmp_path: Path) -> None:
    secret = _synth.movie(tmp_path / "secret.ts", [_synth.scene(1, i) for i in range(5)])
    playlist = tmp_path / "list.ts"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n")
    assert isinstance(bench.error(playlist), UnsupportedMedia)


def test_awkward_names_mean_nothing(bench: Bench, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.fromarray(_synth.scene(3, 0)).save(image)
    movie = _synth.movie(tmp_path / "v.mp4", [_synth.scene(1, i) for i in range(5)])
    folder = tmp_path / "concat:a|b"
    folder.mkdir()
    for name in (b"-vf", b"a\nb.mp4", "ü 'q' \"%d\".jpg".encode(), b"http:x", b"\xff\xfe.png"):
        for original in (image, movie):
            copy = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
            copy.write_bytes(original.read_bytes())
            assert bench.decode(copy).error is None


def test_what_is_not_a_file_is_refused(bench: Bench, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    assert isinstance(bench.error(pipe), UnsafePath)
    assert isinstance(bench.error(Path("/dev/zero")), UnsafePath)
    assert isinstance(bench.error(tmp_path / "missing.jpg"), WorkerLost)


def test_pixel_bombs_are_refused_by_their_header(bench: Bench, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_000)).save(bomb)
    result = bench.decode(bomb)
    assert isinstance(result.error, LimitExceeded)
    assert "10,000 x 10,000" in result.error.cause or "pixels" in result.error.cause
    assert result.seconds < 5


def test_a_bomb_behind_a_good_first_page_is_refused(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    Image.new("1", (10, 10)).save(path, save_all=True, append_images=[Image.new("1", (10_000, 10_000))])
    assert isinstance(bench.error(path), LimitExceeded)


@pytest.mark.slow
def test_more_frames_than_allowed_end_a_video(tmp_path: Path) -> None:
    path = _synth.movie(tmp_path / "v.mp4", [_synth.scene(1, i) for i in range(30)])
    limits = DecodeLimits(max_frames=20)
    with Decoder(Cache(tmp_path / "c", 1 << 30), limits, Sampling(), 1) as decoder:
        (result,) = decoder.decode([DecodeJob("a" * 64, path)])
    assert isinstance(result.error, LimitExceeded)
    assert "20 frames" in result.error.cause


def test_facts_and_frames_of_a_phone_video(bench: Bench, tmp_path: Path) -> None:
    path = _synth.movie(
        tmp_path / "v.mp4",
        [_synth.scene(1, i) for i in range(30)],
        times=lambda i: i / 25 if i < 20 else 0.8 + (i - 20) / 8,
        rotation=90,
        metadata={"creation_time": "2024-05-01T10:20:30Z", "location": "+54.1843-002.7189/", "title": "Trip"},
    )
    entry = bench.entry(path)
    facts = entry.facts
    assert facts.variable_frame_rate is True
    assert (facts.width, facts.height) == (120, 160)
    assert facts.streams[0].rotation in (90, -90)
    assert facts.rotation == -facts.streams[0].rotation % 360
    assert facts.captured_at == datetime(2024, 5, 1, 10, 20, 30, tzinfo=UTC)
    assert facts.place is not None
    assert (facts.place.latitude, facts.place.longitude) == (54.1843, -2.7189)
    assert facts.title == "Trip"
    assert entry.frames[0].image().shape == (160, 120, 3)
    assert not facts.has_audio
    assert entry.audio is None


def test_frames_are_read_back_in_any_order_and_as_rows(bench: Bench, tmp_path: Path) -> None:
    frames = [_synth.scene(number, i) for number in (1, 2, 3) for i in range(30)]
    entry = bench.entry(_synth.movie(tmp_path / "v.mp4", frames))
    assert len(entry.frames) == 3
    listed = list(entry.frames)
    assert listed == list(entry.frames)
    assert entry.frames[-1] == listed[2]
    assert entry.frames[1].jpeg().startswith(b"\xff\xd8")
    with pytest.raises(IndexError):
        entry.frames[3]
    rows = entry.frame_rows()
    assert rows.schema.equals(FRAMES)
    assert rows.column("scene_index").to_pylist() == [0, 1, 2]
    assert rows.column("frame_index").to_pylist() == [f.frame_index for f in listed]
    thumbnail = entry.thumbnail()
    assert thumbnail is not None
    assert len(thumbnail) <= 4096


def test_what_is_cached_is_not_decoded_again(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(_synth.scene(1, 0)).save(path)
    first = bench.decode(path)
    path.write_bytes(b"no longer a picture")
    (again,) = bench.decoder.decode([DecodeJob(first.media_id, path)])
    assert (again.facts, again.error, again.cpu_s) == (first.facts, None, 0.0)


def test_jobs_are_taken_one_by_one(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(_synth.scene(1, 0)).save(path)
    taken: list[int] = []

    def jobs() -> Iterator[DecodeJob]:
        for i in range(5):
            taken.append(i)
            yield DecodeJob(hashlib.sha256(f"lazy{i}".encode()).hexdigest(), path)

    results = bench.decoder.decode(jobs())
    next(results)
    assert len(taken) <= 2
    results.close()
    assert not list((bench.cache.root / ".incoming").iterdir())


def test_the_fingerprint_follows_the_sampling() -> None:
    assert decode_fingerprint(Sampling()) == decode_fingerprint(Sampling())
    assert decode_fingerprint(Sampling()) != decode_fingerprint(Sampling(max_gap_s=1.0))
    assert len(decode_fingerprint(Sampling())) == 16


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason=f"needs the shared media ({SHARED})")
def test_every_shared_file_ends_in_facts_or_a_reason(tmp_path: Path) -> None:
    paths = [p for p in sorted(SHARED.rglob("*")) if p.is_file() and p.suffix != ".json"]
    jobs = {hashlib.sha256(os.fsencode(p)).hexdigest(): p for p in paths}
    cache = Cache(tmp_path, 1 << 30)
    with Decoder(cache, DecodeLimits(), Sampling(), 2) as decoder:
        results = {jobs[r.media_id]: r for r in decoder.decode(DecodeJob(i, p) for i, p in jobs.items())}
    assert len(results) == len(paths)
    for path, result in results.items():
        assert (result.facts is None) != (result.error is None), path
        assert "gave up" not in str(result.error), path
        if path.parent.name != "bad":
            assert result.error is None, path


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason=f"needs the shared media ({SHARED})")
def test_container_facts_match_the_manifest(tmp_path: Path) -> None:
    manifest = json.loads((SHARED / "MANIFEST.json").read_text())["files"]
    truths = {f["file"]: f["ground_truth"] for f in manifest if f["file"].startswith("video/")}
    cache = Cache(tmp_path, 1 << 30)
    names = {hashlib.sha256(n.encode()).hexdigest(): n for n in truths}
    with Decoder(cache, DecodeLimits(), Sampling(), 2) as decoder:
        for result in decoder.decode(DecodeJob(i, SHARED / n) for i, n in names.items()):
            name, truth, facts = names[result.media_id], truths[names[result.media_id]], result.facts
            assert facts is not None, result.error
            if truth["duration_s"] is not None:
                assert facts.duration_s == pytest.approx(truth["duration_s"], abs=0.03), name
            assert facts.container == truth["container"]
            video = [s for s in facts.streams if s.type == "video"]
            for stream, expected in zip(video, truth["video_streams"], strict=True):
                assert stream.codec == expected["codec"]
                assert [stream.width, stream.height] == expected["size"]
                assert stream.frames == expected["frames"]
                assert (stream.r_frame_rate, stream.avg_frame_rate) == (
                    expected["r_frame_rate"],
                    expected["avg_frame_rate"],
                ), name
                assert (stream.rotation or 0) == expected["rotation"]
            audio = [s for s in facts.streams if s.type == "audio"]
            for stream, expected in zip(audio, truth["audio_streams"], strict=True):
                assert (stream.codec, str(stream.sample_rate), stream.channels) == (
                    expected["codec"],
                    expected["rate"],
                    expected["channels"],
                )
            assert facts.variable_frame_rate is truth.get("vfr", False), name
            entry = cache.get(result.media_id, decode_fingerprint(Sampling()))
            assert entry is not None
            assert isinstance(entry.frame_scores, pa.Table)
