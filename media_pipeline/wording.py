"""Text and times as people read them, the same on the screen, in a page and in a message."""

from __future__ import annotations


def printable(text: str) -> str:
    """Foreign text never commands the terminal. One character for one, so that positions in it stay where they are."""
    return "".join(c if c.isprintable() else " " for c in text)


def clock(seconds: float) -> str:
    """`m:ss`, and `h:mm:ss` from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
