"""Dagster sensors and schedules: watchers that start runs, no logic of the domain."""
