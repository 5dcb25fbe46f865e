"""Which CLIP weights there are. No package carries any: they are downloaded once, or lie in a folder of the user's."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._packaged import sha256_of
from media_pipeline.analyzers._spec import ModelChoice
from media_pipeline.errors import ModelUnavailable

STANDARD = "ViT-B-32-laion2b"  # English; fast
MULTILINGUAL = "ViT-B-16-SigLIP2"  # German and some hundred languages; four times the work per picture
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")


def choose_clip(model: str | None, store: ModelStore) -> ModelChoice:
    """The configured model, a catalogued name or a path, else the standard one. Loads nothing.

    Raises:
        ModelUnavailable: it is not here and cannot be had; the remedy is the command that mends it.
    """
    wanted = model or STANDARD
    if model is None and store.tier == "embedded":
        raise ModelUnavailable(
            "the tier is embedded, and no installed package carries CLIP weights",
            f"set MEDIA_PIPELINE_TIER to auto and {store.remedy(wanted)}",
        )
    found = _weights_file(wanted) or store.obtain(wanted)
    if found is None:
        raise ModelUnavailable(store.reason(wanted), store.remedy(wanted))
    return _choice_of(found, store)


def clip_on_disk(model: str | None, store: ModelStore) -> list[ModelChoice]:
    """Every CLIP model that is here: one of them may have made the vectors there are. Asks no network."""
    found = []
    for name in dict.fromkeys((*([model] if model else []), STANDARD, MULTILINGUAL)):
        with suppress(ModelUnavailable):
            path = _weights_file(name) or store.find(name)
            found += [_choice_of(path, store)] if path is not None else []
    return found


def clip_fingerprint(choice: ModelChoice) -> str:
    """Names the space of its vectors: stored with each, and asked of each query."""
    return f"{choice.name}@{choice.digest[:12]}"


def _weights_file(name: str) -> Path | None:
    file = Path(name).expanduser()
    return file.absolute() if file.suffix in WEIGHTS and file.is_file() else None


def _choice_of(path: Path, store: ModelStore) -> ModelChoice:
    if path.is_file():
        return ModelChoice(path.stem, "standard", sha256_of(path), path)
    return ModelChoice(path.name, "standard", store.digest(path), path)
