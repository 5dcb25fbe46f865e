"""`media-pipeline persons`: who is to be seen."""

from __future__ import annotations

from media_pipeline.cli._identities import PERSONS, group

persons = group(PERSONS)
