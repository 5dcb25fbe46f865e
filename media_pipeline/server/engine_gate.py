"""The way to the Docker Engine for those who start runs, and nothing else of it.

Whoever may ask an engine for anything is root on its machine. The daemon and the webserver must start, look at and stop
containers of runs; so they speak to this gate, which alone has the engine's socket. A container is let through when it
is one like the *template* (the container of the code location): its image, its volumes, its network, no privileges. A
webserver in the wrong hands can start more of what is there anyway, and nothing with more power.

    python -m media_pipeline.server.engine_gate --socket /var/run/docker.sock --template media-pipeline-code
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

RUN_LABEL = "dagster/run_id"  # dagster-docker's, on every container of a run
_MAX_BODY_BYTES = 1_000_000  # a run's command has the instance and the origin of its job in it: tens of kilobytes
_TIMEOUT_S = 120.0  # stopping a container waits for it
_CONTAINER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")

# What may be said of a container beside what the template decides; all else must be absent or empty.
_FREE = {"Cmd", "Env", "Labels", "Entrypoint", "StopTimeout", "Healthcheck", "Tty", "OpenStdin", "StdinOnce"}
_FREE |= {"AttachStdin", "AttachStdout", "AttachStderr", "Hostname", "StopSignal", "WorkingDir", "NetworkDisabled"}
_FREE_OF_HOST = {
    "AutoRemove",
    "Init",
    "NanoCpus",
    "CpuShares",
    "MemorySwap",
    "PidsLimit",
    "LogConfig",
    "Tmpfs",
    "ShmSize",
}


class Refused(Exception):
    """The request is not one for a run; says why."""


class Template:
    """What a run's container must be like.

    Args:
        inspected: what the engine says of the template's container
    """

    def __init__(self, name: str, inspected: Mapping[str, Any]) -> None:
        self.name = name
        self.image: str = inspected["Config"]["Image"]
        self.networks = set(inspected["NetworkSettings"]["Networks"])

    def require_like(self, wanted: Mapping[str, Any]) -> None:
        """
        Raises:
            Refused: a container made so could do more than the template.
        """
        host = dict(wanted.get("HostConfig") or {})
        networking = dict(wanted.get("NetworkingConfig") or {})
        required = [
            (wanted.get("Image") == self.image, f"the image must be {self.image}"),
            (RUN_LABEL in (wanted.get("Labels") or {}), f"the label {RUN_LABEL} is missing"),
            (host.pop("VolumesFrom", None) == [self.name], f"volumes come from {self.name}, all of them"),
            (host.pop("NetworkMode", None) in self.networks, f"the network must be one of {sorted(self.networks)}"),
            (set(networking.pop("EndpointsConfig", None) or {}) <= self.networks, "another network"),
            (host.pop("ReadonlyRootfs", None) is True, "the root file system must be read-only"),
            (host.pop("CapDrop", None) == ["ALL"], "all capabilities must be dropped"),
            (host.pop("SecurityOpt", None) == ["no-new-privileges:true"], "no-new-privileges must be set"),
            (isinstance(m := host.pop("Memory", None), int) and m > 0, "memory must be limited"),
            ((host.get("LogConfig") or {}).get("Type") in (None, "", "json-file"), "logs stay on this machine"),
        ]
        broken = [reason for holds, reason in required if not holds]
        broken += [
            f"{name} may not be set"
            for asked, free in (
                (wanted, _FREE | {"Image", "HostConfig", "NetworkingConfig"}),
                (host, _FREE_OF_HOST),
                (networking, set()),
            )
            for name, value in asked.items()
            if name not in free and value
        ]
        if broken:
            raise Refused("; ".join(broken))


class Gate:
    """
    Args:
        engine: speaks to the Docker Engine
        template: name of the container that runs must be like
    """

    def __init__(self, engine: httpx.AsyncClient, template: str) -> None:
        self._engine, self._template = engine, template

    def app(self) -> Starlette:
        routes = [
            ("/healthz", "GET", self.healthz),
            ("/_ping", "HEAD", self.passed),
            ("/_ping", "GET", self.passed),
            ("/version", "GET", self.passed),
            ("/containers/json", "GET", self.listed),
            ("/containers/create", "POST", self.created),
            ("/containers/{container}/json", "GET", self.inspected),
            ("/containers/{container}/start", "POST", self.of_a_run),
            ("/containers/{container}/stop", "POST", self.of_a_run),
            ("/containers/{container}/kill", "POST", self.of_a_run),
            ("/containers/{container}", "DELETE", self.of_a_run),
        ]
        return Starlette(
            routes=[
                Route(prefix + path, endpoint, methods=[method])
                for path, method, endpoint in routes
                for prefix in ("", "/v{version:float}")
            ],
            exception_handlers={Refused: _refused, httpx.HTTPError: _unreachable},
        )

    async def healthz(self, _: Request) -> Response:
        answer = await self._engine.get("/_ping")
        return JSONResponse({"engine": answer.text}, status_code=answer.status_code)

    async def passed(self, request: Request) -> Response:
        return await self._forward(request)

    async def listed(self, request: Request) -> Response:
        """Containers of runs only, whatever else is asked for."""
        filters = json.loads(request.query_params.get("filters") or "{}")
        labels = filters.get("label", [])
        labels = list(labels) if isinstance(labels, (list, dict)) else []
        filters["label"] = [*labels, RUN_LABEL] if RUN_LABEL not in labels else labels
        return await self._forward(request, query={**request.query_params, "filters": json.dumps(filters)})

    async def created(self, request: Request) -> Response:
        if int(request.headers.get("content-length") or 0) > _MAX_BODY_BYTES:
            raise Refused("the request is too large")
        body = await request.body()
        try:
            wanted = json.loads(body)
        except ValueError:
            raise Refused("the request is no JSON") from None
        if not isinstance(wanted, dict):
            raise Refused("the request is no JSON object")
        template = Template(self._template, await self._inspect(self._template))
        template.require_like(wanted)
        # Sent as it was understood: of a key that was given twice the engine might take the other value.
        return await self._forward(request, body=json.dumps(wanted).encode())

    async def inspected(self, request: Request) -> Response:
        if request.path_params["container"] == self._template:
            return await self._forward(request)
        return await self.of_a_run(request)

    async def of_a_run(self, request: Request) -> Response:
        found = await self._inspect(request.path_params["container"])
        if found is not None and RUN_LABEL not in (found["Config"]["Labels"] or {}):
            raise Refused("this is not the container of a run")
        return await self._forward(request)

    async def _inspect(self, container: str) -> Any:
        if not _CONTAINER.fullmatch(container):
            raise Refused("this is not the name of a container")
        answer = await self._engine.get(f"/containers/{container}/json")
        if answer.status_code == httpx.codes.NOT_FOUND and container != self._template:
            return None  # the engine says so to whoever asked, too
        answer.raise_for_status()
        return answer.json()

    async def _forward(
        self, request: Request, *, query: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Response:
        answer = await self._engine.request(
            request.method,
            request.url.path,
            params=dict(request.query_params) if query is None else dict(query),
            content=body,
            headers={"Content-Type": "application/json"} if body is not None else None,
        )
        kept = {k: v for k, v in answer.headers.items() if k.lower() in ("content-type", "api-version", "ostype")}
        return Response(answer.content, status_code=answer.status_code, headers=kept)


async def _refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"message": f"refused by the gate before the Docker Engine: {error}"}, status_code=403)


async def _unreachable(_: Request, error: Exception) -> Response:
    return JSONResponse({"message": f"the Docker Engine does not answer: {error!r}"}, status_code=502)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--socket", default="/var/run/docker.sock", help="of the Docker Engine")
    parser.add_argument("--template", required=True, help="name of the container that runs must be like")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=2375)
    given = parser.parse_args()
    engine = httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=given.socket), base_url="http://engine", timeout=_TIMEOUT_S
    )
    uvicorn.run(Gate(engine, given.template).app(), host=given.host, port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
