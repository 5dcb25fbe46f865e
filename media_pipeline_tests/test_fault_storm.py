"""A short storm; `make storm` is a long one."""

from __future__ import annotations

import shutil

import pytest

from media_pipeline_tests import fault_storm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("sshd", path="/usr/sbin:/usr/bin"), reason="no sshd (openssh-server) is here"),
]


def test_whatever_goes_wrong_nothing_is_left_lost_or_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_ASKED_FOR_S", "_DEAD_AFTER_S"):  # put back what the storm shortens
        monkeypatch.setattr(fault_storm.reaper, name, getattr(fault_storm.reaper, name))
    runs = list(enumerate([["24 host dies, says running", "11 create: answer lost"], *fault_storm.drawn(7, 5)]))
    found = list(fault_storm.storm(runs))
    assert [outcome for outcome in found if not outcome.is_good] == []
    assert sum(outcome.rented for outcome in found) >= 3
