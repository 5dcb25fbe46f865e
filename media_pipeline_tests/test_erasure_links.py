"""Links to the files of an erased medium: they are names of it, and what they mean may not be theirs to remove."""

from __future__ import annotations

from pathlib import Path

import pytest

from media_pipeline.media.intake import Intake, IntakeReport
from media_pipeline.results import _erasure_files as files
from media_pipeline.results.erasure import Eraser, Plan
from media_pipeline_tests._erasure_home import ErasureHome, QuietEngine, erasure_home

pytestmark = pytest.mark.filterwarnings("ignore:nobody has measured")


@pytest.fixture
def world(tmp_path: Path) -> ErasureHome:
    made = erasure_home(tmp_path / "home")
    (made.inbox / "secret.jpg").write_bytes(b"content of secret" * 50)  # as of `add`
    take(made, made.inbox / "secret.jpg")
    return made


def take(world: ErasureHome, path: Path) -> None:
    pipeline = world.pipeline
    [medium] = Intake(pipeline.layout, pipeline.sources, pipeline.settings).take([path], wait=True).new
    world.ids[path.stem] = medium.media_id


def tick(world: ErasureHome) -> IntakeReport:
    pipeline = world.pipeline
    intake = Intake(pipeline.layout, pipeline.sources, pipeline.settings)
    return intake.tick([world.inbox], limit_files=10, limit_seconds=10)


def plan(world: ErasureHome, which: str, name: str = "secret") -> Plan:
    return Eraser(world.pipeline, QuietEngine()).plan([world.ids[name]], which_files=which)


def remove(world: ErasureHome, planned: Plan) -> None:
    """What an erasure does about files, without the rest of it."""
    files.remove_own_files(world.pipeline, planned.media, planned.files)
    for medium in planned.media:
        world.pipeline.sources.forget(medium.media_id)


@pytest.fixture(params=["seen before", "not seen yet"])
def again(request: pytest.FixtureRequest, world: ErasureHome) -> Path:
    """A link in the inbox to the file of the medium."""
    link = world.inbox / "again.jpg"
    link.symlink_to("secret.jpg")
    if request.param == "seen before":
        tick(world)
    return link


def test_a_link_to_a_file_that_stays_is_refused_like_it(world: ErasureHome, again: Path) -> None:
    planned = plan(world, "none")
    assert set(planned.staying) == {again, world.inbox / "secret.jpg"}
    remove(world, planned)
    assert [tick(world).new for _ in range(2)] == [[], []]
    assert again.read_bytes() == (world.inbox / "secret.jpg").read_bytes()


@pytest.mark.parametrize("which", ["watched", "all"])
def test_a_link_in_a_watched_folder_goes_with_its_file(world: ErasureHome, again: Path, which: str) -> None:
    planned = plan(world, which)
    assert (set(planned.going), planned.staying) == ({again, world.inbox / "secret.jpg"}, ())
    remove(world, planned)
    assert list(world.inbox.iterdir()) == []


def test_one_that_was_killed_between_them_still_finds_the_link(world: ErasureHome, again: Path, monkeypatch) -> None:
    planned = plan(world, "watched")
    unlink, calls = Path.unlink, []

    def killed(path: Path, *, missing_ok: bool = False) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            remove(world, planned)
    remove(world, planned)
    assert list(world.inbox.iterdir()) == []


def test_the_file_that_a_named_link_means_goes_with_all(world: ErasureHome, tmp_path: Path) -> None:
    target, link = tmp_path / "camera" / "0001.jpg", tmp_path / "mine" / "given.jpg"
    target.parent.mkdir()
    link.parent.mkdir()
    target.write_bytes(b"given" * 50)
    link.symlink_to(target)
    take(world, link)
    assert set(plan(world, "watched", "given").staying) == {link, target}
    planned = plan(world, "all", "given")
    assert (set(planned.going), planned.staying) == ({link, target}, ())
    remove(world, planned)
    assert not link.is_symlink()
    assert not target.exists()


def test_a_link_that_was_put_into_a_watched_folder_removes_nothing_elsewhere(
    world: ErasureHome, tmp_path: Path
) -> None:
    own, link = tmp_path / "of somebody else.jpg", world.inbox / "planted.jpg"
    own.write_bytes((world.inbox / "secret.jpg").read_bytes())
    link.symlink_to(own)
    planned = plan(world, "all")
    assert (link in planned.going, planned.staying) == (True, (own,))
    remove(world, planned)
    assert (own.exists(), link.is_symlink()) == (True, False)


def test_a_link_into_the_home_names_no_file_of_the_user(world: ErasureHome) -> None:
    media_id = world.ids["secret"]
    link = world.inbox / "inner.jpg"
    link.symlink_to(world.pipeline.sources.by_id([media_id])[media_id].stored)
    assert set(plan(world, "none").staying) == {link, world.inbox / "secret.jpg"}


@pytest.mark.slow
@pytest.mark.parametrize("which", ["none", "watched"])
def test_a_whole_erasure_with_a_link(world: ErasureHome, again: Path, which: str) -> None:
    world.add("secret")
    world.add("meadow", who="carl")
    erased = Eraser(world.pipeline, QuietEngine()).erase(plan(world, which), "tester")
    assert (erased.scan.hits, erased.file is not None) == ((), True)
    assert [tick(world).new for _ in range(2)] == [[], []]
