"""Which models can be downloaded: where they lie on the hub, at which revision, and what their bytes must be.

Every file is pinned by repository revision, size and SHA-256, so a download is either the one that was published or an
error. A new model is one more entry here; `media-pipeline models list` shows it at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelFile:
    path: str  # below the repository and below the model's folder alike
    bytes: int
    sha256: str  # 64 hex digits


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model of the hub: `<hub>/<repository>/resolve/<revision>/<file.path>`."""

    name: str
    purpose: str  # a few words for people
    analyzer: str
    tier: str
    licence: str  # SPDX identifier
    repository: str
    revision: str  # commit, never a branch: a branch may move
    files: tuple[ModelFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


# The multilingual Whisper models before v3 share their tokenizer byte for byte.
_TOKENIZER = ModelFile("tokenizer.json", 2_203_239, "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab")
_VOCABULARY = ModelFile("vocabulary.txt", 459_861, "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913")


def _whisper(size: str, purpose: str, repository: str, revision: str, *files: ModelFile) -> CatalogEntry:
    return CatalogEntry(
        name=f"faster-whisper-{size}",
        purpose=purpose,
        analyzer="transcript",
        tier="standard",
        licence="MIT",
        repository=repository,
        revision=revision,
        files=files,
    )


_ENTRIES = (
    _whisper(
        "tiny",
        "speech to text, 99 languages: fastest, many errors",
        "Systran/faster-whisper-tiny",
        "d90ca5fe260221311c53c58e660288d3deb8d356",
        ModelFile("config.json", 2_249, "a73a28cdfe1c43ccc7202fa333d1f89c202477271407ae9a7f19afa52039cac8"),
        ModelFile("model.bin", 75_538_270, "dcb76c6586fc06cbdac6dd21f14cfd129cc4cdd9dce19bf4ffa62e59cbe6e6d1"),
        _TOKENIZER,
        _VOCABULARY,
    ),
    _whisper(
        "base",
        "speech to text, 99 languages: fast",
        "Systran/faster-whisper-base",
        "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
        ModelFile("config.json", 2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
        ModelFile("model.bin", 145_217_532, "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"),
        _TOKENIZER,
        _VOCABULARY,
    ),
    _whisper(
        "small",
        "speech to text, 99 languages: the default",
        "Systran/faster-whisper-small",
        "536b0662742c02347bc0e980a01041f333bce120",
        ModelFile("config.json", 2_370, "b55496ac7940a7ae47d2c01eab40edfd8701feec1229d9cce3b40014383fb828"),
        ModelFile("model.bin", 483_546_902, "3e305921506d8872816023e4c273e75d2419fb89b24da97b4fe7bce14170d671"),
        _TOKENIZER,
        _VOCABULARY,
    ),
    _whisper(
        "medium",
        "speech to text, 99 languages: accurate, slow on a CPU",
        "Systran/faster-whisper-medium",
        "08e178d48790749d25932bbc082711ddcfdfbc4f",
        ModelFile("config.json", 2_257, "3622a2ddc41ec0e0fd4e68c13c6830f03b90c38d89aaad184de02c8c642cf807"),
        ModelFile("model.bin", 1_527_906_378, "9b45e1009dcc4ab601eff815b61d80e60ce3fd8c74c1a14f4a282258286b51ae"),
        _TOKENIZER,
        _VOCABULARY,
    ),
    _whisper(
        "large-v3-turbo",
        "speech to text, 99 languages: most accurate, large",
        "dropbox-dash/faster-whisper-large-v3-turbo",
        "0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf",
        ModelFile("config.json", 2_263, "b0253ea6c0d3bea6b1e19e91a02acfd3b53f4467362efcb5a3e6b16c9b3a9b7e"),
        ModelFile("model.bin", 1_617_884_929, "e76620f83d5f5b69efd3d87e3dc180c1bd21df9fbebacfd4335e5e1efcc018da"),
        ModelFile("preprocessor_config.json", 340, "7ccc62c6f2765af1f3b46c00c9b5894426835a05021c8b9c01eecb6dfb542711"),
        ModelFile("tokenizer.json", 2_710_337, "297b13372ac43916285644fb9687add3cc62ee2a1adb60da3dc25cc94c1871fd"),
        ModelFile("vocabulary.json", 1_068_114, "c69260f2ab26d659b7c398f9a2b2b48ed0df16c3b47d7326782fd9cba71690c1"),
    ),
    CatalogEntry(
        name="multilingual-e5-small",
        purpose="meaning of text as 384 numbers, 94 languages: search across languages (ONNX, int8)",
        analyzer="text_embeddings",
        tier="standard",
        licence="MIT",
        repository="Xenova/multilingual-e5-small",
        revision="761b726dd34fb83930e26aab4e9ac3899aa1fa78",
        files=(
            ModelFile("config.json", 658, "cb99455288675345e1a4f411438d5d0adbba5fbd3a67ea4fb03c015433b996c1"),
            ModelFile(
                "onnx/model_quantized.onnx",
                118_308_185,
                "f80102d3f2a1229f387d3c81909990d8945513e347b0eab049f7de3c6f98c193",
            ),
            ModelFile("tokenizer.json", 17_082_730, "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39"),
        ),
    ),
    CatalogEntry(
        name="ViT-B-32-laion2b",
        purpose="what pictures show, as 512 numbers: search by picture and by English description (CLIP)",
        analyzer="image_embeddings",
        tier="standard",
        licence="MIT",
        repository="laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        revision="1a25a446712ba5ee05982a381eed697ef9b435cf",
        files=(
            ModelFile(
                "open_clip_model.safetensors",
                605_143_316,
                "ac4f8c4b88af6d963118cbf40ad93176d092abbedfcb752601ae1866352656e6",
            ),
        ),
    ),
    CatalogEntry(
        name="ViT-B-16-SigLIP2",
        purpose="what pictures show, as 768 numbers: descriptions in German and other languages, four times slower",
        analyzer="image_embeddings",
        tier="standard",
        licence="Apache-2.0",
        repository="timm/ViT-B-16-SigLIP2",
        revision="eee10eff6dd8cabae2d7f379d4e8cfcd352030aa",
        files=(
            ModelFile("open_clip_config.json", 944, "d0b2ac6d4524cb95287138b9e5fa345211be7242e5da7eb55be894614be33987"),
            ModelFile(
                "open_clip_model.safetensors",
                1_500_786_832,
                "d0a51069d2fa6c95b371b3bffd2a2c765c1815004798ee99f075290dbca73041",
            ),
            ModelFile(
                "special_tokens_map.json", 327, "d4671afd8f9b1ccd170443bd5478c0cc40fdbddc9343034caf6984ffd388b2c4"
            ),
            ModelFile("tokenizer.json", 34_362_885, "220c63d496e0c14e63eb656c91e0215e926202e4c74b1f089e09f1920d779b04"),
            ModelFile(
                "tokenizer_config.json", 46_382, "513e778583a9ac0b74ae47784216f9d654d5132eee62d777597f5e842701323c"
            ),
        ),
    ),
    CatalogEntry(
        name="yunet",
        purpose="where faces are, also in profile",
        analyzer="faces",
        tier="standard",
        licence="MIT",
        repository="opencv/face_detection_yunet",
        revision="3cc26e7f1014a5ee5d74a42acee58bafc9d0a310",
        files=(
            ModelFile(
                "face_detection_yunet_2023mar.onnx",
                232_589,
                "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
            ),
        ),
    ),
    CatalogEntry(
        name="sface",
        purpose="whose faces they are, as 128 numbers",
        analyzer="faces",
        tier="standard",
        licence="Apache-2.0",
        repository="opencv/face_recognition_sface",
        revision="3d7082438a6e4551e840c9b2bb60b71e8da4b524",
        files=(
            ModelFile(
                "face_recognition_sface_2021dec.onnx",
                38_696_353,
                "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
            ),
        ),
    ),
)

CATALOG: dict[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}
