"""`metrics`: the exporter that Prometheus scrapes, and the health of a server in one answer."""

from __future__ import annotations

import signal
from types import FrameType

import click

from media_pipeline.cli.context import App
from media_pipeline.errors import UsageError


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9200, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="NAME=URL",
    help="Something that should answer: http://, grpc://, tls:// or tcp://; may be given several times.",
)
@click.pass_obj
def metrics(app: App, host: str, port: int, services: tuple[str, ...]) -> int:
    """Serve /metrics for Prometheus and /healthz until Ctrl-C. There is no sign-in; it tells numbers, no names."""
    from media_pipeline.server.metrics import Exporter, server
    from media_pipeline.server.metrics_services import Service

    exporter = Exporter.of(app.settings, [Service.parse(service) for service in services])
    try:
        listening = server(exporter, host, port)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port} ({error.strerror})", "choose another with --port") from None

    def stop(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)  # also of a first process in a container, which has no default for it
    click.echo(f"metrics on http://{host}:{listening.server_address[1]}/metrics", err=True)
    try:
        listening.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        listening.server_close()
    return 0
