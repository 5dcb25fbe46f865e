#!/usr/bin/env bash
# Restores the newest backup beside the running installation, into a scratch folder and a scratch database, compares
# both with what was backed up and with the installation, prints a table, and removes the scratch. Ends with 1 where
# there is a difference. `make restore-drill` calls it on a server; arguments are those of
# `media-pipeline installation drill`, e.g. --without-originals where there is no room for a second home.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    printf 'restore-drill: %s\n' "$*" >&2
    exit 1
}
. deploy/compose.sh
TAG=${TAG:-$(cat "$STATE" 2>/dev/null || echo latest)}
export TAG
find_compose

# Without -T a call by cron or over ssh, where there is no terminal, fails.
if compose exec -T backup true >/dev/null 2>&1; then
    exec "${COMPOSE[@]}" exec -T backup media-pipeline installation drill "$@"
fi
exec "${COMPOSE[@]}" run --rm -T backup media-pipeline installation drill "$@"
