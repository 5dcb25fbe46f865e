#!/usr/bin/env bash
# Fills an empty server from a backup: the home, Dagster's database, and the inbox. docs/operations-backup.md says how
# the server gets empty, here or elsewhere. Arguments are those of `media-pipeline installation restore`, e.g.
# --snapshot ID. Nothing is ever overwritten: where something is left, it says so and does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    printf 'restore: %s\n' "$*" >&2
    exit 1
}
. deploy/compose.sh
# The images that `make up` has built and started last.
TAG=${TAG:-$(cat "$STATE" 2>/dev/null || echo latest)}
export TAG
find_compose

for role in code webserver daemon gateway backup; do
    if compose exec -T "$role" true >/dev/null 2>&1; then
        fail "the server runs ($role); stop it first: make down"
    fi
done
# PostgreSQL is started with it and awaited; nothing else is, so nothing else has made tables in it.
exec "${COMPOSE[@]}" run --rm -T backup media-pipeline installation restore --home /data "$@"
