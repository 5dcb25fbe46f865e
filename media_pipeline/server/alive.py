"""Whether a service answers, for the health checks of containers: light, because each is asked every few seconds.

python -m media_pipeline.server.alive http http://127.0.0.1:3000/server_info
python -m media_pipeline.server.alive grpc 127.0.0.1:4000
python -m media_pipeline.server.alive daemon
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

_PATIENCE_S = 10
# Dagster's daemons sign every 30 s; the UI calls them dead after five minutes without.
HEARTBEAT_MAX_AGE_S = 300.0
_AGES = "SELECT daemon_type, extract(epoch FROM now() AT TIME ZONE 'UTC' - timestamp) FROM daemon_heartbeats"


def http(url: str) -> str:
    with urlopen(url, timeout=_PATIENCE_S) as answer:  # noqa: S310 - an address of the compose file
        return f"HTTP {answer.status}"


def grpc(address: str) -> str:
    from grpc import insecure_channel
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    with insecure_channel(address) as channel:
        answer = HealthStub(channel).Check(HealthCheckRequest(service="DagsterApi"), timeout=_PATIENCE_S)
    status: str = HealthCheckResponse.ServingStatus.Name(answer.status)
    if status != "SERVING":
        raise RuntimeError(status)
    return status


def daemon() -> str:
    """
    Raises:
        RuntimeError: some daemon has not signed for too long, or never.
    """
    from media_pipeline.server.postgres import connected

    with connected(timeout_s=_PATIENCE_S) as database, database.cursor() as cursor:
        cursor.execute(_AGES)
        ages = {name: float(age) for name, age in cursor.fetchall()}
    # Types that an older release had go on standing in the table: those that signed within a day count.
    silent = {name: age for name, age in ages.items() if HEARTBEAT_MAX_AGE_S < age < 24 * 3600}
    if silent or not ages:
        told = ", ".join(f"{name} for {age:.0f} s" for name, age in silent.items())
        raise RuntimeError(f"silent: {told or 'no daemon has ever signed'}")
    return f"{len(ages)} daemons, the last signed {min(ages.values()):.0f} s ago"


def file(path: str, max_age_s: str) -> str:
    """
    Raises:
        RuntimeError: it was touched longer ago.
    """
    age_s = time.time() - Path(path).stat().st_mtime
    if age_s > float(max_age_s):
        raise RuntimeError(f"silent for {age_s:.0f} s")
    return f"{age_s:.0f} s ago"


def main() -> int:
    kinds: dict[str, Callable[..., str]] = {"http": http, "grpc": grpc, "daemon": daemon, "file": file}
    kind, *where = sys.argv[1:]
    try:
        print(kinds[kind](*where))
    except Exception as error:  # of whatever library: the container's state shows this line
        print(f"{kind} {' '.join(where)}: {type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
