"""Real faces and voices, of known people, through the real analyzers: whoever is one person is one identity."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._registry import registry
from media_pipeline.analyzers._spec import Medium
from media_pipeline.config import Settings
from media_pipeline.execution.in_process import InProcessExecutor
from media_pipeline.execution.stages import options_for
from media_pipeline.media.cache import Cache
from media_pipeline.media.decode import DecodeJob, Decoder, decode_fingerprint
from media_pipeline.results._identity_samples import embed_sample
from media_pipeline.results.identities import PERSONS, VOICES, Identities, Kind
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables

SHARED = Path(__file__).resolve().parents[2] / "shared" / "media"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SHARED / "MANIFEST.json").exists(), reason="the collection of real media is not here"),
]


def truth(folder: str) -> dict[str, str]:
    """File name -> who is to be seen or heard in it, where that is one known person."""
    files = json.loads((SHARED / "MANIFEST.json").read_text())["files"]
    said = {Path(f["file"]).name: f["ground_truth"] for f in files if f["file"].startswith(f"{folder}/")}
    return {name: who for name, g in said.items() if (who := g.get("identity") or g.get("speaker_id"))}


def analysed(kind: Kind, folder: str, home: Path) -> Tables:
    """The table of the kind's analyzer over a folder; media are called as their files are."""
    settings = Settings(home=home, tier="embedded", offline=True)
    spec = registry()[kind.source]
    options = options_for(spec, settings)
    cache = Cache(home / "cache", settings.cache_max_bytes)
    jobs = [DecodeJob(path.name, path) for path in sorted((SHARED / folder).iterdir())]
    with Decoder(cache, settings.decode, settings.sampling, workers=2) as decoder:
        done = [decoded.media_id for decoded in decoder.decode(jobs) if decoded.error is None]
    entries = [cache.get(name, decode_fingerprint(settings.sampling)) for name in done]
    media = [
        Medium(e.media_id, e.facts.kind, e.frames, e.audio, e.frame_scores, e.facts.duration_s) for e in entries if e
    ]
    layout = Layout(home)
    tables = Tables(layout.tables, layout.locks)
    tables.ensure(kind.source, spec.schema)
    choice = spec.choose(options, ModelStore.of(settings))
    for result in InProcessExecutor(2).run(spec, choice, options, media):
        assert result.rows is not None, result.error
        tables.replace(kind.source, result.rows, [result.media_id])
    return tables


@pytest.mark.parametrize(("kind", "folder"), [(PERSONS, "faces"), (VOICES, "voice_id")], ids=["faces", "voices"])
def test_nobody_is_taken_for_another(kind: Kind, folder: str, tmp_path: Path) -> None:
    known = truth(folder)
    tables = analysed(kind, folder, tmp_path)
    names = sorted(path.name for path in (SHARED / folder).iterdir())
    found = []
    for size in (1, 5, 64):
        tables.delete(kind.table, names)
        identities = Identities(kind, tables, Layout(tmp_path))
        random.Random(size).shuffle(names)
        for start in range(0, len(names), size):
            identities.update(names[start : start + size])
        rows = tables.read(kind.table).to_pylist()
        of = {row["media_id"]: row[kind.identity] for row in rows if row["media_id"] in known}
        pairs = list(itertools.combinations(of, 2))
        assert not [(a, b) for a, b in pairs if of[a] == of[b] and known[a] != known[b]]
        together = [of[a] == of[b] for a, b in pairs if known[a] == known[b]]
        assert sum(together) >= 0.9 * len(together)
        found.append({frozenset(name for name in of if of[name] == identity) for identity in of.values()})
    assert found[0] == found[1] == found[2]  # in whatever order they came


@pytest.mark.parametrize(
    ("kind", "sample", "same"),
    [(PERSONS, "faces/P02_img13.jpg", "P02_img58.jpg"), (VOICES, "voice_id/spk1_snt1.wav", "spk1_snt3.wav")],
    ids=["face", "voice"],
)
def test_a_sample_finds_its_person(kind: Kind, sample: str, same: str, tmp_path: Path) -> None:
    tables = analysed(kind, sample.split("/")[0], tmp_path)
    identities = Identities(kind, tables, Layout(tmp_path))
    identities.update([path.name for path in (SHARED / sample).parent.iterdir()])
    settings = Settings(home=tmp_path, tier="embedded", offline=True)
    identities.enrol("Known", embed_sample(kind, SHARED / sample, settings, ModelStore.of(settings)))
    media = {sighting.media_id for sighting in identities.sightings(identities.find("Known"))}
    assert same in media
    assert {truth(sample.split("/")[0]).get(name) for name in media} == {truth(sample.split("/")[0])[same]}
