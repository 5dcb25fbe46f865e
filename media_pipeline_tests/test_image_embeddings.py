from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from media_pipeline.analyzers._spec import Medium
from media_pipeline.analyzers.image_embeddings import ANALYZER, ImageEmbeddingsOptions, preview, run
from media_pipeline_tests._clip import DIMENSION, frames, picture, shared_clip, store

pytestmark = pytest.mark.slow  # torch and open_clip alone take seconds to import


def rows_of(pictures: list[np.ndarray], **options: object) -> pa.Table:
    _, model = shared_clip()
    medium = Medium("a", "video", frames=frames(pictures))
    table = run(model, (medium,), ImageEmbeddingsOptions(**options))
    ANALYZER.check(table, {"a"})
    return table


def test_one_vector_per_frame() -> None:
    pictures = [picture(n) for n in range(5)]
    table = rows_of(pictures, batch=2)
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    _, model = shared_clip()
    assert np.allclose(vectors, model.encode_images(pictures), atol=1e-5)
    assert vectors.shape == (5, DIMENSION)
    assert table["frame_index"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["pts_s"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert set(table["model"].to_pylist()) == {model.fingerprint}
    assert preview(table) == "5 frames"


def test_unchanged_frames_are_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = shared_clip()
    looked: list[int] = []
    forward = model._model.encode_image
    monkeypatch.setattr(
        model._model, "encode_image", lambda x, **more: (looked.append(len(x)), forward(x, **more))[1], raising=True
    )
    pictures = [picture(1), picture(1), picture(2), picture(2), picture(1)]
    table = rows_of(pictures)
    assert sum(looked) == 3
    vectors = table["embedding"].to_pylist()
    assert vectors[0] == vectors[1]
    assert vectors[2] == vectors[3]
    assert np.allclose(vectors[0], vectors[4], atol=1e-5)
    looked.clear()
    assert np.allclose(
        np.array(rows_of(pictures, reuse_unchanged_frames=False)["embedding"].to_pylist()), vectors, atol=1e-5
    )
    assert sum(looked) == 5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4000), (4000, 1), (15, 300)])
def test_what_is_too_small_has_no_vector(height: int, width: int) -> None:
    table = rows_of([picture(1), picture(2, height, width), picture(3)])
    assert table["frame_index"].to_pylist() == [0, 2]


def test_long_strips_and_grey_pictures() -> None:
    assert rows_of([picture(1, 16, 4000), np.repeat(picture(1)[:, :, :1], 3, axis=2)]).num_rows == 2


def test_no_frames() -> None:
    assert rows_of([]).num_rows == 0
    _, model = shared_clip()
    both = run(
        model, (Medium("a", "image"), Medium("b", "image", frames=frames([picture(1)]))), ImageEmbeddingsOptions()
    )
    assert both["media_id"].to_pylist() == ["b"]


def test_threads_and_batches_do_not_change_the_fingerprint(tmp_path) -> None:
    choice, _ = shared_clip()
    options = ImageEmbeddingsOptions(clip_model=str(choice.path))
    chosen = ANALYZER.choose(options, store(tmp_path))
    prints = {
        ANALYZER.fingerprint(chosen, options.model_copy(update=more))
        for more in ({}, {"threads": 4}, {"batch": 1}, {"reuse_unchanged_frames": False})
    }
    assert len(prints) == 2
