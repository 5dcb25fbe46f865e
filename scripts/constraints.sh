#!/usr/bin/env bash
# Resolves constraints.txt anew from pyproject.toml and overrides.txt, and shows that it holds for every Python we name.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=.venv/bin/uv
if [ -n "${PIP_FIND_LINKS:-}" ]; then
    torch=(--find-links "$PIP_FIND_LINKS")
else
    torch=(--torch-backend cpu)
fi
new=$(mktemp)
trap 'rm -f "$new"' EXIT

resolve() { # usage: resolve PYTHON-VERSION OUTPUT [uv options]
    "$uv" pip compile --quiet --python-version "$1" --output-file "$2" --extra dev --extra gpu --overrides overrides.txt "${torch[@]}" \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links "${@:3}" pyproject.toml
}

resolve 3.11 "$new" --upgrade
# "+cpu" names a build that exists on one index only; which build is taken is setup's decision.
sed -i 's/+cpu$//' "$new"
resolve 3.12 /dev/null --constraints "$new"
cp "$new" constraints.txt
