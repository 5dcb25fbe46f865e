"""A tiny random Whisper in CTranslate2's format, made offline: the real code path, no meaning."""

from __future__ import annotations

from pathlib import Path


def make_whisper(folder: Path) -> Path:
    """`folder`/ct2, about 0.5 MB: one layer of width 64 and a byte vocabulary, seeded."""
    _ensure_torchvision()
    import torch
    from ctranslate2.converters import TransformersConverter
    from faster_whisper.tokenizer import _LANGUAGE_CODES
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    source = folder / "hf"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    languages = list(_LANGUAGE_CODES)
    tasks = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    special = ["endoftext", "startoftranscript", *languages, *tasks]
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in special])
    tokenizer.add_tokens([AddedToken(f"<|{n * 0.02:.2f}|>") for n in range(1501)])
    end = tokenizer.token_to_id("<|endoftext|>")
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=tokenizer.get_vocab_size(),
            num_mel_bins=80,
            d_model=64,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            pad_token_id=end,
            bos_token_id=end,
            eos_token_id=end,
            decoder_start_token_id=tokenizer.token_to_id("<|startoftranscript|>"),
            suppress_tokens=[],
            begin_suppress_tokens=[end],
        )
    )
    generation = model.generation_config
    generation.no_timestamps_token_id = tokenizer.token_to_id("<|notimestamps|>")
    generation.lang_to_id = {f"<|{code}|>": tokenizer.token_to_id(f"<|{code}|>") for code in languages}
    generation.task_to_id = {task: tokenizer.token_to_id(f"<|{task}|>") for task in tasks[:2]}
    generation.is_multilingual = True
    generation.alignment_heads = [[0, 0], [0, 1]]
    generation.suppress_tokens = []
    generation.begin_suppress_tokens = [end]
    generation._from_model_config = False
    model.save_pretrained(source)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(source)
    roles = dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), "<|endoftext|>")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(source)
    tokenizer.save(str(source / "tokenizer.json"))
    converter = TransformersConverter(str(source), copy_files=["tokenizer.json", "preprocessor_config.json"])
    converter.convert(str(folder / "ct2"), quantization="int8")
    return folder / "ct2"


def _ensure_torchvision() -> None:
    """The registry's torchvision is built for CUDA: beside a CPU torch two of its operators miss their schemas."""
    import sys

    try:
        import torchvision  # noqa: F401

        return
    except ImportError:
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torch

    global _schemas
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        _schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_schemas: object = None  # torch drops the schemas with the object
