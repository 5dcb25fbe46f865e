"""Where in a YAML file something stands, so that a complaint names the line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def line_at(tree: Any, place: tuple[int | str, ...]) -> int | None:
    """The line, from 1, of the innermost node on the way to `place` that is there; None where the file is empty.

    Args:
        tree: root node, as `yaml.compose` returns it
        place: keys and indexes from the root, as `loc` in an error of Pydantic's
    """
    line: int | None = None
    for node in nodes_to(tree, place):
        line = node.start_mark.line + 1
    return line


def nodes_to(node: Any, place: tuple[int | str, ...]) -> Iterator[Any]:
    """The nodes on the way from this one to `place`, itself first, as far as they are there."""
    if node is None:
        return
    yield node
    if not place or isinstance(node.value, str):
        return
    if isinstance(place[0], int):
        children = node.value[place[0] : place[0] + 1]
    else:
        children = [value for key, value in node.value if getattr(key, "value", None) == place[0]]
    for child in children[:1]:
        yield from nodes_to(child, place[1:])
