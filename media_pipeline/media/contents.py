"""Which of many files hold contents that are not in the home yet, each once, without reading all of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from media_pipeline.errors import InputError
from media_pipeline.media.originals import ContentChangedError, content_hash
from media_pipeline.media.walk import Found, open_found
from media_pipeline.storage.sources import Sources


def distinct(files: Sequence[Found], sources: Sources) -> Iterator[Found | str]:
    """A file for each content that is new, and the media_id of each that the home has under another name.

    Only files whose size another of them or a medium has are read. One that cannot be read counts as new: whoever takes
    it in will say what is wrong with it.
    """
    sizes = Counter(file.stat.st_size for file in files if file.stat is not None)
    known = sources.known_sizes(sizes)
    seen: set[str] = set()
    for file in files:
        size = file.stat.st_size if file.stat is not None else None
        media_id = _media_id(file) if size is not None and (sizes[size] > 1 or size in known) else None
        if media_id is None:
            yield file
        elif media_id not in seen:
            seen.add(media_id)
            yield media_id if sources.by_id([media_id]) else file


def _media_id(file: Found) -> str | None:
    try:
        handle = open_found(file)
        try:
            return content_hash(handle, os.fstat(handle))
        finally:
            os.close(handle)
    except (InputError, ContentChangedError, OSError):
        return None
