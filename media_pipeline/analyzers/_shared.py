"""One copy of a network in memory, however many analyzers use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")

_loaded: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
_lock = threading.RLock()  # what is loaded may be made of something shared


def shared(key: Hashable, load: Callable[[], T]) -> T:
    """What `load` makes, or the copy of it that somebody in this process still holds.

    Held weakly: when the last analyzer lets go of it, its memory is free again. The key names everything that `load`
    depends on (kind of model, digest or path, threads).
    """
    with _lock:
        found: T | None = _loaded.get(key)
        if found is None:
            found = _loaded[key] = load()
        return found
