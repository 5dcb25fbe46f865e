"""The page with the hits of a search: what it shows, and that nothing foreign gets a say in it."""

from __future__ import annotations

import base64
import io
import re
import stat
import wave
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image as Pillow

from media_pipeline.config import Settings
from media_pipeline.errors import UsageError
from media_pipeline.media.cache import Cache
from media_pipeline.results import search_page
from media_pipeline.results._search_hits import Hit
from media_pipeline.results._search_stills import MAX_BYTES, Still
from media_pipeline.results.search_page import write_page
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.sources import Sources

HOSTILE = "<script>alert('x')</script>\"&amp;"


class Parsed(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


class Home:
    def __init__(self, folder: Path) -> None:
        self.layout = Layout(folder / "home")
        self.layout.create()
        self.settings = Settings(home=self.layout.home)
        self.sources = Sources(self.layout.sources)

    def take(self, path: Path, number: int) -> str:
        """The file as a medium whose original stays where it is."""
        media_id = f"{number:064x}"
        key = f"m{number}"
        self.sources.add(path, path.stat(), media_id=media_id, partition_key=key, stored=path, linked=True)
        return media_id

    def write(self, file: Path, *hits: Hit, title: str = "a question") -> Parsed:
        write_page(file, hits, title, self.layout, self.settings)
        return Parsed(file.read_text(encoding="utf-8"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def hit(media_id: str, path: Path | str = "/gone", **more: object) -> Hit:
    plain = Hit(
        media_id=media_id,
        partition_key="m",
        name=Path(path).name,
        path=str(path),
        kind="image",
        source="ocr",
        pts_s=0.0,
        text="one two",
        snippet="one two",
        matches=(),
        score=1.0,
        why="words",
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def noise(path: Path, width: int = 800, height: int = 600) -> Path:
    """The picture that JPEG likes least."""
    pixels = np.random.default_rng(0).integers(0, 255, size=(height, width, 3), dtype=np.uint8)
    Pillow.fromarray(pixels).save(path)
    return path


def tone(path: Path, seconds: int = 6) -> Path:
    """Silence, and sound in its second half."""
    samples = (20_000 * np.sin(np.arange(16_000 * seconds) * 0.2)).astype(np.int16)
    samples[: len(samples) // 2] = 0
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes(samples.tobytes())
    return path


def embedded(page: Parsed) -> list[bytes]:
    found = [image["src"] or "" for image in page.all("img")]
    assert all(source.startswith("data:image/jpeg;base64,") for source in found)
    return [base64.b64decode(source.partition(",")[2]) for source in found]


@pytest.mark.slow
def test_the_picture_of_the_moment_with_its_box(home: Home, tmp_path: Path) -> None:
    path = noise(tmp_path / "odd #name%20?.png")
    own = home.take(path, 1)
    face = {"source": "face", "why": "face", "snippet": None, "text": None, "similarity": 0.87}
    page = home.write(
        tmp_path / "page.html",
        hit(own, path, box=(200.0, 150.0, 400.0, 450.0), person="Anna", **face),
        hit(own, path, box=(-50.0, 0.0, 9_999.0, 60.0), person_id="P-1", **face),
        hit(own, path, matches=((4, 7),)),
    )
    (jpeg,) = embedded(page)  # one picture, three moments
    assert len(jpeg) <= MAX_BYTES
    with Pillow.open(io.BytesIO(jpeg)) as picture:
        assert picture.width / picture.height == pytest.approx(4 / 3, abs=0.02)
    styles = [span["style"] for span in page.all("span") if span.get("class") == "box"]
    assert styles == [
        "left:25.00%;top:25.00%;width:25.00%;height:50.00%",
        "left:0.00%;top:0.00%;width:100.00%;height:10.00%",  # never beyond the picture
    ]
    assert "Anna" in page.text
    assert "P-1" in page.text
    assert "0.87" in page.text
    assert len(page.all("mark")) == 1
    links = {link["href"] for link in page.all("a")}
    assert [unquote(str(link)) for link in links] == ["odd #name%20?.png"]


@pytest.mark.slow
def test_how_loud_a_recording_is_around_the_moment(home: Home, tmp_path: Path) -> None:
    path = tone(tmp_path / "talk.wav")
    own = home.take(path, 2)
    (tmp_path / "deep").mkdir()
    page = home.write(tmp_path / "deep" / "page.html", hit(own, path, kind="audio", pts_s=3.5))
    heights = [float(str(bar["height"])) for bar in page.all("rect")]
    assert len(heights) == 64
    assert heights[0] < 5
    assert heights[-1] > 40
    assert "0:03" in page.text
    assert page.all("a")[0]["href"] == "../talk.wav"
    assert {link["href"] for link in page.all("a")} == {"../talk.wav", "../talk.wav#t=3.5"}


@pytest.mark.slow
def test_frames_that_the_cache_let_go_are_decoded_again(home: Home, tmp_path: Path) -> None:
    path = noise(tmp_path / "a.png", 80, 60)
    own = home.take(path, 3)
    first = embedded(home.write(tmp_path / "1.html", hit(own, path)))
    Cache(home.layout.cache, 0).discard(own)
    assert embedded(home.write(tmp_path / "2.html", hit(own, path))) == first


def test_what_is_foreign_stays_text(home: Home, tmp_path: Path) -> None:
    bad = hit("f" * 64, f"/x/{HOSTILE}", snippet=f"{HOSTILE} word", matches=((0, 8),), person=HOSTILE)
    other = replace(bad, media_id="e" * 64, name="javascript:alert(1)", snippet=None, text=None, source="face")
    broken = replace(bad, media_id="d" * 64, name="lone \udcff surrogate")
    page = home.write(tmp_path / "page.html", bad, other, broken, title=HOSTILE)
    assert page.all("script") == []
    assert page.text.count("alert('x')") >= 6
    assert [mark for mark, _ in page.tags if mark == "mark"] == ["mark", "mark"]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.all("a") == []  # nobody knows where the originals are


def test_a_page_needs_nothing_else(home: Home, tmp_path: Path) -> None:
    home.write(tmp_path / "page.html", hit("f" * 64))
    text = (tmp_path / "page.html").read_text()
    assert "default-src 'none'" in text
    assert re.findall(r"https?://|url\(|@import|<link|<iframe", text) == []
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_no_hits_make_a_page_too(home: Home, tmp_path: Path) -> None:
    assert "Nothing was found" in home.write(tmp_path / "page.html").text


def test_the_page_is_there_whole_or_not_at_all(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "page.html"
    home.write(file, title="before")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="cannot be written"):
        home.write(tmp_path / "missing" / "page.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        home.write(tmp_path / "folder")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(search_page.Path, "replace", full)
    with pytest.raises(UsageError, match="No space left"):
        home.write(file, title="after")
    monkeypatch.undo()
    assert "before" in file.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_boxes_are_shares_of_the_displayed_picture() -> None:
    still = Still(scale=(200.0, 100.0))
    assert still.share((50.0, 25.0, 150.0, 75.0)) == (0.25, 0.25, 0.5, 0.5)
    assert still.share((-10.0, -10.0, 300.0, 300.0)) == (0.0, 0.0, 1.0, 1.0)
