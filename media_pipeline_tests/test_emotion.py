from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pydantic import ValidationError

from media_pipeline.analyzers import _emotion_voice, _vad
from media_pipeline.analyzers._emotion_face import LABELS, FaceEmotion, cut_face, points_of
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._onnx_graph import INT64, OnnxGraph
from media_pipeline.analyzers._spec import Medium
from media_pipeline.analyzers._vad import SileroVad
from media_pipeline.analyzers.emotion import ANALYZER, EmotionOptions, Model, preview
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._sound import SHARED, Sound, needs_media, silence, tone, vowels

Points = npt.NDArray[np.float64]
NAMES = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
FACES = pa.schema(
    [
        ("media_id", pa.string()),
        ("frame_index", pa.int64()),
        ("face_index", pa.int32()),
        ("track_index", pa.int32()),
        *((name, pa.float32()) for name in ("x1", "y1", "x2", "y2")),
        (
            "landmarks",
            pa.list_(pa.struct([("name", pa.string()), ("x", pa.float32()), ("y", pa.float32())])),
        ),
        ("quality", pa.float32()),
    ]
)
TURNS = pa.schema(
    [
        ("media_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("speaker", pa.string()),
        ("channel", pa.int32()),
    ]
)
# Where eyes, nose and corners of the mouth lie in `face_picture(300)`.
DRAWN = np.array([[110, 125], [190, 125], [150, 168], [108, 195], [192, 195]], np.float64)


# Eyes and corners of the mouth as a detector finds them; that these people smile was seen by eye.
SMILES = [
    ("P01_img1.jpg", [[587, 520], [865, 525], [593, 777], [858, 780]]),
    ("P02_img15.jpg", [[682, 385], [812, 379], [685, 514], [819, 509]]),
    ("P02_img58.jpg", [[369, 362], [469, 361], [373, 471], [465, 470]]),
    ("P03_img17.jpg", [[428, 213], [524, 207], [439, 305], [526, 300]]),
    ("P05_img24.jpg", [[503, 492], [742, 494], [512, 736], [731, 736]]),
    ("P05_img25.jpg", [[166, 162], [244, 150], [182, 234], [255, 223]]),
]


def face_picture(side: int = 300, *, grin: bool) -> npt.NDArray[np.uint8]:
    """A face in a few strokes: showing teeth, or with its mouth wide open in the dark."""
    import cv2

    scale = side / 300
    image = np.full((side, side, 3), 90, np.uint8)

    def oval(x: float, y: float, rx: float, ry: float, colour: Sequence[int], arc: tuple[int, int] = (0, 360)) -> None:
        centre, axes = (round(x * scale), round(y * scale)), (round(rx * scale), round(ry * scale))
        whole = arc in ((0, 360), (0, 180))
        cv2.ellipse(image, centre, axes, 0, *arc, colour, -1 if whole else max(1, round(4 * scale)), cv2.LINE_AA)

    oval(150, 150, 95, 125, (205, 180, 165))
    for x in (110, 190):
        oval(x, 125, 20, 11, (240, 240, 240))
        oval(x, 125, 9, 9, (40, 30, 30))
        oval(x, 105, 26, 9, (60, 45, 40), (190, 350))
    if grin:
        oval(150, 190, 48, 34, (90, 30, 40), (0, 180))
        oval(150, 190, 42, 16, (250, 250, 250), (0, 180))
    else:
        oval(150, 212, 24, 34, (60, 20, 25))
    return image


@dataclass
class Picture:
    """`analyzers._spec.Frame`; counts how often it was decoded."""

    frame_index: int
    pts_s: float
    pixels: npt.NDArray[np.uint8]
    width: int = 300
    height: int = 300
    scene_index: int = 0
    decoded: list[int] = field(default_factory=list)

    def image(self) -> npt.NDArray[np.uint8]:
        self.decoded.append(self.frame_index)
        return self.pixels


def face(frame_index: int, *, track: int | None = 0, quality: float | None = 0.9, **changed: Any) -> dict[str, Any]:
    marks = [{"name": n, "x": x, "y": y} for n, (x, y) in zip(NAMES, DRAWN, strict=True)]
    row = {"media_id": "m", "frame_index": frame_index, "face_index": 0, "track_index": track, "quality": quality}
    return {**row, "x1": 55.0, "y1": 25.0, "x2": 245.0, "y2": 275.0, "landmarks": marks, **changed}


def turn(start_s: float, end_s: float, speaker: str = "S1", channel: int | None = None) -> dict[str, Any]:
    return {"media_id": "m", "start_s": start_s, "end_s": end_s, "speaker": speaker, "channel": channel}


def medium(
    *,
    frames: Sequence[Picture] = (),
    faces: Sequence[dict[str, Any]] | None = None,
    sound: Sound | None = None,
    turns: Sequence[dict[str, Any]] | None = None,
    kind: str = "video",
    duration_s: float | None = None,
) -> Medium:
    rows = {}
    if faces is not None:
        rows["faces"] = pa.Table.from_pylist(list(faces), schema=FACES)
    if turns is not None:
        rows["speakers"] = pa.Table.from_pylist(list(turns), schema=TURNS)
    return Medium("m", kind, frames, sound, duration_s=duration_s, rows=rows)


def store(root: Path, tier: str = "auto") -> ModelStore:
    return ModelStore(root, offline=True, hub_url="http://127.0.0.1:9", tier=tier)


def model_of(options: EmotionOptions, root: Path) -> Model:
    return ANALYZER.load(ANALYZER.choose(options, store(root)), "cpu", options)  # type: ignore[no-any-return]


@cache
def face_only() -> Model:
    return model_of(EmotionOptions(), Path("none"))


def analyse(model: Model, given: Medium, options: EmotionOptions | None = None) -> list[dict[str, Any]]:
    table = ANALYZER.run(model, (given,), options or EmotionOptions())
    ANALYZER.check(table, {"m"})
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        assert row["label"] == row["scores"][0]["label"]
        assert row["score"] == row["scores"][0]["score"] == max(s["score"] for s in row["scores"])
        assert sum(s["score"] for s in row["scores"]) == pytest.approx(1, abs=1e-5)
        assert row["start_s"] is None or row["start_s"] < row["end_s"]
    return rows


# --- faces ----------------------------------------------------------------------------------------------------------


def test_a_grin_is_happy_at_any_size() -> None:
    for side in (80, 300, 2400):
        found = FaceEmotion().probabilities(face_picture(side, grin=True), DRAWN[[0, 1, 3, 4]] * side / 300)
        assert LABELS[int(found.argmax())] == "happy"
        assert found.max() > 0.8


def test_the_face_is_cut_out_upright_wherever_it_lies() -> None:
    import cv2

    image = face_picture(grin=True)
    points = DRAWN[[0, 1, 3, 4]]
    upright = cut_face(image, points).astype(int)
    assert upright.shape == (64, 64)
    for degrees, scale in ((0, 2.0), (30, 1.0), (-75, 1.6), (180, 1.0)):
        matrix = cv2.getRotationMatrix2D((150, 150), degrees, scale)
        matrix[:, 2] += 250
        turned = cv2.warpAffine(image, matrix, (800, 800), borderValue=(90, 90, 90))
        again = cut_face(turned, points @ matrix[:, :2].T + matrix[:, 2]).astype(int)
        assert np.abs(again - upright).mean() < 4
        assert np.abs(again[::-1] - upright).mean() > 10  # the measure would notice


def test_landmarks_that_cannot_be_used() -> None:
    whole = face(0)["landmarks"]
    assert points_of(whole) is not None
    assert points_of(None) is None
    assert points_of(whole[1:]) is None
    assert points_of([{**mark, "x": 5.0, "y": 5.0} for mark in whole]) is None
    assert points_of([{**mark, "x": float("nan")} for mark in whole]) is None


def test_a_picture_has_no_time() -> None:
    picture = Picture(0, 0.0, face_picture(grin=True))
    (row,) = analyse(face_only(), medium(frames=[picture], faces=[face(0)], kind="image"))
    assert (row["source"], row["label"], row["frame_index"], row["face_index"]) == ("face", "happy", 0, 0)
    assert (row["start_s"], row["end_s"], row["speaker"]) == (None, None, None)
    assert row["model"].startswith("fer mini-Xception@")


def test_a_reduced_picture_gives_the_same() -> None:
    whole = Picture(0, 0.0, face_picture(300, grin=True))
    reduced = Picture(0, 0.0, face_picture(150, grin=True))
    rows = [analyse(face_only(), medium(frames=[p], faces=[face(0)]))[0] for p in (whole, reduced)]
    assert rows[0]["label"] == rows[1]["label"] == "happy"
    assert rows[0]["score"] == pytest.approx(rows[1]["score"], abs=0.1)


def test_frames_of_one_track_become_windows() -> None:
    grin, gape = face_picture(grin=True), face_picture(grin=False)
    frames = [Picture(n, 2.0 * n, grin if n < 3 else gape) for n in range(8)]
    seen = [face(n) for n in (0, 1, 2, 3, 4, 6, 7)]  # away in frame 5
    options = EmotionOptions(window_s=6.0)
    rows = analyse(face_only(), medium(frames=frames, faces=seen, duration_s=15.0), options)
    assert [(row["start_s"], row["end_s"]) for row in rows] == [(0.0, 6.0), (6.0, 10.0), (12.0, 15.0)]
    assert [row["label"] == "happy" for row in rows] == [True, False, False]
    assert {row["track_index"] for row in rows} == {0}


def test_the_mean_of_a_window_is_that_of_its_frames() -> None:
    pictures = [face_picture(grin=n == 1) for n in range(2)]
    single = [FaceEmotion().probabilities(p, DRAWN[[0, 1, 3, 4]]) for p in pictures]
    frames = [Picture(n, float(n), p) for n, p in enumerate(pictures)]
    (row,) = analyse(face_only(), medium(frames=frames, faces=[face(0), face(1)], duration_s=2.0))
    expected = dict(zip(LABELS, np.mean(single, axis=0), strict=True))
    assert {s["label"]: s["score"] for s in row["scores"]} == pytest.approx(expected, abs=1e-6)
    strongest = np.argmax([p[LABELS.index(row["label"])] for p in single])
    assert row["frame_index"] == strongest


def test_two_people_have_windows_of_their_own() -> None:
    frames = [Picture(n, float(n), face_picture(grin=True)) for n in range(3)]
    seen = [face(n, track=t, face_index=t) for n in range(3) for t in range(2)]
    rows = analyse(face_only(), medium(frames=frames, faces=seen, duration_s=3.0))
    assert sorted((row["track_index"], row["start_s"], row["end_s"]) for row in rows) == [(0, 0.0, 3.0), (1, 0.0, 3.0)]


def test_faces_without_a_track_stand_alone() -> None:
    frames = [Picture(n, float(n), face_picture(grin=True)) for n in range(2)]
    rows = analyse(face_only(), medium(frames=frames, faces=[face(n, track=None) for n in range(2)], duration_s=2.0))
    assert [(row["start_s"], row["end_s"], row["track_index"]) for row in rows] == [(0.0, 1.0, None), (1.0, 2.0, None)]


def test_sparse_frames_do_not_stand_for_hours() -> None:
    frames = [Picture(n, 600.0 * n, face_picture(grin=True)) for n in range(2)]
    rows = analyse(face_only(), medium(frames=frames, faces=[face(0), face(1)], duration_s=1200.0))
    assert [(row["start_s"], row["end_s"]) for row in rows] == [(0.0, 10.0), (600.0, 610.0)]


@pytest.mark.parametrize(
    "poor", [{"quality": 0.1}, {"quality": None}, {"x2": 90.0}, {"landmarks": None}, {"landmarks": []}]
)
def test_a_poor_face_has_no_row(poor: dict[str, Any]) -> None:
    picture = Picture(0, 0.0, face_picture(grin=True))
    assert analyse(face_only(), medium(frames=[picture], faces=[face(0, **poor)])) == []


def test_without_faces_no_picture_is_decoded() -> None:
    frames = [Picture(n, float(n), face_picture(grin=True)) for n in range(3)]
    assert analyse(face_only(), medium(frames=frames, faces=[face(1)])) != []
    assert [len(frame.decoded) for frame in frames] == [0, 1, 0]
    for faces in ([], None):
        assert analyse(face_only(), medium(frames=frames, faces=faces)) == []
    assert [len(frame.decoded) for frame in frames] == [0, 1, 0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (3, 5)])
def test_odd_pictures(shape: tuple[int, int]) -> None:
    # A face that some detector believes in, in a picture of hardly any pixels.
    picture = Picture(0, 0.0, np.zeros((*shape, 3), np.uint8), width=shape[1], height=shape[0])
    analyse(face_only(), medium(frames=[picture], faces=[face(0)], kind="image"))


def test_several_threads_share_one_model() -> None:
    media = [medium(frames=[Picture(0, 0.0, face_picture(grin=n % 2 == 0))], faces=[face(0)]) for n in range(16)]
    alone = [analyse(face_only(), one) for one in media]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: analyse(face_only(), one), media)) == alone


@needs_media
@pytest.mark.parametrize(("name", "points"), SMILES)
def test_open_smiles_are_happy(name: str, points: list[list[float]]) -> None:
    import cv2

    image = cv2.cvtColor(cv2.imread(str(SHARED / "media/faces" / name)), cv2.COLOR_BGR2RGB)
    found = FaceEmotion().probabilities(image, np.array(points))
    assert LABELS[int(found.argmax())] == "happy"
    assert found.max() > 0.85


# --- voices ---------------------------------------------------------------------------------------------------------


def voice_folder(
    root: Path, labels: dict[int, str] | None = None, *, mask: bool = False, outputs: int | None = None, **config: Any
) -> Path:
    """A classifier with wav2vec2's interface: one convolution, listening for 200 Hz and for 2000 Hz."""
    labels = labels if labels is not None else {0: "neu", 1: "ang"}
    root.mkdir(parents=True, exist_ok=True)
    time = np.arange(160) / 16_000
    kernels = np.stack([np.cos(2 * np.pi * hertz * time) for hertz in (200, 2000)])[:, None].astype(np.float32)
    weights = np.zeros((2, outputs or len(labels)), np.float32)
    weights[0, 0] = weights[1, -1] = 0.2
    graph = OnnxGraph("voice")
    graph.input("input_values", ("batch", "samples"))
    if mask:  # as models with layer normalisation have it
        graph.input("attention_mask", ("batch", "samples"), INT64)
    graph.constant("channel", np.array([1], np.int64))
    graph.constant("kernels", kernels)
    graph.constant("weights", weights)
    graph.node("Unsqueeze", ["input_values", "channel"], "sound")
    graph.node("Conv", ["sound", "kernels"], "waves")
    graph.node("Relu", ["waves"], "energy")
    graph.node("GlobalAveragePool", ["energy"], "pooled")
    graph.node("Flatten", ["pooled"], "flat")
    graph.node("MatMul", ["flat", "weights"], "logits")
    graph.output("logits", ("batch", outputs or len(labels)))
    (root / "model.onnx").write_bytes(graph.model())
    text = {"id2label": {str(k): v for k, v in labels.items()}, **config}
    (root / "config.json").write_text(json.dumps(text))
    return root


def voice_model(folder: Path, tmp_path: Path) -> Model:
    return model_of(EmotionOptions(voice_model=str(folder)), tmp_path / "models")


@pytest.mark.parametrize("mask", [False, True])
def test_windows_of_turns_with_speakers(tmp_path: Path, mask: bool) -> None:
    sound = Sound(np.concatenate([tone(6.0, 200), tone(6.0, 2000), silence(2.0)]))
    turns = [turn(6.0, 12.0, "S2"), turn(0.0, 6.0, "S1"), turn(12.5, 12.9, "S1")]
    options = EmotionOptions(window_s=4.0)
    model = voice_model(voice_folder(tmp_path / "ser", mask=mask), tmp_path)
    rows = analyse(model, medium(sound=sound, turns=turns, kind="audio"), options)
    assert [(r["start_s"], r["end_s"], r["speaker"], r["label"]) for r in rows] == [
        (0.0, 3.0, "S1", "neutral"),
        (3.0, 6.0, "S1", "neutral"),
        (6.0, 9.0, "S2", "angry"),
        (9.0, 12.0, "S2", "angry"),
    ]
    assert {(r["source"], r["frame_index"], r["face_index"], r["track_index"]) for r in rows} == {
        ("voice", None, None, None)
    }
    assert rows[0]["model"].startswith("ser@")
    assert sound.longest_s <= 4.0


def test_each_channel_is_heard_alone(tmp_path: Path) -> None:
    sound = Sound(tone(4.0, 200), right=tone(4.0, 2000))
    model = voice_model(voice_folder(tmp_path / "ser"), tmp_path)
    rows = analyse(model, medium(sound=sound, turns=[turn(0.0, 4.0, "S1", 0), turn(0.0, 4.0, "S2", 1)]))
    assert [(row["speaker"], row["label"]) for row in rows] == [("S1", "neutral"), ("S2", "angry")]


def test_without_turns_the_voice_detector_looks(tmp_path: Path) -> None:
    sound = Sound(np.concatenate([silence(2.0), vowels(4.0), silence(2.0)]))
    model = voice_model(voice_folder(tmp_path / "ser"), tmp_path)
    rows = analyse(model, medium(sound=sound, kind="audio"))
    assert rows
    assert all(1.5 <= row["start_s"] < row["end_s"] <= 6.5 and row["speaker"] is None for row in rows)


def test_no_speech_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = voice_model(voice_folder(tmp_path / "ser"), tmp_path)
    calls: list[int] = []
    whole = _emotion_voice.VoiceEmotion.probabilities
    monkeypatch.setattr(
        _emotion_voice.VoiceEmotion, "probabilities", lambda self, s: (calls.append(len(s)), whole(self, s))[1]
    )
    assert analyse(model, medium(sound=Sound(silence(5.0)), kind="audio")) == []
    assert analyse(model, medium(sound=None, kind="audio")) == []
    assert calls == []
    assert analyse(model, medium(sound=Sound(tone(3.0, 200)), turns=[turn(0.0, 3.0)])) != []
    assert len(calls) == 1


def test_faces_and_voices_together(tmp_path: Path) -> None:
    model = voice_model(voice_folder(tmp_path / "ser"), tmp_path)
    given = medium(
        frames=[Picture(0, 0.0, face_picture(grin=True))],
        faces=[face(0)],
        sound=Sound(tone(3.0, 200)),
        turns=[turn(0.0, 3.0)],
        duration_s=3.0,
    )
    rows = analyse(model, given)
    assert [(row["source"], row["label"]) for row in rows] == [("face", "happy"), ("voice", "neutral")]
    assert "experimental" in preview(ANALYZER.run(model, (given,), EmotionOptions()))


def test_the_voice_is_what_the_formula_says(tmp_path: Path) -> None:
    samples = vowels(1.0) + 0.05
    voice = _emotion_voice.load_voice(voice_folder(tmp_path / "ser"), "cpu")
    normal = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    time = np.arange(160) / 16_000
    windows = np.lib.stride_tricks.sliding_window_view(normal.astype(np.float64), 160)
    energy = [np.maximum(windows @ np.cos(2 * np.pi * hertz * time), 0).mean() for hertz in (200, 2000)]
    shares = np.exp(np.array(energy) * 0.2)
    assert voice.probabilities(samples) == pytest.approx(shares / shares.sum(), abs=1e-5)


def test_sound_is_taken_as_the_extractor_says(tmp_path: Path) -> None:
    folder = voice_folder(tmp_path / "ser")
    quiet = tone(1.0, 2000) * 1e-3
    assert _emotion_voice.load_voice(folder, "cpu").probabilities(quiet)[1] > 0.9
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 16000}')
    assert _emotion_voice.load_voice(folder, "cpu").probabilities(quiet)[1] == pytest.approx(0.5, abs=0.01)


def test_broken_samples_give_no_nan(tmp_path: Path) -> None:
    voice = _emotion_voice.load_voice(voice_folder(tmp_path / "ser"), "cpu")
    samples = tone(1.0, 200)
    samples[100:200] = np.nan
    assert np.isfinite(voice.probabilities(samples)).all()


@needs_media
def test_a_recording_goes_through(tmp_path: Path) -> None:
    from media_pipeline_tests._sound import shared_sound

    sound = shared_sound("emotion/male_angry_this_coffee_sucks.wav")
    spans = SileroVad().spans(sound, _emotion_voice.Gate())
    rows = analyse(voice_model(voice_folder(tmp_path / "ser"), tmp_path), medium(sound=sound, kind="audio"))
    assert bool(rows) == any(span.duration_s >= 1.0 for span in spans)


# --- choosing -------------------------------------------------------------------------------------------------------


def test_without_a_voice_model_only_faces_and_a_remedy(tmp_path: Path) -> None:
    choice = ANALYZER.choose(EmotionOptions(), store(tmp_path))
    assert (choice.tier, choice.path) == ("embedded", None)
    assert "MEDIA_PIPELINE_OPTIONS__EMOTION__VOICE_MODEL" in (choice.warning or "")
    assert ANALYZER.choose(EmotionOptions(), store(tmp_path, "embedded")).warning is None


def test_the_weights_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    folder = voice_folder(tmp_path / "ser")
    options = EmotionOptions(voice_model=str(folder))
    faces, both = (ANALYZER.choose(o, store(tmp_path / "models")) for o in (EmotionOptions(), options))
    assert (both.tier, both.warning, both.path) == ("standard", None, folder)
    voice_folder(folder, {0: "neu", 1: "sad"})
    other = ANALYZER.choose(options, store(tmp_path / "models"))
    assert len({faces.digest, both.digest, other.digest}) == 3


def test_the_voice_detector_is_part_of_the_fingerprint_where_voices_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (EmotionOptions(), EmotionOptions(voice_model=str(voice_folder(tmp_path / "ser"))))
    before = [ANALYZER.choose(options, store(tmp_path / "models")).digest for options in asked]
    (tmp_path / "other.onnx").write_bytes(b"another detector")
    monkeypatch.setattr(_vad, "weights_file", lambda: tmp_path / "other.onnx")
    after = [ANALYZER.choose(options, store(tmp_path / "models")).digest for options in asked]
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "no ONNX file"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a speech emotion model"),
        (lambda folder: (folder / "config.json").write_text("{}"), "id2label"),
        (lambda folder: voice_folder(folder, {0: "a", 2: "b"}), "numbers the labels"),
        (lambda folder: voice_folder(folder, problem_type="regression"), "scales"),
        (lambda folder: (folder / "preprocessor_config.json").write_text('{"sampling_rate": 8000}'), "8000 Hz"),
    ],
)
def test_a_folder_that_is_no_model(tmp_path: Path, spoil: Any, why: str) -> None:
    folder = voice_folder(tmp_path / "ser")
    spoil(folder)
    with pytest.raises(ModelUnavailable, match=why) as caught:
        ANALYZER.choose(EmotionOptions(voice_model=str(folder)), store(tmp_path / "models"))
    assert "VOICE_MODEL" in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="not on this machine"):
        ANALYZER.choose(EmotionOptions(voice_model=str(tmp_path / "nothing")), store(tmp_path))


def test_a_network_that_does_not_fit_its_labels(tmp_path: Path) -> None:
    options = EmotionOptions(voice_model=str(voice_folder(tmp_path / "ser", outputs=5)))
    with pytest.raises(ModelUnavailable, match="5 numbers for 2 labels"):
        model_of(options, tmp_path / "models")
    (tmp_path / "ser/model.onnx").write_bytes(b"no network")
    with pytest.raises(ModelUnavailable, match="cannot be run on sound"):
        model_of(options, tmp_path / "models")


def test_labels_share_the_words_of_the_face(tmp_path: Path) -> None:
    labels = dict(enumerate(["ANG", "happiness", "Sadness", "fearful", "disgusted", "surprised", "NEU", "calm"]))
    _, words, _ = _emotion_voice.find_weights(voice_folder(tmp_path / "ser", labels))
    assert words == ("angry", "happy", "sad", "fear", "disgust", "surprise", "neutral", "calm")


def test_windows_too_short_to_hear_anything_in_are_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        EmotionOptions(window_s=0.05)


def test_it_says_that_it_is_experimental() -> None:
    assert "xperimental" in ANALYZER.description
    assert "experimental" in preview(ANALYZER.schema.empty_table())
