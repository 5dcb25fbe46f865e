"""Dagster assets, thin: stages of the pipeline (one op each), results over all media, the jobs.

No `from __future__ import annotations` in this package: Dagster reads the annotations of ops made in factories.
"""
