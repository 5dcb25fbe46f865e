"""The upload page in a real browser, which is spoken to through a pipe: no driver, no library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from media_pipeline_tests._gateway import DEADLINE_S, OPERATOR, basic, needs_nginx, stack, start, stop, wait_for

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,
    needs_nginx,
    pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium"),
]


class Page:
    """One page of Chromium, by its DevTools protocol: JSON with a zero byte behind it, on descriptors 3 and 4."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out = os.fdopen(to_browser, "wb", buffering=0)
        self._in = os.fdopen(from_browser, "rb", buffering=0)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Runtime.enable")
        self.call("Network.enable")
        self.call("Network.setExtraHTTPHeaders", headers={"Authorization": basic(OPERATOR)})

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(answer["params"])[:500])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = self._in.read(1 << 16)
            assert block, "the browser has ended"
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        wait_for(
            lambda: self.evaluate("document.readyState === 'complete' && !!document.getElementById('drop')"), address
        )

    def choose(self, selector: str, *paths: Path) -> None:
        found = self.call("Runtime.evaluate", expression=f"document.querySelector('{selector}')")["result"]["objectId"]
        self.call("DOM.setFileInputFiles", files=[str(path) for path in paths], objectId=found)

    def text(self) -> str:
        return str(self.evaluate("document.body.innerText"))

    def close(self) -> None:
        self._out.close()
        self._in.close()


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    assert BROWSER
    to_browser, out = os.pipe()
    back, from_browser = os.pipe()

    def wire() -> None:
        # Away from 3 and 4 first: they may be these very numbers.
        reading, writing = os.dup(to_browser), os.dup(from_browser)
        high_reading, high_writing = os.dup2(reading, 100), os.dup2(writing, 101)
        os.dup2(high_reading, 3)
        os.dup2(high_writing, 4)

    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
    command += ["--ignore-certificate-errors", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}"]
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            close_fds=False,
            preexec_fn=wire,
            env=os.environ | {"HOME": str(folder)},
        )
    os.close(to_browser)
    os.close(from_browser)
    page = Page(out, back)
    try:
        yield page
    finally:
        page.close()
        stop(process)
        # Its helpers write into the profile for a moment longer.
        with suppress(OSError):
            time.sleep(0.5)
            shutil.rmtree(folder / "profile")


def test_the_page_goes_on_after_everything(tmp_path: Path) -> None:
    content = os.urandom(50_000_000)
    film = tmp_path / "Film ü.mov"
    film.write_bytes(content)
    trip = tmp_path / "Urlaub"
    (trip / "Tag 1").mkdir(parents=True)
    (trip / "Tag 1" / "a #1.jpg").write_bytes(b"a" * 5000)
    (trip / ".DS_Store").write_bytes(b"litter")
    (trip / "late.mov.part").write_bytes(b"half")
    with stack(tmp_path / "g") as gateway, browser(tmp_path) as page:
        parts = gateway.inbox / ".upload"

        def arrived() -> int:
            return sum(path.stat().st_size for path in parts.glob("*.part"))

        page.open(f"{gateway.url}/upload/")
        assert "Up to 64.0 GB a file" in page.text() or wait_for(lambda: "64.0 GB" in page.text(), "the limit is asked")
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 10_000_000}
        page.call("Network.emulateNetworkConditions", **slow)
        page.choose("#files", film)
        wait_for(lambda: arrived() > 16_000_000, "some of it has arrived")

        # The service restarts.
        stop(gateway.processes["upload"])
        wait_for(lambda: "again in" in page.text(), "the page says that it waits")
        at = arrived()
        gateway.processes["upload"] = start("upload", gateway.environment, gateway.folder / "upload.log")
        wait_for(lambda: arrived() > at, "it goes on by itself")
        assert not (gateway.inbox / "Film ü.mov").exists()

        # The page is closed, opened again, and given the same file and more.
        page.call("Page.navigate", url="about:blank")
        at = wait_for(arrived, "what was there is kept")
        page.open(f"{gateway.url}/upload/")
        page.call("Network.emulateNetworkConditions", **slow | {"uploadThroughput": -1})
        page.choose("#files", film)
        page.choose("#folder", trip)
        wait_for(lambda: page.evaluate("!!document.querySelector('#summary.done a')"), "all is done", DEADLINE_S)
        text = page.text()
        assert "2 of 3 files are in the inbox" in text and "1 failed" in text, text
        assert "half-downloaded" in text and "Watch the runs in Dagster" in text
        assert page.errors == []
        assert (gateway.inbox / "Film ü.mov").read_bytes() == content
        assert (gateway.inbox / "Urlaub" / "Tag 1" / "a #1.jpg").read_bytes() == b"a" * 5000
        assert sorted(path.name for path in gateway.inbox.iterdir()) == [".upload", "Film ü.mov", "Urlaub"]
        assert not list(parts.glob("*.part"))
        begun = [one for one in gateway.audit() if one["method"] == "POST" and one["file"] == "Film ü.mov"]
        assert len(begun) == 1, "one upload, in three goes"


def test_a_wrong_name_is_not_tried_again(tmp_path: Path) -> None:
    with stack(tmp_path / "g", MEDIA_PIPELINE_DECODE__MAX_FILE_BYTES="1000") as gateway, browser(tmp_path) as page:
        large = tmp_path / "large.mov"
        large.write_bytes(b"x" * 1001)
        page.open(f"{gateway.url}/upload/")
        page.choose("#files", large)
        wait_for(lambda: "MEDIA_PIPELINE_DECODE__MAX_FILE_BYTES" in page.text(), "the reason is shown")
        assert page.evaluate("!document.getElementById('retry').hidden")
        large.write_bytes(b"x" * 1000)
        page.choose("#files", large)
        wait_for(lambda: (gateway.inbox / "large.mov").exists(), "the smaller one is taken")
        assert page.errors == []
