"""The analyzer of another package: installed by its entry point, it is everywhere, and nothing was edited for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from media_pipeline_tests import _cli

EXAMPLE = _cli.REPOSITORY / "examples" / "qr_codes"
MODULE = EXAMPLE / "src" / "media_pipeline_qr_codes" / "__init__.py"
GUIDE = _cli.REPOSITORY / "docs" / "adding-an-analyzer.md"
TEXT = "https://example.org/Fahrplan?Linie=11&Straße=Königsallee"


def test_the_guide_shows_the_example_as_it_is() -> None:
    """Every block under a file's name is that file, or lines of it that follow each other."""
    blocks = re.findall(
        r"`(examples/[^`\n]+)`[^`]*?\n\n?```\w*\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL
    )
    shown = dict(blocks)
    assert shown.keys() >= {
        "examples/qr_codes/src/media_pipeline_qr_codes/__init__.py",
        "examples/qr_codes/pyproject.toml",
    }
    for name, code in blocks:
        assert code in (_cli.REPOSITORY / name).read_text(encoding="utf-8"), name
    assert shown[MODULE.relative_to(_cli.REPOSITORY).as_posix()] == MODULE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built and installed by uv into a folder of its own; uv brings the build backend, no network."""
    target = tmp_path_factory.mktemp("site")
    uv = Path(sys.executable).parent / "uv"
    command = [uv, "pip", "install", "--quiet", "--offline", "--no-cache", "--no-deps", "--python", sys.executable]
    done = subprocess.run([*command, "--target", target, EXAMPLE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    code = cv2.resize(cv2.QRCodeEncoder.create().encode(TEXT), None, fx=6, fy=6, interpolation=cv2.INTER_NEAREST)
    poster = np.full((720, 1280), 230, np.uint8)
    poster[100 : 100 + len(code), 300 : 300 + len(code)] = code
    cv2.imwrite(str(folder / "poster.png"), poster)
    cv2.imwrite(str(folder / "wall.png"), np.full((480, 640), 90, np.uint8))
    return folder


@pytest.fixture(scope="module")
def home(installed: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    done = _cli.run(home, "analyze", pictures, "--analyzers", "qr_codes", PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    return home


@pytest.mark.slow
def test_own_tests_of_the_example(installed: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", EXAMPLE, EXAMPLE / "tests"]
    env = _cli.environment(PYTHONPATH=str(installed))
    done = subprocess.run([*command, "-c", "/dev/null"], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


@pytest.mark.slow
def test_rows_in_table_and_view(home: Path, installed: Path) -> None:
    query = "SELECT name, kind, text, x1, y1 FROM (SELECT q.*, m.name FROM qr_codes q JOIN media m USING (media_id))"
    answer = _cli.run(home, "sql", query, "--format", "json", PYTHONPATH=str(installed))
    assert answer.returncode == 0, answer.stderr
    (row,) = json.loads(answer.stdout)
    assert (row["name"], row["kind"], row["text"]) == ("poster.png", "qr", TEXT)
    assert abs(row["x1"] - 300) < 20 and abs(row["y1"] - 100) < 20
    assert (home / "tables" / "qr_codes" / "_delta_log").is_dir()


@pytest.mark.slow
def test_status_and_doctor_name_it(home: Path, installed: Path) -> None:
    status = _cli.run(home, "status", "--format", "json", PYTHONPATH=str(installed))
    assert json.loads(status.stdout)["stages"]["qr_codes"]["done"] == 2
    doctor = _cli.run(home, "doctor", "--format", "json", PYTHONPATH=str(installed))
    (check,) = [check for check in json.loads(doctor.stdout) if check["name"] == "qr_codes"]
    assert (check["level"], check["found"]) == ("ok", "OpenCV code readers, embedded")


@pytest.mark.slow
def test_it_is_an_asset(installed: Path, tmp_path: Path) -> None:
    code = (
        "from media_pipeline.definitions import defs; graph = defs.resolve_asset_graph();"
        " print(*(key.to_user_string() for key in graph.get_all_asset_keys()))"
    )
    env = _cli.environment(PYTHONPATH=str(installed), MEDIA_PIPELINE_HOME=str(tmp_path))
    command = [sys.executable, "-c", code]
    with_it = subprocess.run(command, env=env, cwd=_cli.REPOSITORY, capture_output=True, text=True, timeout=120)
    assert with_it.returncode == 0, with_it.stderr
    assert "qr_codes" in with_it.stdout.split()
    del env["PYTHONPATH"]
    without = subprocess.run(command, env=env, cwd=_cli.REPOSITORY, capture_output=True, text=True, timeout=120)
    assert without.returncode == 0 and "qr_codes" not in without.stdout.split()


@pytest.mark.slow
def test_options_reach_it_and_wrong_ones_are_refused(home: Path, installed: Path, pictures: Path) -> None:
    option = {"MEDIA_PIPELINE_OPTIONS__QR_CODES__BARCODE": "false"}
    done = _cli.run(home, "analyze", pictures, "--analyzers", "qr_codes", PYTHONPATH=str(installed), **option)
    assert done.returncode == 2 and "barcodes" in done.stderr
    gone = _cli.run(home, "analyze", pictures, "--analyzers", "qr_codes")
    assert gone.returncode == 2 and "unknown analyzer qr_codes" in gone.stderr
