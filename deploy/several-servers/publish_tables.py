"""Publishes the tables of a home as Delta tables in an S3-compatible bucket, for readers that have no home.

    python deploy/several-servers/publish_tables.py /srv/media-pipeline s3://bucket/tables

Where the bucket is and with which keys, delta-rs reads in the environment: AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (AWS_ALLOW_HTTP=true without TLS). Each table is replaced by one commit, as a
whole and only when it has changed; readers of the version before go on reading. May be stopped and repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deltalake import CommitProperties, DeltaTable, write_deltalake

_SOURCE = "media_pipeline.version"  # in the published commit: the version of the home's table
_KEEP_HOURS = 24  # files of versions before, for who is reading them


def publish(home: Path, target: str) -> list[str]:
    """Names of the tables that have changed since the last time."""
    changed = []
    for folder in sorted((home / "tables").iterdir()):
        if not DeltaTable.is_deltatable(folder.as_uri()):
            continue
        source, uri = DeltaTable(folder.as_uri()), f"{target.rstrip('/')}/{folder.name}"
        version = str(source.version())
        if DeltaTable.is_deltatable(uri) and DeltaTable(uri).history(1)[0].get(_SOURCE) == version:
            continue
        write_deltalake(
            uri,
            source.to_pyarrow_dataset().scanner().to_reader(),  # a few batches in memory at a time
            mode="overwrite",
            schema_mode="overwrite",
            commit_properties=CommitProperties(custom_metadata={_SOURCE: version}),
        )
        DeltaTable(uri).vacuum(_KEEP_HOURS, dry_run=False, enforce_retention_duration=False)
        changed.append(folder.name)
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print("published:", ", ".join(publish(Path(sys.argv[1]).absolute(), sys.argv[2])) or "nothing new")
