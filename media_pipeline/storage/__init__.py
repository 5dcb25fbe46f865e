"""Where results are kept: tables, ledger, catalog, indexes, and what is known of the files they come from."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

import pyarrow as pa


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(f"{fullname} is not wanted yet", name=fullname)


def _spare_pandas() -> None:
    """Let pyarrow believe that there is no pandas until somebody asks for it by name.

    It imports pandas, where that is installed, with the first array made from Python values, only to see that a list
    is no Series: over a CPU second in every process. `to_pandas` and `from_pandas` look again and work. May go when
    paddlex, which brings pandas, no longer does.
    """
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([None])
    finally:
        sys.meta_path.remove(finder)


_spare_pandas()
