#!/usr/bin/env bash
# usage: setup.sh [WHAT]; `.` leaves out what only tests and the demo need.
# Makes .venv with everything in it: no sudo, nothing outside the checkout but uv's download cache.
# Runs on a machine that has Python 3.11 or 3.12, or uv, or curl.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
bootstrap=$venv-bootstrap # only where Python cannot make the environment itself; removed at the end
trap 'rm -rf "$bootstrap"' EXIT

fail() {
    printf 'setup: %s\n' "$1" >&2
    exit 1
}

have_uv() {
    [ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
}

suitable() {
    # Version managers put shims on the path that exist but do not run: ask, do not look.
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3 python; do
        if suitable "$candidate"; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
}

find_uv() { # usage: find_uv PYTHON-or-empty; prints a uv that runs
    if command -v uv >/dev/null; then
        command -v uv
    elif [ -n "$1" ] && "$1" -m pip --version >/dev/null 2>&1; then
        "$1" -m pip install --quiet --root-user-action ignore --target "$bootstrap" uv >&2
        echo "$bootstrap/bin/uv"
    elif command -v curl >/dev/null; then
        curl -LsSf https://astral.sh/uv/install.sh | env UV_UNMANAGED_INSTALL="$bootstrap/bin" sh >&2
        echo "$bootstrap/bin/uv"
    else
        fail "Python 3.11 or 3.12 with venv or pip, uv, or curl is needed; install one of them (for example: apt install python3-venv)"
    fi
}

make_venv() {
    local python uv
    python=$(find_python)
    if [ -n "$python" ] && "$python" -m venv --clear "$venv" >/dev/null 2>&1; then
        return
    fi
    uv=$(find_uv "$python")
    # Without a suitable Python of its own, uv brings one.
    "$uv" venv --quiet --clear --python "${python:->=3.11,<3.13}" "$venv" ||
        fail "no Python 3.11 or 3.12; install one, or name it: make setup PYTHON=/path/to/python3.11"
    "$uv" pip install --quiet --python "$venv" uv
}

if ! { suitable "$venv/bin/python" && have_uv; }; then
    make_venv
    have_uv
fi

# A CPU build of torch: the default one brings 3 GB of CUDA libraries that no CPU server can use.
if [ -n "${PIP_FIND_LINKS:-}" ]; then
    torch=(--find-links "$PIP_FIND_LINKS")
else
    torch=(--torch-backend cpu)
fi
"$venv/bin/uv" pip install --python "$venv" --constraints constraints.txt --overrides overrides.txt "${torch[@]}" -e "${1:-.[dev]}"
"$venv/bin/python" scripts/check_install.py
