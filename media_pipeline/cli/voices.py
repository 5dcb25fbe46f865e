"""`media-pipeline voices`: who is to be heard."""

from __future__ import annotations

from media_pipeline.cli._identities import VOICES, group

voices = group(VOICES)
