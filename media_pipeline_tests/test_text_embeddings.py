from __future__ import annotations

import json
from functools import cache
from math import erf, sqrt
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._onnx_graph import INT64, OnnxGraph
from media_pipeline.analyzers._spec import Medium
from media_pipeline.analyzers._text_encoder import MAX_TOKENS, load_encoder
from media_pipeline.analyzers._text_graph import bert_graph
from media_pipeline.analyzers._text_passages import TARGET_CHARS, Passage, passages
from media_pipeline.analyzers.text_embeddings import ANALYZER, EMBEDDED, TextEmbeddingsOptions, _embedded_folder
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._text_home import encoder, media_id, ocr_rows, tiny_model, transcript_rows

Array = npt.NDArray[np.float32]
OPTIONS = TextEmbeddingsOptions()
TEXTS = [
    "A dog runs on the beach",
    "Die Rechnungsnummer steht oben rechts, der Betrag ist in vierzehn Tagen zu zahlen.",
    "Total",
    "a somewhat longer text, so that the others are padded beside it " * 2,
    "",
    "日本語 ελληνικά 4711",
]


# ---------------------------------------------------------------------- the encoder


@cache
def weights(folder: Path) -> dict[str, Array]:
    found = load_file(folder / "model.safetensors")
    return {k.removeprefix("roberta."): v.astype(np.float64) for k, v in found.items() if v.dtype.kind == "f"}


def reference(folder: Path, text: str, roberta: bool = False) -> Array:
    """The formula as it stands in the paper: one text at a time, no padding, nothing fused, float64."""
    known = weights(folder)
    config = json.loads((folder / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    ids = tokenizer.encode(text).ids
    heads, gelu = config["num_attention_heads"], np.vectorize(lambda v: v * 0.5 * (1 + erf(v / sqrt(2))))

    def norm(x: Array, name: str) -> Array:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config["layer_norm_eps"])
        return scaled * known[f"{name}.weight"] + known[f"{name}.bias"]

    def linear(x: Array, name: str) -> Array:
        return x @ known[f"{name}.weight"].T + known[f"{name}.bias"]

    first = config["pad_token_id"] + 1 if roberta else 0
    places = known["embeddings.position_embeddings.weight"][first : first + len(ids)]
    x = known["embeddings.word_embeddings.weight"][ids] + places + known["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        p = f"encoder.layer.{layer}."
        q, k, v = (np.split(linear(x, f"{p}attention.self.{n}"), heads, axis=1) for n in ("query", "key", "value"))
        mixed = []
        for a, b, c in zip(q, k, v, strict=True):
            shares = np.exp(a @ b.T / sqrt(a.shape[1]))
            mixed.append(shares / shares.sum(1, keepdims=True) @ c)
        x = norm(x + linear(np.concatenate(mixed, 1), f"{p}attention.output.dense"), f"{p}attention.output.LayerNorm")
        x = norm(x + linear(gelu(linear(x, f"{p}intermediate.dense")), f"{p}output.dense"), f"{p}output.LayerNorm")
    pooled = x.mean(0)
    return np.asarray(pooled / np.linalg.norm(pooled), np.float32)


@pytest.mark.slow
def test_vectors_are_those_of_the_formula() -> None:
    expected = np.stack([reference(_embedded_folder(), text) for text in TEXTS])
    vectors = encoder().encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(expected, abs=2e-6)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


def test_a_vector_does_not_depend_on_its_company() -> None:
    together = encoder().encode([*TEXTS, *(f"line {n} of many" for n in range(40))])
    alone = np.concatenate([encoder().encode([text]) for text in TEXTS])
    assert together[: len(TEXTS)] == pytest.approx(alone, abs=1e-6)


def test_long_texts_are_cut() -> None:
    # 256 tokens, two of which mark the ends.
    long, longer, shorter = encoder().encode(["word " * n for n in (254, 400, 253)])
    assert longer == pytest.approx(long, abs=1e-6)
    assert np.abs(shorter - long).max() > 1e-5


def test_nothing_to_encode() -> None:
    assert encoder().encode([]).shape == (0, 384)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_other_weights_through_the_same_code(tmp_path: Path, kind: str) -> None:
    folder = tiny_model(tmp_path / "tiny", kind)
    texts = ["a b c", "z", "q u e r y x y"]
    vectors = load_encoder(folder, "tiny", "tiny@0").encode(texts)
    expected = np.stack([reference(folder, text, roberta=kind == "xlm-roberta") for text in texts])
    assert vectors == pytest.approx(expected, abs=1e-5)


def test_e5_reads_its_prefixes(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "multilingual-e5-small")
    plain, e5 = load_encoder(folder, "tiny", "x"), load_encoder(folder, "multilingual-e5-small", "y")
    assert e5.encode(["a b"], "query") == pytest.approx(plain.encode(["query: a b"]), abs=1e-6)
    assert e5.encode(["a b"], "passage") == pytest.approx(plain.encode(["passage: a b"]), abs=1e-6)
    assert np.abs(e5.encode(["a b"], "query") - e5.encode(["a b"], "passage")).max() > 1e-3


def test_the_models_own_prompts_win(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "e5")
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q ", "document": "d "}}')
    assert load_encoder(folder, "e5", "x").prefixes == {"query": "q ", "passage": "d "}


def test_a_ready_onnx_file_is_used(tmp_path: Path) -> None:
    # A graph that only looks its ids up names neither a mask nor token types, so they must not be given.
    folder = tiny_model(tmp_path / "tiny")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model_quantized.onnx").write_bytes(token_graph(folder))
    (folder / "model.safetensors").unlink()
    vectors = load_encoder(folder, "tiny", "x").encode(["a b c", "b"])
    words = load_table(folder)
    expected = np.stack([words[[0, 4, 5, 6, 2]].mean(0), words[[0, 5, 2]].mean(0)])
    assert vectors == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-6)


def load_table(folder: Path) -> Array:
    return np.random.default_rng(7).normal(size=(40, 384)).astype(np.float32)


def token_graph(folder: Path) -> bytes:
    """hidden = table[input_ids]."""
    graph = OnnxGraph("tokens")
    graph.input("input_ids", ("batch", "tokens"), INT64)
    graph.node("Gather", [graph.constant("table", load_table(folder)), "input_ids"], "hidden")
    graph.output("hidden", ("batch", "tokens", 384))
    return graph.model()


def test_unusable_folders_say_what_is_wrong(tmp_path: Path) -> None:
    wide = tiny_model(tmp_path / "wide", hidden=768)
    with pytest.raises(ModelUnavailable, match="768 numbers, not 384"):
        load_encoder(wide, "wide", "x")
    damaged = tiny_model(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ModelUnavailable, match=r"config\.json, tokenizer\.json"):
        load_encoder(damaged, "damaged", "x")
    with pytest.raises(ModelUnavailable):
        load_encoder(tmp_path, "empty", "x")


def test_weights_that_are_not_a_bert() -> None:
    with pytest.raises(KeyError):
        bert_graph({"conv.weight": np.zeros((3, 3), np.float32)}, 12, 1e-12)


# ---------------------------------------------------------------------- which model


def store(folder: Path, tier: str) -> ModelStore:
    return ModelStore(folder, offline=True, hub_url="http://127.0.0.1:9", tier=tier)


def test_tiers(tmp_path: Path) -> None:
    embedded = ANALYZER.choose(OPTIONS, store(tmp_path, "embedded"))
    assert (embedded.name, embedded.tier, embedded.warning) == (EMBEDDED, "embedded", None)
    assert embedded.digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    auto = ANALYZER.choose(OPTIONS, store(tmp_path, "auto"))
    assert auto.tier == "embedded"
    assert "models pull multilingual-e5-small" in str(auto.warning)
    with pytest.raises(ModelUnavailable, match="models pull multilingual-e5-small"):
        ANALYZER.choose(OPTIONS, store(tmp_path, "standard"))


def test_a_local_folder_is_a_model_of_its_own(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "mine")
    options = TextEmbeddingsOptions(model=str(folder))
    choice = ANALYZER.choose(options, store(tmp_path, "auto"))
    assert (choice.name, choice.path) == ("mine", folder)
    rows = ANALYZER.run(ANALYZER.load(choice, "cpu", options), (medium("m", ocr=[(0.0, ["a b c d"])]),), options)
    assert rows["model"].to_pylist() == [f"mine@{choice.digest[:12]}"]
    tiny_model(folder, seed=1)
    assert ANALYZER.choose(options, store(tmp_path, "auto")).digest != choice.digest


# ---------------------------------------------------------------------- the analyzer


def medium(name: str, ocr: object = None, transcript: object = None) -> Medium:
    rows = {}
    if ocr is not None:
        rows["ocr"] = ocr_rows(name, ocr)  # type: ignore[arg-type]
    if transcript is not None:
        rows["transcript"] = transcript_rows(name, transcript)  # type: ignore[arg-type]
    return Medium(media_id(name), "video", rows=rows)


def test_rows_of_several_media() -> None:
    batch = (
        medium("slides", ocr=[(0.0, ["Welcome to the annual meeting"]), (5.0, ["Thank you"])]),
        medium("talk", ocr=[(1.0, ["Thank you"])], transcript=[(2.0, 4.0, "Good morning everybody")]),
        medium("silent"),
        medium("numbers", ocr=[(0.0, ["12", "3 / 4"])]),
    )
    table = ANALYZER.run(encoder(), batch, OPTIONS)
    ANALYZER.check(table, {m.media_id for m in batch})
    assert table.schema.equals(ANALYZER.schema)
    found = [(r["media_id"], r["source"], r["row_index"], r["pts_s"], r["text"]) for r in table.to_pylist()]
    assert found == [
        (media_id("slides"), "ocr", 0, 0.0, "Welcome to the annual meeting"),
        (media_id("slides"), "ocr", 1, 5.0, "Thank you"),
        (media_id("talk"), "ocr", 0, 1.0, "Thank you"),
        (media_id("talk"), "transcript", 0, 2.0, "Good morning everybody"),
    ]
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    assert vectors == pytest.approx(encoder().encode([row[4] for row in found]), abs=1e-6)
    assert ANALYZER.preview is not None
    assert ANALYZER.preview(table) == "3 passages on the screen, 1 passage spoken"


def test_media_without_text_have_no_rows() -> None:
    table = ANALYZER.run(encoder(), (medium("a"), medium("b", ocr=[])), OPTIONS)
    assert table.num_rows == 0
    assert table.schema.equals(ANALYZER.schema)


# ---------------------------------------------------------------------- passages


def of_ocr(*frames: tuple[float, list[str]]) -> list[Passage]:
    return passages(ocr_rows("m", frames), None)


def test_lines_of_a_frame_are_joined_up_to_a_length() -> None:
    lines = [f"line number {n:02} of this page" for n in range(20)]
    found = of_ocr((3.0, lines))
    assert "\n".join(p.text for p in found) == "\n".join(lines)
    assert all(len(p.text) <= TARGET_CHARS for p in found)
    assert len(found) == -(-20 // (TARGET_CHARS // (len(lines[0]) + 1)))
    assert [lines[p.row_index] == p.text.split("\n")[0] for p in found] == [True] * len(found)


def test_rows_are_put_in_order_first() -> None:
    table = ocr_rows("m", [(0.0, ["first", "second"]), (1.0, ["third"])])
    found = passages(table.take(pa.array([2, 1, 0])), None)
    assert [(p.row_index, p.text) for p in found] == [(0, "first\nsecond"), (2, "third")]


def test_a_text_that_stays_is_one_passage() -> None:
    found = of_ocr((0.0, ["Agenda"]), (5.0, ["AGENDA."]), (10.0, ["Budget"]), (15.0, ["Agenda"]), (100.0, ["Agenda"]))
    assert [(p.pts_s, p.text) for p in found] == [
        (0.0, "Agenda"),
        (10.0, "Budget"),
        (15.0, "Agenda"),
        (100.0, "Agenda"),
    ]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["this will ex-", "plain it"], "this will explain it"),
        (["Rechnungs-", "nummer 4711"], "Rechnungsnummer 4711"),
        (["Berlin-", "Mitte"], "Berlin-Mitte"),
        (["- one", "- two"], "- one\n- two"),
        (["pages 3-", "5"], "pages 3-\n5"),
        (["Mu\u0308nchen  Ost"], "München Ost"),
    ],
)
def test_words_broken_over_lines(lines: list[str], text: str) -> None:
    assert [p.text for p in of_ocr((0.0, lines))] == [text]


def test_speech_is_joined_until_a_pause() -> None:
    table = transcript_rows("m", [(0, 2, " So this is it."), (2.1, 4, "Really."), (4, 5, ""), (9, 11, "Later.")])
    first, second = passages(None, table)
    assert (first.text, first.pts_s, first.row_index) == ("So this is it. Really.", 0.0, 0)
    assert [(first.text[at:][:6], pts_s) for at, pts_s in first.marks] == [("So thi", 0.0), ("Really", 2.1)]
    assert (second.text, second.pts_s, second.row_index) == ("Later.", 9.0, 3)


def test_speakers_are_not_joined() -> None:
    table = transcript_rows("m", [(0, 1, "Yes?"), (1, 2, "No."), (2, 3, "Why?")])
    table = table.set_column(table.schema.get_field_index("speaker"), "speaker", pa.array(["A", "A", "B"]))
    assert [p.text for p in passages(None, table)] == ["Yes? No.", "Why?"]
