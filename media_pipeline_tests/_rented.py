"""A pretend machine of the stand-in for Vast.ai, with a real sshd behind it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from media_pipeline.cloud.api import Vast
from media_pipeline.cloud.records import Endpoint, Offer
from media_pipeline.cloud.ssh import Connection, Key, connect
from media_pipeline.config_gpu import Gpu
from media_pipeline_tests.vast_standin import StandIn

ANY = Gpu(secure_cloud=False, min_reliability=0, min_inet_mbps=0, min_cuda=1, max_hours=1, max_usd_per_hour=9)

needs_sshd = pytest.mark.skipif(
    not all(shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin") for name in ("sshd", "ssh", "ssh-keygen")),
    reason="no OpenSSH server here",
)


@dataclass(frozen=True, slots=True)
class Rented:
    standin: StandIn
    vast: Vast
    instance_id: int
    offer: Offer
    key: Key
    folder: Path  # of the lease

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        found = self.vast.instance(self.instance_id)
        assert found is not None
        return found.ssh

    @property
    def root(self) -> Path:
        """Its home folder."""
        root: Path = self.standin.market.instances[self.instance_id].box.root
        return root

    @property
    def gate(self) -> Any:
        """The network in front of it: `cut_after`, `bps`, `hang`; `rx` and `tx` count bytes."""
        return self.standin.market.instances[self.instance_id].box.gate

    def connect(self, seconds: float = 20) -> Connection:
        return connect(self.endpoints, self.key, self.folder, deadline=time.monotonic() + seconds)


@contextmanager
def rented(
    folder: Path,
    *,
    plan: dict[str, Any] | None = None,
    onstart: str = "true",
    env: dict[str, str] | None = None,
    **standin: Any,
) -> Iterator[Rented]:
    """A machine that is running and has our key."""
    with StandIn(**{"ssh": True, "boot": (0.1, 0.2, 0.5), **standin}) as running:
        vast = Vast(SecretStr("test-key"), running.url)
        try:
            if plan:
                running.fault({"route": "create", "do": "instance", "plan": plan})
            offer = vast.search(ANY)[0]
            instance_id = vast.create(offer, label="mp-test", image="image", disk_gb=40, onstart=onstart, env=env or {})
            key = Key.make(folder)
            vast.attach_key(instance_id, key.public)
            until = time.monotonic() + 20
            while not ((found := vast.instance(instance_id)) and found.is_running) and time.monotonic() < until:
                time.sleep(0.05)
            yield Rented(running, vast, instance_id, offer, key, folder)
        finally:
            vast.close()
