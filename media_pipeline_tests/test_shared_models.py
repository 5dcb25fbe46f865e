"""One copy of a network, however many analyzers use it."""

from __future__ import annotations

import gc
import threading

import pytest

from media_pipeline.analyzers._shared import shared


class Network:
    made = 0

    def __init__(self) -> None:
        type(self).made += 1


@pytest.mark.slow
def test_the_same_key_is_the_same_copy_until_nobody_holds_it() -> None:
    Network.made = 0
    first = shared(("test", 1), Network)
    assert shared(("test", 1), Network) is first
    assert shared(("test", 2), Network) is not first
    assert Network.made == 2
    del first
    gc.collect()
    shared(("test", 1), Network)
    assert Network.made == 3


def test_threads_that_ask_at_once_get_one_copy() -> None:
    Network.made = 0
    ready = threading.Barrier(4)
    found: list[Network] = []

    def ask() -> None:
        ready.wait()
        found.append(shared("at once", Network))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(network) for network in found}) == 1
    assert Network.made == 1
