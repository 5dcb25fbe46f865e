"""dagster-webserver, and before it somebody who turns away pages of others.

The UI has no sign-in, and a browser carries what any page asks for to 127.0.0.1 as well. Dagster runs mutations that
stand in the address of a picture or in the text of a form, and never asks who sent them. Nor does it mind its own name:
a page may let a name of its own lead here (DNS rebinding), and is then of the same site for the browser.

    python -m media_pipeline.server.webserver --host=… --port=…      with the arguments of dagster-webserver
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import click
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from media_pipeline.config import load_settings

ANY = "*"
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\[\]:/@\s]+?)\.?)(?::\d+)?")
_FOREIGN = (
    "A page of another site has sent this request; it is not carried out. If it was the UI itself: a proxy before it "
    "must pass `Host` on unchanged.\n"
)
_UNUSUAL = "GraphQL is asked with POST and application/json here.\n"


class Guard:
    """ASGI middleware that lets through what the UI itself and scripts ask for, and nothing of other sites.

    Args:
        app: the UI
        host: address it listens on
        names: under which it may be opened beside that and those of this machine; with ANY whatever it is called
        graphql: path of the API
    """

    def __init__(self, app: ASGIApp, *, host: str, names: Collection[str] = (), graphql: str = "/graphql") -> None:
        self._app = app
        self._host = host.lower()
        self._names = {name.lower() for name in names}
        self._graphql = graphql

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if not self._is_called(host):
            text = (
                f"This is media-pipeline, and '{host}' is none of its names. Open it by its address, or add the name "
                "to MEDIA_PIPELINE_UI_HOSTS and start it anew.\n"
            )
            return PlainTextResponse(text, HTTPStatus.FORBIDDEN)
        if _is_foreign_origin(headers, host) or self._is_foreign_fetch(scope, headers):
            return PlainTextResponse(_FOREIGN, HTTPStatus.FORBIDDEN)
        if scope["path"] == self._graphql and not _is_asked_as_the_ui_does(scope, headers):
            return PlainTextResponse(_UNUSUAL, HTTPStatus.METHOD_NOT_ALLOWED)
        return None

    def _is_called(self, host: str) -> bool:
        """Is this `Host` one of ours?"""
        if ANY in self._names:
            return True
        found = _AUTHORITY.fullmatch(host)
        if not found:
            return False
        name = found["v6"] or found["name"]
        if name in ("localhost", self._host) or name in self._names:
            return True
        address = _address(name)
        if address is None:
            return False
        # Who listens everywhere has all addresses of this machine; a page cannot make an address lead elsewhere.
        listens = _address(self._host)
        return address.is_loopback or (listens is not None and listens.is_unspecified)

    def _is_foreign_fetch(self, scope: Scope, headers: Headers) -> bool:
        """What the browser itself says of a request without `Origin`, such as for a picture."""
        if headers.get("sec-fetch-site") != "cross-site":
            return False
        # A link to a page of the UI may stand anywhere; a frame around it may not.
        is_link = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
        return not (is_link and scope.get("method") == "GET" and scope["path"] != self._graphql)


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _is_foreign_origin(headers: Headers, host: str) -> bool:
    origin = headers.get("origin")
    # "null", of a file or a frame without rights, is nobody.
    return origin is not None and (not host or origin.lower().partition("://")[2] != host)


def _is_asked_as_the_ui_does(scope: Scope, headers: Headers) -> bool:
    """Types that a page of others cannot send without asking first, and the playground without a question in it."""
    if scope["type"] == "websocket":
        return True
    if scope["method"] == "POST":
        return headers.get("content-type", "").partition(";")[0].strip() == "application/json"
    return scope["method"] == "GET" and "text/html" in headers.get("accept", "") and not scope["query_string"]


def main() -> None:
    """
    Raises:
        UsageError: a setting is unknown or has a wrong value
    """
    from dagster_webserver import cli as untyped

    cli: Any = untyped
    names = load_settings().ui_hosts
    create = cli.create_app_from_workspace_process_context

    def create_guarded(*given: Any, **named: Any) -> Starlette:
        app: Starlette = create(*given, **named)
        # The command's own options, which the app does not hear of.
        options = click.get_current_context().params
        graphql = f"{options['path_prefix']}/graphql"
        app.add_middleware(Guard, host=options["host"], names=names, graphql=graphql)
        return app

    cli.create_app_from_workspace_process_context = create_guarded
    sys.argv[0] = "dagster-webserver"
    cli.main()


if __name__ == "__main__":
    main()
