# Steps of making a rented machine ready, for `sh -s` there: this text, then the call of one of its functions.
# Each may be repeated. What they find is said as NAME VALUE on stdout, what went wrong on stderr.
# A command must not read stdin unless it is given one: it would swallow the rest of this text.

# What our own image has, beside what is configured.
OUR_PYTHON=/opt/media-pipeline/.venv/bin/python
NO_PYTHON=3 # an exit status of its own: no other machine will have one either

fail() {
    printf '%s\n' "$1" >&2
    exit "${2:-1}"
}

mkdir -p "$HOME/media-worker/incoming" && cd "$HOME/media-worker" || fail "no folder can be made"
touch alive # for deadman.sh: somebody is at work here
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# ---- probe

probe() {
    smi=$(timeout 50 nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>&1 </dev/null) ||
        fail "nvidia-smi: ${smi:-no answer}"
    echo "gpu $smi" | head -n 1
    echo "cores $(cores)"
}

cores() { # that are ours: a container sees all of the machine's
    all=$(nproc)
    if read -r quota period 2>/dev/null </sys/fs/cgroup/cpu.max && [ "$quota" != max ]; then
        ours=$((quota / period))
        [ "$ours" -lt "$all" ] && all=$((ours > 0 ? ours : 1))
    fi
    echo "$all"
}

# ---- worker

suitable() { # usage: suitable PYTHON; there is nothing to find out about one that does not run
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' >/dev/null 2>&1 </dev/null
}

say_worker() { # usage: say_worker PYTHON CODE; CODE: folder with the program; empty: installed for PYTHON
    said=$(PYTHONPATH=$2${PYTHONPATH:+:$PYTHONPATH} "$1" -m media_pipeline.execution.worker --check --home home </dev/null) ||
        return
    echo "python $1"
    echo "code $2"
    echo "worker $(printf '%s\n' "$said" | tail -n 1)"
}

find_worker() { # usage: find_worker DIGEST PYTHON; those that are there, the right one or not
    if [ -s "code-$1/python" ] && say_worker "$(cat "code-$1/python")" "code-$1"; then return; fi
    for python in "$2" "$OUR_PYTHON"; do
        "$python" -c 'import media_pipeline.execution.worker' >/dev/null 2>&1 </dev/null || continue
        if say_worker "$python" ""; then return; fi
    done
    true
}

find_python() { # usage: find_python PYTHON <REQUIREMENTS; one that has them all, else what the best one lacks
    cat >wanted.txt
    for python in "$1" "$OUR_PYTHON"; do
        suitable "$python" || continue
        missing=$("$python" - <<'EOF'
from importlib.metadata import PackageNotFoundError, version

def has(name):
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False

# "onnxruntime-gpu|onnxruntime": either will do
lines = open("wanted.txt").read().split()
print(*(line for line in lines if not any(map(has, line.split("|")))))
EOF
        ) || continue
        if [ -z "$missing" ]; then
            echo "python $python"
            return
        fi
        echo "missing $missing"
    done
}

use_worker() { # usage: use_worker DIGEST WHEEL PYTHON; unpacks what was sent and says what it is
    rm -rf "code-$1" && "$3" -m zipfile -e "$2" "code-$1" </dev/null && echo "$3" >"code-$1/python" &&
        say_worker "$3" "code-$1"
}

use_python() { # usage: use_python DIGEST WHEEL PYTHON <REQUIREMENTS; use_worker, where a Python has all that it needs
    found=$(find_python "$3")
    echo "$found"
    python=$(echo "$found" | sed -n 's/^python //p')
    [ -z "$python" ] || use_worker "$1" "$2" "$python"
}

install() { # usage: install PYTHON NAME [OPTION…]; makes the environment NAME of plain.txt and, with OPTIONs, special.txt
    python=$1 name=$2
    shift 2
    [ -f "$name/complete" ] && return
    make_venv "$python" "$name" >&2 || fail "no Python 3.11 or 3.12 here, and none could be had" "$NO_PYTHON"
    uv=$name/bin/uv
    # What torch.compile would need, 0.7 GB; nothing here is compiled.
    echo 'triton ; python_version < "3"' >overrides.txt
    "$uv" pip install --quiet --python "$name" --no-deps -r plain.txt </dev/null &&
        "$uv" pip install --quiet --python "$name" --constraints plain.txt --overrides overrides.txt "$@" -r special.txt </dev/null ||
        fail "the installation failed"
    touch "$name/complete"
}

make_venv() { # usage: make_venv PYTHON NAME; stock images of CUDA have no Python, and not every Python can do it
    try_venv "$1" "$2" && return
    # Ubuntu 24.04 and Debian 12 have a Python that will do.
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] && (
        export DEBIAN_FRONTEND=noninteractive
        apt-get -qq update && apt-get -qq -y install --no-install-recommends ca-certificates curl python3 python3-venv
    ) </dev/null
    try_venv "$1" "$2" && return
    if ! command -v uv >/dev/null; then
        curl -LsSf https://astral.sh/uv/install.sh </dev/null | env UV_UNMANAGED_INSTALL="$(pwd)/uv" sh || return
        PATH=$PATH:$(pwd)/uv
    fi
    uv venv --quiet --clear --python '>=3.11,<3.13' "$2" </dev/null && uv pip install --quiet --python "$2" uv </dev/null
}

try_venv() {
    for python in "$1" python3.12 python3.11 python3; do
        suitable "$python" && "$python" -m venv --clear "$2" </dev/null &&
            "$2/bin/python" -m pip install --quiet uv </dev/null && return
    done
    return 1
}

# ---- models

missing_models() { # <lines of SHA256 PATH; the paths below home/models that are not there as they should be
    while read -r sha256 path; do
        [ -f "home/models/$path" ] && [ "$(sha256sum <"home/models/$path" | cut -c1-64)" = "$sha256" ] || echo "missing $path"
    done
}

pull_model() { # usage: pull_model PYTHON CODE NAME; from the public hub, checked against its pinned digests
    PYTHONPATH=$2${PYTHONPATH:+:$PYTHONPATH} MEDIA_PIPELINE_OFFLINE=0 "$1" -m media_pipeline --home home models pull "$3" </dev/null >/dev/null
}

# ---- the timer

guard() { # usage: guard LIMIT SILENCE PERIOD URL <deadman.sh
    cat >deadman.new # whole before it is run
    if [ -s deadman.pid ] && grep -q deadman "/proc/$(cat deadman.pid)/cmdline" 2>/dev/null; then
        rm deadman.new
        echo "guard running"
    elif [ -n "${CONTAINER_API_KEY:-}" ] || tr '\0' '\n' </proc/1/environ 2>/dev/null | grep -q '^CONTAINER_API_KEY='; then
        mv -f deadman.new deadman.sh
        setsid nohup sh deadman.sh "$@" </dev/null >/dev/null 2>&1 &
        echo "guard started"
    else
        echo "guard none"
    fi
}

