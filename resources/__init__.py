"""Dagster resources: configuration around product objects, no logic."""
