from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from media_pipeline.analyzers._label_prompts import against_background, keep_scorers, kept_scorers, scorers_of
from media_pipeline.analyzers._label_sets import LabelSet, load_sets
from media_pipeline.analyzers._spec import Medium
from media_pipeline.analyzers.image_embeddings import SCHEMA as VECTORS
from media_pipeline.analyzers.labels import ANALYZER, Labeller, LabelsOptions, choose, load, preview, run
from media_pipeline.errors import ModelUnavailable
from media_pipeline.storage.schemas import FRAMES
from media_pipeline_tests._bodies import HANDS_ON_BACK, STANDING, mirrored, person, poses
from media_pipeline_tests._clip import shared_clip, store

FROM_BEHIND = mirrored(STANDING | HANDS_ON_BACK)
Array = np.ndarray


class Words:
    """A text encoder whose every caption has an axis of its own; those with the same last word share one."""

    logit_scale = 100.0

    def __init__(self, multilingual: bool = False) -> None:
        self.multilingual = multilingual
        self.axes: dict[str, int] = {}

    def encode_texts(self, texts: tuple[str, ...]) -> Array:
        out = np.zeros((len(texts), 400), np.float32)
        for row, text in zip(out, texts, strict=True):
            row[self.axes.setdefault(text.split()[-1], len(self.axes))] = 1.0
        return out

    def picture(self, **shares: float) -> Array:
        """A unit vector with these cosines to the captions that end in these words."""
        out = np.zeros(400, np.float32)
        for word, share in shares.items():
            out[self.axes[word]] = share
        out[399] = np.sqrt(1 - min(1.0, float(out @ out)))
        return out


def a_set(**more: object) -> LabelSet:
    return LabelSet.model_validate(
        {
            "name": "toys",
            "version": 1,
            "labels": [
                {"name": "ball", "prompts": {"en": ["a ball", "a red ball"], "de": ["ein Fußball"]}},
                {"name": "doll", "prompts": {"de": ["eine Puppe"]}},
                {"name": "kite", "prompts": {"en": ["a kite"]}, "threshold": 0.9},
            ],
            "background": {"en": ["a street", "a room", "a tree"], "de": ["ein Baum"]},
            **more,
        }
    )


def vectors(space: str, *pictures: Array) -> pa.Table:
    rows = [
        {"media_id": "a", "frame_index": 3 * n, "pts_s": 1.5 * n, "model": space, "embedding": list(map(float, v))}
        for n, v in enumerate(pictures)
    ]
    return pa.Table.from_pylist(rows, schema=VECTORS)


def labeller(*sets: LabelSet, words: Words, space: str | None = "words@1") -> Labeller:
    return Labeller(sets, scorers_of(sets, words), space)


def found(model: Labeller, rows: dict[str, pa.Table], **options: object) -> list[tuple[object, ...]]:
    table = run(model, (Medium("a", "video", rows=rows),), LabelsOptions(**options))
    ANALYZER.check(table, {"a"})
    return [(r["frame_index"], r["label"], round(r["score"], 2), r["evidence"]) for r in table.to_pylist()]


# ---------------------------------------------------------------------- the score


def test_the_formula() -> None:
    cosines, background = np.array([[0.30, 0.20]], np.float32), np.array([[0.28, 0.27]], np.float32)
    expected = [np.exp(100 * c) / (np.exp(100 * c) + np.exp(28) + np.exp(27)) for c in (0.30, 0.20)]
    assert np.allclose(against_background(cosines, background, 100.0), [expected], atol=1e-5)
    extreme = against_background(np.array([[1.0, -1.0]]), np.array([[0.0]]), 10_000.0)
    assert np.allclose(extreme, [[1.0, 0.0]])


def test_the_best_label_of_a_picture_that_shows_none_does_not_fire() -> None:
    words = Words()
    model = labeller(a_set(), words=words)
    nothing = words.picture(ball=0.20, kite=0.18, street=0.27, room=0.15)
    ball = words.picture(ball=0.30, kite=0.18, street=0.22, room=0.15)
    assert found(model, {"image_embeddings": vectors("words@1", nothing, ball)}) == [(3, "ball", 1.0, "clip")]


def test_labels_do_not_compete_and_have_their_own_threshold() -> None:
    words = Words()
    model = labeller(a_set(), words=words)
    both = words.picture(ball=0.25, kite=0.25, street=0.24)  # each 0.73 against the street
    rows = {"image_embeddings": vectors("words@1", both)}
    assert found(model, rows) == [(0, "ball", 0.73, "clip")]
    assert found(model, rows, min_score=0.8) == []
    assert found(labeller(a_set(labels=[{"name": "kite", "prompts": {"en": ["a kite"]}}]), words=words), rows) == [
        (0, "kite", 0.73, "clip")
    ]


def test_german_captions_are_for_models_that_read_them() -> None:
    english, both = Words(), Words(multilingual=True)
    (one,), (other,) = scorers_of([a_set()], english), scorers_of([a_set()], both)
    assert one.labels == ("ball", "kite")
    assert other.labels == ("ball", "doll", "kite")
    assert {"Fußball", "Puppe", "Baum"} <= both.axes.keys()
    assert "Puppe" not in english.axes
    only_german = a_set(labels=[{"name": "doll", "prompts": {"de": ["eine Puppe"]}}])
    assert scorers_of([only_german], english) == ()


def test_captions_are_read_once_and_kept(tmp_path: Path) -> None:
    words = Words()
    asked: list[str] = []
    encode = words.encode_texts
    words.encode_texts = lambda texts: (asked.extend(texts), encode(texts))[1]
    scorers = scorers_of(load_sets(None), words)
    assert len(asked) == len(set(asked)) > 100
    file = tmp_path / "folder" / "captions.npz"
    assert kept_scorers(file) is None
    keep_scorers(scorers, file)
    again = kept_scorers(file)
    assert again is not None
    assert [(s.name, s.labels, s.scale) for s in again] == [(s.name, s.labels, s.scale) for s in scorers]
    picture = words.picture(handcuffs=0.3)[None]
    for one, other in zip(scorers, again, strict=True):
        assert np.array_equal(one.scores(picture), other.scores(picture))
    file.write_bytes(file.read_bytes()[:500])
    assert kept_scorers(file) is None
    (tmp_path / "file").write_text("")
    keep_scorers(scorers, tmp_path / "file" / "captions.npz")  # cannot be written: slower, not broken


# ---------------------------------------------------------------------- restraint


def restraint() -> LabelSet:
    return load_sets(None, ("restraint",))[0]


def test_bodies_alone_speak_where_there_is_no_clip() -> None:
    bodies = poses(*(person(FROM_BEHIND, frame) for frame in range(4)))
    model = Labeller((restraint(),), (), None)
    assert found(model, {"poses": bodies}) == [(n, "hands_bound", 0.94, "pose") for n in range(4)]
    assert found(model, {"poses": bodies}, pose_evidence=False) == []
    assert found(model, {"poses": bodies.slice(0, 1)}) == []  # one picture proves no duration
    assert found(model, {"poses": poses(*(person(STANDING, frame) for frame in range(4)))}) == []
    assert found(model, {}) == []


def test_restraint_is_found_in_a_film_without_clip() -> None:
    bodies = poses(*(person(FROM_BEHIND, frame, gap_s=24.0) for frame in range(100, 104)))
    rows = [{"media_id": "a", "frame_index": frame, "pts_s": 24.0 * frame} for frame in range(300)]
    model, frames = Labeller((restraint(),), (), None), pa.Table.from_pylist(rows, schema=FRAMES)
    assert ANALYZER.reads_frame_times
    hits = found(model, {"poses": bodies, "frames": frames})
    assert hits == [(n, "hands_bound", 0.94, "pose") for n in range(100, 104)]


def test_bodies_and_clip_together() -> None:
    words = Words()
    model = labeller(restraint(), words=words)
    bodies = poses(*(person(FROM_BEHIND, frame) for frame in range(2)))  # 0.75 by itself
    for hands, frames in (({"handcuffs": 0.4}, [0, 1]), ({"background": 0.4}, [])):
        seen = words.picture(**hands)
        rows = {"poses": bodies, "image_embeddings": vectors("words@1", seen)}
        rows["image_embeddings"] = pa.concat_tables([rows["image_embeddings"]] * 2).set_column(
            1, VECTORS.field(1), pa.array([0, 1])
        )
        hits = [hit for hit in found(model, rows) if hit[1] == "hands_bound"]
        assert [hit[0] for hit in hits] == frames
        assert all(hit[3] == "clip+pose" and hit[2] > 0.9 for hit in hits)


def test_a_set_of_ones_own_may_use_postures() -> None:
    label = {"name": "hands_up", "prompts": {"en": ["hands up"]}, "poses": ["wrists_behind_back"]}
    model = Labeller((a_set(labels=[label]),), (), None)
    bodies = poses(*(person(FROM_BEHIND, frame) for frame in range(3)))
    assert {hit[1] for hit in found(model, {"poses": bodies})} == {"hands_up"}


# ---------------------------------------------------------------------- choosing and loading


def test_without_clip_a_warning_says_what_is_missing(tmp_path: Path) -> None:
    choice = choose(LabelsOptions(), store(tmp_path / "models"))
    assert (choice.name, choice.tier, choice.clip) == ("postures", "embedded", None)
    assert choice.warning is not None
    assert "only restraint is judged" in choice.warning
    assert "media-pipeline models pull ViT-B-32-laion2b" in choice.warning
    assert choose(LabelsOptions(), store(tmp_path / "models", "embedded")).warning is None
    assert load(choice, "cpu", LabelsOptions()).scorers == ()
    with pytest.raises(ModelUnavailable, match="models pull"):
        choose(LabelsOptions(), store(tmp_path / "models", "standard"))
    with pytest.raises(ModelUnavailable):
        choose(LabelsOptions(clip_model="/nowhere/clip"), store(tmp_path / "models"))


def test_vectors_of_another_model_are_not_judged() -> None:
    words = Words()
    model = labeller(a_set(), words=words)
    with pytest.raises(ModelUnavailable, match="are of other@1, the captions of words@1"):
        found(model, {"image_embeddings": vectors("other@1", words.picture(ball=0.3))})
    # Without CLIP here and now, vectors that were made before are left alone.
    assert found(Labeller((a_set(),), (), None), {"image_embeddings": vectors("other@1", words.picture())}) == []


OWN = """
name: pets
version: 1
labels:
  - name: dog
    prompts: {en: [a dog], de: [ein Hund]}
"""


@pytest.mark.slow
def test_own_sets_and_the_fingerprint(tmp_path: Path) -> None:
    models, folder = store(tmp_path / "models"), tmp_path / "label_sets"
    shipped = choose(LabelsOptions(), models)
    assert [one.name for one in shipped.sets] == ["content", "documents", "restraint", "violence", "weapons"]
    folder.mkdir()
    (folder / "pets.yaml").write_text(OWN)
    (folder / "notes.txt").write_text("not a set")
    own = choose(LabelsOptions(), models)
    assert "pets" in {one.name for one in own.sets}
    assert own.sets[2].background == shipped.sets[2].background
    (folder / "pets.yaml").write_text(OWN.replace("a dog", "a puppy"))
    changed = choose(LabelsOptions(), models)
    elsewhere = choose(LabelsOptions(folder=str(tmp_path)), models)
    assert len({shipped.digest, own.digest, changed.digest}) == 3
    assert elsewhere.digest == shipped.digest
    assert [one.name for one in choose(LabelsOptions(sets="pets, weapons"), models).sets] == ["pets", "weapons"]
    (folder / "weapons.yml").write_text(OWN.replace("pets", "weapons"))
    mine = choose(LabelsOptions(sets=("weapons",)), models).sets[0]
    assert [label.name for label in mine.labels] == ["dog"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (OWN.replace("version: 1", "version: none"), "line 3: version: "),
        (OWN.replace("name: dog", "name: A Dog"), r"line 5: labels\.0\.name: "),
        (OWN.replace("{en: [a dog], de: [ein Hund]}", "{}"), "line 6: .*captions under en or de"),
        (OWN.replace("prompts:", "promts:"), "line 5: .*prompts: Field required"),
        (OWN.replace("[a dog]", "[a dog"), "line "),
        (OWN + "  - name: dog\n    prompts: {en: [a dog]}\n", "line 2: .*'dog' is there twice"),
        (OWN + "    threshold: 7\n", r"line 7: labels\.0\.threshold"),
        ("", "pets.yaml: "),
        ("- a\n- b\n", "line 1: "),
        ("a: \x00", "pets.yaml"),
        ("x" * 250_001, "more than 250,000 bytes"),
        ("[" * 5000, "nested too deeply"),
        ("&a [*a]", "recursive"),
        (OWN.replace("name: pets", "name: 2020-99-99"), "line 2: name: "),
        (OWN.replace("version: 1", "version: !!timestamp hello"), "line 3: version: "),
        (OWN.replace("[a dog]", f"[{'a dog, ' * 101}]"), "at most 100 items"),
        (OWN + "".join(f"  - {{name: dog{i}, prompts: {{en: [a dog]}}}}\n" for i in range(500)), "at most 500 items"),
    ],
)
def test_a_wrong_set_names_file_and_line(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "label_sets").mkdir()
    (tmp_path / "label_sets" / "pets.yaml").write_text(text)
    with pytest.raises(ModelUnavailable, match=rf"pets\.yaml.*{cause}" if not cause.startswith("pets") else cause):
        choose(LabelsOptions(), store(tmp_path / "models"))


def test_labels_may_be_words_that_yaml_takes_for_truth_values(tmp_path: Path) -> None:
    (tmp_path / "pets.yaml").write_text(OWN.replace("name: dog", "name: no"))
    (tmp_path / "._pets.yaml").write_bytes(b"\x00\x05\x16\x07")  # what a file manager puts beside it

    (pets,) = load_sets(tmp_path, ("pets",))
    assert [label.name for label in pets.labels] == ["no"]


def test_a_pipe_is_no_label_set(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pets.yaml")
    with pytest.raises(ModelUnavailable, match="this is not a file"):
        load_sets(tmp_path)


def test_wrong_options_say_why(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no label set is called 'cars'; there are: content"):
        choose(LabelsOptions(sets="cars"), store(tmp_path / "models"))
    with pytest.raises(ModelUnavailable, match="there is no folder"):
        choose(LabelsOptions(folder="/nowhere"), store(tmp_path / "models"))


def test_shipped_sets_speak_both_languages() -> None:
    for one in load_sets(None):
        assert one.background is not None
        for prompts in (one.background, *(label.prompts for label in one.labels)):
            assert len(prompts.en) == len(set(prompts.en)) >= 2, one.name
            assert len(prompts.de) == len(set(prompts.de)) >= 2, one.name


@pytest.mark.slow
def test_the_captions_are_read_by_the_model_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice, clip = shared_clip()
    options = LabelsOptions(clip_model=str(choice.path), min_score=0.01)
    chosen = choose(options, store(tmp_path))
    model = load(chosen, "cpu", options)
    assert {scorer.name for scorer in model.scorers} == {one.name for one in load_sets(None)}
    monkeypatch.setattr("media_pipeline.analyzers._clip.load_clip", lambda *_: pytest.fail("the model is not needed"))
    assert load(chosen, "cpu", options).space == model.space
    # A picture that is exactly what one label's captions say, as far as random weights say anything.
    label = next(one for one in load_sets(None) if one.name == "content").labels[2]
    mean = clip.encode_texts(label.prompts.en).mean(axis=0)
    picture = mean / np.linalg.norm(mean)
    table = run(model, (Medium("a", "image", rows={"image_embeddings": vectors(model.space or "", picture)}),), options)
    (row,) = table.filter(pa.compute.equal(table["label"], label.name)).to_pylist()
    scorer = next(scorer for scorer in model.scorers if scorer.name == "content")
    assert row["score"] == pytest.approx(float(scorer.scores(picture[None])[0, scorer.labels.index(label.name)]))
    assert (row["label_set"], row["evidence"], row["frame_index"]) == ("content", "clip", 0)
    assert f"content/{label.name} (1 x" in preview(pa.Table.from_pylist([row], schema=table.schema))


def test_preview_of_nothing() -> None:
    assert preview(ANALYZER.schema.empty_table()) == "no label"
