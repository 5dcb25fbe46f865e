from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from media_pipeline.analyzers._clip import load_clip
from media_pipeline.analyzers._clip_weights import MULTILINGUAL, STANDARD, choose_clip, clip_fingerprint, clip_on_disk
from media_pipeline.analyzers._model_catalog import CATALOG
from media_pipeline.analyzers._spec import ModelChoice
from media_pipeline.analyzers._torch import import_torch
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._clip import DIMENSION, config, picture, save_weights, shared_clip, store, tiny_clip

pytestmark = pytest.mark.slow  # torch and open_clip alone take seconds to import


def loaded(path: Path, digest: str = "f" * 64):
    return load_clip(ModelChoice(path.stem, "standard", digest, path))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something asked the network"))


# ---------------------------------------------------------------------- choosing


def test_the_catalogue_has_both_models() -> None:
    assert {STANDARD, MULTILINGUAL} <= CATALOG.keys()
    assert all(CATALOG[name].analyzer == "image_embeddings" for name in (STANDARD, MULTILINGUAL))


def test_missing_weights_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as error:
        choose_clip(None, store(tmp_path))
    assert error.value.remedy == f"run `MEDIA_PIPELINE_OFFLINE=0 media-pipeline models pull {STANDARD}`"
    with pytest.raises(ModelUnavailable, match=r"tier is embedded.*models pull"):
        choose_clip(None, store(tmp_path, "embedded"))
    with pytest.raises(ModelUnavailable, match="no model is called"):
        choose_clip("ViT-Z", store(tmp_path))


def test_a_folder_and_a_file_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = tiny_clip(tmp_path / "mine")
    choice = choose_clip(str(folder), store(tmp_path / "models", "embedded"))
    assert (choice.name, choice.tier, choice.path) == ("mine", "standard", folder)
    assert clip_fingerprint(choice) == f"mine@{choice.digest[:12]}"
    file = folder / "open_clip_model.safetensors"
    assert choose_clip(str(file), store(tmp_path / "models")).path == file
    assert [c.path for c in clip_on_disk(str(folder), store(tmp_path / "models"))] == [folder]
    before = choice.digest
    tiny_clip(folder, seed=1)
    assert choose_clip(str(folder), store(tmp_path / "other")).digest != before


# ---------------------------------------------------------------------- loading


def test_weights_named_after_their_architecture(tmp_path: Path) -> None:
    import_torch()
    import open_clip

    model_cfg = config()["model_cfg"]
    (tmp_path / "cfg").mkdir()
    (tmp_path / "cfg" / "Tiny-8.json").write_text(json.dumps(model_cfg))
    open_clip.add_model_config(tmp_path / "cfg")
    safe, plain = tmp_path / "Tiny-8-mine" / "weights.safetensors", tmp_path / "Tiny-8.pt"
    safe.parent.mkdir()
    save_weights(model_cfg, safe)
    save_weights(model_cfg, plain)
    a, b = loaded(safe.parent, "a" * 64), loaded(plain, "b" * 64)
    assert np.allclose(a.encode_images([picture(1)]), b.encode_images([picture(1)]), atol=1e-6)
    assert np.allclose(a.encode_texts(["a dog"]), b.encode_texts(["a dog"]), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda f: None, "begins with no architecture"),
        (lambda f: (f / "open_clip_config.json").write_text("{"), "JSONDecodeError"),
        (lambda f: (f / "open_clip_config.json").write_text(json.dumps(config())), "could not be loaded"),
        (
            lambda f: (f / "open_clip_config.json").write_text(json.dumps(config(hf_model_name="xlm-roberta-base"))),
            "put that model's config.json into the folder",
        ),
    ],
    ids=["empty", "no JSON", "no weights", "text tower elsewhere"],
)
def test_what_is_no_model_says_why(tmp_path: Path, make, cause: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    make(folder)
    with pytest.raises(ModelUnavailable, match=cause):
        loaded(folder)


def test_pickles_that_do_more_than_tensors_are_refused(tmp_path: Path) -> None:
    torch = import_torch()
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config()))
    torch.save({"weights": threading.Thread}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match=r"weights_only|Weights only"):
        loaded(folder)


def test_a_multilingual_text_tower_loads_from_its_folder(tmp_path: Path) -> None:
    # As XLM-R based models: tower and tokenizer of Hugging Face, both out of the folder, and a large vocabulary.
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig

    folder = tmp_path / "mine"
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "hund": 4, "katze": 5}
    words |= {f"w{n}": n for n in range(len(words), 110_000)}
    tokenizer = Tokenizer(models.WordLevel(words, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    XLMRobertaConfig(
        vocab_size=110_000,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=100,
    ).save_pretrained(folder)
    cfg = config(hf_model_name="xlm-roberta-base", hf_tokenizer_name="xlm-roberta-base", hf_pooler_type="mean_pooler")
    (folder / "open_clip_config.json").write_text(json.dumps(cfg))
    own = json.loads(json.dumps(cfg))["model_cfg"]
    own["text_cfg"] |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    save_weights(own, folder / "open_clip_model.safetensors")

    model = loaded(folder, "e" * 64)
    assert model.multilingual
    dog, cat, again = model.encode_texts(["hund", "katze", "hund"])
    assert np.array_equal(dog, again)
    assert not np.allclose(dog, cat)


def test_a_multilingual_model_with_a_tower_of_its_own(tmp_path: Path) -> None:
    # As ViT-B-16-SigLIP2: open_clip's text tower, a Gemma tokenizer out of the folder, no config.json.
    from tokenizers import Tokenizer, models, processors

    folder = tmp_path / "mine"
    folder.mkdir()
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "\u2581": 4, "h": 5, "u": 6, "n": 7, "d": 8}
    words |= {"hu": 9, "nd": 10, "hund": 11} | {f"w{n}": n for n in range(12, 110_000)}
    merges = [("h", "u"), ("n", "d"), ("hu", "nd")]
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=merges, unk_token="<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    more = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps(special | more))
    text = {"context_length": 8, "vocab_size": 110_000, "width": 32, "heads": 2, "layers": 1, "pool_type": "last"}
    cfg = config(**text, hf_tokenizer_name="timm/ViT-B-16-SigLIP2", no_causal_mask=True)
    (folder / "open_clip_config.json").write_text(json.dumps(cfg))
    save_weights(cfg["model_cfg"], folder / "open_clip_model.safetensors")

    model = loaded(folder, "9" * 64)
    assert model.multilingual
    assert model._tokenizer(["hund"]).tolist() == [[11, 1, 0, 0, 0, 0, 0, 0]]
    assert model.encode_texts(["hund", "hund " * 50]).shape == (2, DIMENSION)


# ---------------------------------------------------------------------- encoding


def test_vectors_are_what_open_clip_itself_computes() -> None:
    choice, model = shared_clip()
    torch = import_torch()
    import open_clip

    own, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{choice.path}")
    pictures = [picture(1), picture(2, 200, 31), np.full((16, 300, 3), 7, np.uint8)]
    with torch.no_grad():
        tensors = torch.stack([preprocess(Pillow.fromarray(p)) for p in pictures])
        expected = own.eval().encode_image(tensors, normalize=True).numpy()
        tokens = open_clip.get_tokenizer(f"local-dir:{choice.path}")(["a dog", "ein Hund"])
        words = own.encode_text(tokens, normalize=True).numpy()
    assert np.allclose(model.encode_images(pictures), expected, atol=1e-6)
    assert np.allclose(model.encode_texts(["a dog", "ein Hund"]), words, atol=1e-6)
    assert not model.multilingual
    assert model.logit_scale == pytest.approx(float(own.logit_scale.detach().exp()))


def test_shapes_and_norms() -> None:
    _, model = shared_clip()
    vectors = model.encode_images(picture(n) for n in range(5))
    assert vectors.shape == (5, DIMENSION)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(model.encode_images((picture(n) for n in range(5)), batch=2), vectors, atol=1e-5)
    assert model.encode_images([]).shape == (0, DIMENSION)
    assert model.encode_texts([]).shape == (0, DIMENSION)
    assert model.encode_texts(["", "x" * 10_000, "🐕"] * 30).shape == (90, DIMENSION)


def test_pictures_are_taken_as_they_are_needed() -> None:
    _, model = shared_clip()
    taken: list[int] = []

    def lazily():
        for n in range(6):
            taken.append(n)
            yield picture(n)
            if n == 3:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        model.encode_images(lazily(), batch=2)
    assert taken == [0, 1, 2, 3]


def test_many_threads_get_the_same_vectors() -> None:
    _, model = shared_clip()
    expected, words = model.encode_images([picture(3)]), model.encode_texts(["a red bus"])
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda _: model.encode_images([picture(3)]), range(32)))
        texts = list(pool.map(lambda _: model.encode_texts(["a red bus"]), range(32)))
    assert all(np.allclose(v, expected, atol=1e-6) for v in images)
    assert all(np.allclose(v, words, atol=1e-6) for v in texts)


def test_one_copy_for_all_who_hold_it() -> None:
    choice, model = shared_clip()
    assert load_clip(choice) is model


def test_one_call_uses_as_many_threads_as_it_was_told() -> None:
    choice, _ = shared_clip()
    load_clip(ModelChoice("threads", "standard", "d" * 64, choice.path), threads=1)
    assert import_torch().get_num_threads() == 1
