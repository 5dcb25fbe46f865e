"""The yardstick: a loop over files that decodes each one and runs the analyzers, and does nothing else.

    python -m benchmarks.bare_loop FOLDER OUT.json [--library-defaults]

No intake, no sandbox, no tables, no ledger, no Dagster. Without the flag it uses the very functions and options the
pipeline uses; with it, what one writes after reading the libraries' first pages.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from media_pipeline.config import load_settings

if TYPE_CHECKING:
    from media_pipeline.analyzers._spec import Medium

SAMPLED_S = (0.5, 1.5, 3.5)  # where the pipeline looks in a clip of a few seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--library-defaults", action="store_true")
    arguments = parser.parse_args()
    files = sorted(arguments.folder.iterdir())
    texts = library_defaults(files) if arguments.library_defaults else same_models(files)
    arguments.out.write_text(json.dumps(texts, ensure_ascii=False))


def same_models(files: list[Path]) -> dict[str, list[str]]:
    """Decode and analyse each file with the pipeline's own functions; the lines read in each."""
    from media_pipeline.analyzers._models import ModelStore
    from media_pipeline.analyzers._registry import registry
    from media_pipeline.execution.stages import options_for

    settings = load_settings()
    store = ModelStore(settings.models, offline=True, hub_url=settings.hub_url, tier="embedded")
    models = {}
    for spec in registry().values():
        options = options_for(spec, settings)
        models[spec.name] = spec.load(spec.choose(options, store), "cpu", options), options
    texts = {}
    with tempfile.TemporaryDirectory() as folder:
        for path, decoded in zip(files, decoded_media(files, Path(folder)), strict=True):
            rows = {}
            for spec in registry().values():
                model, options = models[spec.name]
                medium = replace(decoded, rows={name: rows[name] for name in spec.upstream_analyzers})
                has_input = ("frames" in spec.needs and len(medium.frames)) or ("audio" in spec.needs and medium.audio)
                applies = medium.kind in spec.kinds and (has_input or spec.upstream_analyzers)
                rows[spec.name] = spec.run(model, (medium,), options) if applies else spec.schema.empty_table()
            texts[path.name] = rows["ocr"]["text"].to_pylist()
    return texts


def decoded_media(files: Iterable[Path], folder: Path) -> Iterator[Medium]:
    """Frames and sound of each file, cached below the folder as the pipeline caches them."""
    from media_pipeline.analyzers._spec import Medium
    from media_pipeline.media.cache import Cache
    from media_pipeline.media.worker import make_handler

    settings = load_settings()
    config = {"limits": settings.decode.model_dump(mode="json"), "sampling": settings.sampling.model_dump(mode="json")}
    decode, cache = make_handler(config), Cache(folder, 1 << 40)
    for number, path in enumerate(files):
        entry = _decoded(cache, decode, path, f"{number:064x}")
        yield Medium(
            media_id=entry.media_id,
            kind=entry.facts.kind,
            frames=entry.frames,
            audio=entry.audio,
            frame_scores=entry.frame_scores,
            duration_s=entry.facts.duration_s,
        )


def _decoded(cache, decode: Callable, path: Path, media_id: str):
    from media_pipeline.media.types import facts_from_json

    folder = cache.incoming(media_id)
    job = {"path": bytes(path).hex(), "folder": str(folder), "threads": 1}
    cache.commit(folder, media_id, "bench", facts_from_json(decode(job, lambda: None)))
    return cache.get(media_id, "bench")


def library_defaults(files: list[Path]) -> dict[str, list[str]]:
    """Each analyzer opens the file itself, with its library's own defaults; frames as the pipeline samples them."""
    import av
    import numpy as np
    import pocketsphinx
    from faster_whisper.audio import decode_audio
    from faster_whisper.vad import get_speech_timestamps
    from PIL import Image, ImageOps
    from rapidocr import RapidOCR
    from scenedetect import AdaptiveDetector, detect

    ocr = RapidOCR()
    recognizer = pocketsphinx.Decoder(samprate=16000, loglevel="FATAL")
    texts: dict[str, list[str]] = {}
    for path in files:
        pictures, sound = [], None
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as picture:
                pictures.append(np.asarray(ImageOps.exif_transpose(picture).convert("RGB")))
        elif path.suffix == ".mp4":
            cuts = [start.seconds for start, _ in detect(str(path), AdaptiveDetector())]
            wanted = sorted({*SAMPLED_S, *(cut + 0.5 for cut in cuts)})
            with av.open(str(path)) as container:
                for frame in container.decode(video=0):
                    if wanted and frame.time >= wanted[0]:
                        pictures.append(frame.to_ndarray(format="rgb24"))
                        wanted.pop(0)
            sound = decode_audio(str(path))
        else:
            sound = decode_audio(str(path))
        texts[path.name] = [line for p in pictures for line in (ocr(p[:, :, ::-1]).txts or ())]
        for span in get_speech_timestamps(sound) if sound is not None else ():
            recognizer.start_utt()
            recognizer.process_raw(
                (sound[span["start"] : span["end"]] * 32767).astype(np.int16).tobytes(), full_utt=True
            )
            recognizer.end_utt()
    return texts


if __name__ == "__main__":
    main()
