"""Runs as containers on the Docker engines of one or several servers: `run_launcher` in a shared home's `dagster.yaml`.

dagster-docker's launcher with what several servers need besides:

* A run goes to that of the `engines` which has the fewest runs, and says which one it is. Engines that do not answer
  are passed over with a warning.
* On one server a run may be told to be like the container of the code location: its image, volumes and network, within
  `MEDIA_PIPELINE_SERVER__RUN_MEMORY` and `…__RUN_CPUS`. That is all that `server.engine_gate` lets through.
* A run has the settings of the server that starts it (`MEDIA_PIPELINE_*`, HOME with them): under others an analyzer
  would have another fingerprint, and what one server computed would be stale for the next.
* A run that `analyze` executes in its own process has no container, and is not failed for that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import dagster as dg
import docker  # type: ignore[import-untyped]
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_docker import DockerRunLauncher
from dagster_docker.container_context import DockerContainerContext
from dagster_docker.utils import DOCKER_CONFIG_SCHEMA

from media_pipeline.config import ENV_PREFIX, child_environment, load_settings
from media_pipeline.engine.tags import COMMAND_LINE, SOURCE_TAG
from media_pipeline.errors import UsageError

ENGINE_TAG = "media_pipeline/engine"  # where the run's container is
_RUN_LABEL = "dagster/run_id"  # dagster-docker's, on every container
_TIMEOUT_S = 30
_SETTINGS_WITHOUT_PREFIX = ("VAST_API_KEY", "VAST_URL")  # names of Vast.ai's own tools, which we read, too

log = logging.getLogger(__name__)
_engine: ContextVar[str] = ContextVar("engine", default="")


class ContainerRunLauncher(DockerRunLauncher):
    """Configured like dagster-docker's, and by:

    Args:
        engines: addresses of Docker engines, `unix:///var/run/docker.sock` or `tcp://10.0.0.2:2376`; the one that
            DOCKER_HOST names when empty.
        certificates: folder with `ca.pem`, `cert.pem` and `key.pem` for those with `tcp`, which are not spoken to
            without: whoever reaches an engine is root on its server.
        like: name of the container whose image, volumes and network runs get, instead of `image`, `networks` and
            `volumes`
    """

    def __init__(
        self,
        inst_data: ConfigurableClassData | None = None,
        engines: Sequence[str] = (),
        certificates: str | None = None,
        like: str | None = None,
        **config: Any,
    ) -> None:
        super().__init__(inst_data, **config)
        self._like = like
        self._engines = tuple(engines) or ("",)
        self._certificates = certificates
        self._clients: dict[str, Any] = {}
        if certificates is None and any(engine.startswith("tcp:") for engine in self._engines):
            raise UsageError("an engine with tcp and no certificates", "name their folder with `certificates`")

    @classmethod
    def config_type(cls) -> Any:
        return {
            **DOCKER_CONFIG_SCHEMA,
            "engines": dg.Field(dg.Array(dg.StringSource), is_required=False),
            "certificates": dg.Field(dg.StringSource, is_required=False),
            "like": dg.Field(dg.StringSource, is_required=False),
        }

    def get_container_context(self, dagster_run: dg.DagsterRun) -> DockerContainerContext:
        found = super().get_container_context(dagster_run)
        settings = load_settings()
        environment = child_environment(settings)
        ours = [f"{k}={v}" for k, v in environment.items() if k.startswith(ENV_PREFIX) or k in _SETTINGS_WITHOUT_PREFIX]
        found = found._replace(env_vars=[*ours, *found.env_vars])
        if self._like is None:
            return found
        server = settings.server
        limits: dict[str, Any] = {"mem_limit": server.run_memory, "volumes_from": [self._like]}
        if server.run_cpus:
            limits["nano_cpus"] = int(server.run_cpus * 1e9)
        return found._replace(networks=self._networks, container_kwargs={**found.container_kwargs, **limits})

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        if run.tags.get(SOURCE_TAG) == COMMAND_LINE:  # the next command there notices when it was killed
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        found: CheckRunHealthResult = super().check_run_worker_health(run)
        return found

    def _get_docker_image(self, job_code_origin: Any) -> str:
        if self._like is not None:
            return str(self._template().attrs["Config"]["Image"])
        return str(super()._get_docker_image(job_code_origin))  # type: ignore[no-untyped-call]

    @cached_property
    def _networks(self) -> list[str]:
        return sorted(self._template().attrs["NetworkSettings"]["Networks"])[:1]

    def _template(self) -> Any:
        try:
            return self._client("").containers.get(self._like)
        except (docker.errors.DockerException, OSError) as error:
            raise UsageError(f"container {self._like} cannot be looked at ({error})", "`make up` starts it") from error

    def _launch_container_with_command(self, run: dg.DagsterRun, docker_image: str, command: Sequence[str]) -> None:
        engine = self._least_busy()
        if engine:
            self._instance.add_run_tags(run.run_id, {ENGINE_TAG: engine})
        with _on(engine):
            super()._launch_container_with_command(run, docker_image, command)  # type: ignore[no-untyped-call]

    def _get_container(self, run: dg.DagsterRun | None) -> Any:
        with _on(run.tags.get(ENGINE_TAG, "") if run else ""):
            return super()._get_container(run)  # type: ignore[no-untyped-call]

    def _get_client(self, container_context: DockerContainerContext) -> Any:
        client = self._client(_engine.get())
        if (registry := container_context.registry) is not None:
            client.login(registry=registry["url"], username=registry["username"], password=registry["password"])
        return client

    def _client(self, engine: str) -> Any:
        if engine not in self._clients:
            environment = {"DOCKER_HOST": engine} if engine else None  # None: that of this process
            if environment and engine.startswith("tcp:"):
                environment |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(self._certificates)}
            self._clients[engine] = docker.from_env(timeout=_TIMEOUT_S, environment=environment)
        return self._clients[engine]

    def _least_busy(self) -> str:
        runs: dict[str, int] = {}
        silent: dict[str, Exception] = {}
        for engine in self._engines:
            try:
                runs[engine] = len(self._client(engine).containers.list(filters={"label": _RUN_LABEL}))
            except (docker.errors.DockerException, OSError) as error:  # requests' errors are OSErrors
                silent[engine] = error
                if isinstance(error, docker.errors.TLSParameterError):
                    # docker's own words name neither the folder nor what is missing from it.
                    said, remedy = (
                        f"{self._certificates} lacks ca.pem, cert.pem or key.pem, or cannot be read",
                        "put them there, readable by user 1000, and mount the folder (docs/several-servers.md)",
                    )
                else:
                    said, remedy = str(error), "start it, or mend `engines` in dagster.yaml"
                log.warning("the Docker engine %s is passed over: %s; %s", engine or "of DOCKER_HOST", said, remedy)
        if not runs:
            told = "; ".join(f"{engine or 'DOCKER_HOST'}: {error}" for engine, error in silent.items())
            raise UsageError(f"no Docker engine answers ({told})", "start one, or mend `engines` in dagster.yaml")
        return min(runs, key=runs.__getitem__)


@contextmanager
def _on(engine: str) -> Iterator[None]:
    token = _engine.set(engine)
    try:
        yield
    finally:
        _engine.reset(token)
