"""The composition root: complete, quick to load, and made of our own packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from media_pipeline.definitions import defs
from media_pipeline.execution.stages import stage_infos

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).parent / "golden" / "asset_graph.json"


def asset_graph() -> dict[str, dict[str, object]]:
    """What is worth noticing when it changes, by asset."""
    return {
        spec.key.to_user_string(): {
            "needs": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
            "group": spec.group_name,
            "kinds": sorted(spec.kinds),
            "partitions": spec.partitions_def.name if spec.partitions_def is not None else None,
            "owners": sorted(spec.owners),
        }
        for spec in sorted(defs.resolve_all_asset_specs(), key=lambda s: s.key.to_user_string())
    }


def test_the_asset_graph_is_the_golden_one() -> None:
    """When it is meant to change: `python -m media_pipeline_tests.test_definitions` writes the new one."""
    assert asset_graph() == json.loads(GOLDEN.read_text())


def test_every_asset_tells_what_it_is() -> None:
    for spec in defs.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.code_version, spec.key
        assert spec.owners == ["team:media"]
        assert spec.kinds, spec.key


def test_there_is_one_op_per_stage_and_the_jobs_resolve() -> None:
    analyze = defs.resolve_job_def("analyze_media")
    names = [stage.name for stage in stage_infos()]
    assert {op.name for op in analyze.graph.node_defs[0].node_defs} == set(names)
    for name in ("refresh_results", "maintenance"):
        assert defs.resolve_job_def(name).executor_def.name == "in_process"


def test_the_sensor_and_the_schedule_run_from_the_start() -> None:
    assert defs.resolve_sensor_def("watch_folders").default_status == dg.DefaultSensorStatus.RUNNING
    assert defs.resolve_schedule_def("nightly_maintenance").default_status == dg.DefaultScheduleStatus.RUNNING


@pytest.mark.slow
def test_loading_brings_no_model_library() -> None:
    code = "import sys; import media_pipeline.definitions;print(sorted(sys.modules.keys() & set(sys.argv[1:])))"
    heavy = ["torch", "onnxruntime", "cv2", "faster_whisper", "rapidocr", "paddleocr", "scenedetect", "faiss", "duckdb"]
    out = subprocess.run(
        [sys.executable, "-c", code, *heavy], cwd=ROOT, check=True, capture_output=True, text=True, timeout=120
    ).stdout
    assert out.strip() == "[]"


@pytest.mark.slow
def test_resources_and_sensors_are_ours_whatever_lies_in_site_packages(tmp_path: Path) -> None:
    for name in ("resources", "sensors"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a stranger')")
    code = (
        f"import sys; sys.path[:] = [{str(tmp_path)!r}, *(p for p in sys.path if p), {str(ROOT)!r}]\n"
        "import media_pipeline.definitions, resources, sensors\n"
        "print(resources.__file__, sensors.__file__, sep='\\n')"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    assert all(Path(line).is_relative_to(ROOT) for line in out.stdout.split())


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(asset_graph(), indent=2) + "\n")
