"""Exports: what is known of media, in the formats of other programs."""

from __future__ import annotations

SUBTITLES = ("srt", "vtt")
DOCUMENTS = (*SUBTITLES, "json")  # one file per medium
TABLES = ("csv", "parquet")  # one file per view
FORMATS = (*DOCUMENTS, *TABLES, "coco")
