"""Grafana's dashboard: it is what its script writes, and every panel has something to show.

Grafana itself is not there: its questions are asked a real Prometheus, which scrapes the real exporter of a real home.
"""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._daemon.types import DaemonHeartbeat

from media_pipeline.config import load_settings
from media_pipeline.engine.instance import open_instance
from media_pipeline.server.metrics_backup import STATUS_FILE
from media_pipeline.storage.costs import Cost
from media_pipeline_tests._alert_rules import MONITORING, RULES, free_port, program
from media_pipeline_tests._metrics import eventually, of, samples
from media_pipeline_tests._retention_home import add, analysed, cached, opened
from media_pipeline_tests.test_alert_rules_delivery import running
from media_pipeline_tests.test_metrics import STATUS, certificate, get, web

GRAFANA = MONITORING / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "media-pipeline.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_it_is_what_its_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GRAFANA))
    spec = importlib.util.spec_from_file_location("dashboard", GRAFANA / "dashboard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.text(), "run deploy/monitoring/grafana/dashboard.py"


def test_it_is_as_grafana_wants_it() -> None:
    assert (DASHBOARD["uid"], DASHBOARD["schemaVersion"]) == ("media-pipeline", 39)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    (datasource,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    for panel in PANELS:
        assert panel["title"] and panel["targets"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": datasource["type"], "uid": datasource["uid"]}
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        values = [step["value"] for step in steps]
        mappings = panel["fieldConfig"]["defaults"]["mappings"]
        if panel["type"] in ("stat", "gauge", "bargauge"):
            nothing = next(one["options"]["result"] for one in mappings if one["type"] == "special")
            assert nothing["color"] == "text", "no data is neither good nor bad"
        assert values[0] is None and values[1:] == sorted(values[1:])


def test_no_panel_covers_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] >= 0 and at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, f"{panel['title']} covers {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_it_is_provisioned_from_where_it_is_mounted() -> None:
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/media-pipeline.yaml").read_text())["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    assert not provider["allowUiUpdates"]


def test_nobody_comes_in_but_through_the_gateway_and_nobody_changes_anything() -> None:
    found = configparser.ConfigParser()
    found.read(GRAFANA / "grafana.ini")
    assert found["auth.proxy"]["enabled"] == "true"
    assert found["auth.proxy"]["header_name"] == "X-WEBAUTH-USER"
    assert found["users"]["auto_assign_org_role"] == "Viewer"
    for section, name in (
        ("auth.anonymous", "enabled"),
        ("auth.basic", "enabled"),
        ("users", "allow_sign_up"),
        ("users", "viewers_can_edit"),
        ("analytics", "reporting_enabled"),
        ("plugins", "plugin_admin_enabled"),
    ):
        assert found[section][name] == "false", (section, name)
    for name in ("disable_initial_admin_creation", "cookie_secure"):
        assert found["security"][name] == "true"
    assert found["auth"]["disable_login_form"] == "true"


# --- every panel ----------------------------------------------------------------------------------------------------


@contextmanager
def exporter(home: Path, *services: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The real one in a process of its own: its address, and the process."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MEDIA_PIPELINE_", "DAGSTER_"))}
    clean |= {"MEDIA_PIPELINE_OFFLINE": "1", "MEDIA_PIPELINE_MIN_FREE_BYTES": "1", **environment}
    command = [sys.executable, "-m", "media_pipeline", "--home", str(home), "metrics", "--port", "0"]
    command += [part for service in services for part in ("--service", service)]
    process = subprocess.Popen(command, env=clean, cwd=home, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://[\d.:]+", line)
        assert found is not None, line
        yield found.group(), process
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


def full_home(home: Path) -> None:
    """Something of everything."""
    with closing(opened(home)) as pipeline:
        media = add(pipeline, "a.jpg", "b.jpg", "c.mp4", "d.wav")
        analysed(pipeline, media[:2], failed=["ocr"])
        cached(pipeline, media[0])
        pipeline.costs.record(Cost("ocr", "PP", "cpu", 3, 6, 0.0, 12.0, 6.0))
    with open_instance(load_settings(home=home)) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "x", []))


def backed_up(folder: Path) -> None:
    folder.mkdir()
    now = datetime.now(UTC).isoformat()
    (folder / STATUS_FILE).write_text(json.dumps({**STATUS, "finished_at": now, "last_success_at": now}))


def ask(url: str, path: str, **parameters: str) -> Any:
    encoded = urllib.parse.urlencode(parameters)
    try:
        with urllib.request.urlopen(f"{url}/prometheus/api/v1/{path}?{encoded}", timeout=30) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        with error:
            pytest.fail(f"{parameters}: {error.read().decode()}")
    except OSError:
        return None  # it starts


def answer(url: str, target: dict[str, Any]) -> list[Any]:
    """What Grafana would get for a panel's question."""
    now = time.time()
    if target["instant"]:
        found = ask(url, "query", query=target["expr"], time=str(now))
    else:
        found = ask(url, "query_range", query=target["expr"], start=str(now - 600), end=str(now), step="5")
    return found["result"] if found else []


@pytest.mark.slow
def test_every_panel_shows_something(tmp_path: Path) -> None:
    program("prometheus")
    home, state, prometheus = tmp_path / "home", tmp_path / "state", free_port()
    full_home(home)
    backed_up(state)
    with (
        web(certificate=certificate(tmp_path, 60)) as tls,
        web() as plain,
        exporter(
            home,
            f"gateway=tls://127.0.0.1:{tls}",
            f"webserver=http://127.0.0.1:{plain}/server_info",
            MEDIA_PIPELINE_SERVER__BACKUP_STATE=str(state),
        ) as (url, _),
    ):
        configuration = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        configuration["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        job = next(job for job in configuration["scrape_configs"] if job["job_name"] == "media-pipeline")
        job["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
        configuration |= {"scrape_configs": [job], "alerting": {}, "rule_files": [str(RULES)]}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        with running(
            tmp_path,
            "prometheus",
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{prometheus}",
            "--web.route-prefix=/prometheus",
        ):
            asked = f"http://127.0.0.1:{prometheus}"

            def empty() -> list[str]:
                shown = [panel for panel in PANELS if panel["title"] != "Firing alerts"]
                return [p["title"] for p in shown for target in p["targets"] if not answer(asked, target)]

            eventually(lambda: not empty(), 180, every_s=1)
            values = {
                panel["title"]: [series["value"][1] for series in answer(asked, panel["targets"][0])]
                for panel in PANELS
                if panel["targets"][0]["instant"]
            }
            assert values["Waiting"] == ["0"] and 59 < float(values["Certificate"][0]) <= 60
            assert values["Standing failures by stage"][0] == "2"
            # As told in Grafana, not only by a value: the legend's labels are there.
            for panel in PANELS:
                for target in panel["targets"]:
                    for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                        assert all(label in series["metric"] for series in answer(asked, target)), panel["title"]
            # Nothing is wrong in this home, so nobody would be told; of the very rules that tell.
            assert values["Firing alerts"] == []


@pytest.mark.slow
def test_the_exporter_as_a_process(tmp_path: Path) -> None:
    """Quick from the first question on, small, and gone when it is told to go."""
    home = tmp_path / "home"
    full_home(home)
    with exporter(home, "gone=http://127.0.0.1:1/") as (url, process):
        began = time.monotonic()
        get(f"{url}/metrics")
        assert time.monotonic() - began < 5  # a second, on a machine with nothing else to do
        eventually(lambda: of(samples(get(f"{url}/metrics")[1]), "exporter_source_up", source="stale") == 1)
        text = get(f"{url}/metrics")[1]
        checked = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        found = samples(text)
        assert of(found, "media") == 4
        assert [key for key, value in found.items() if key[0] == "exporter_source_up" and value != 1] == []
        status, body = get(f"{url}/healthz")
        assert status == 503 and list(json.loads(body)["services"]) == ["gone"]
        assert not [name for name in ("a.jpg", "c.mp4", str(home)) if name in get(f"{url}/metrics")[1]]
        memory = Path(f"/proc/{process.pid}/status").read_text()
        assert int(re.search(r"VmHWM:\s+(\d+)", memory)[1]) < 250_000  # type: ignore[index]
        process.terminate()
        assert process.wait(30) == 0
