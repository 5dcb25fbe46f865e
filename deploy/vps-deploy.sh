#!/usr/bin/env bash
# Installs or upgrades the server on a machine that is reached by ssh: `make vps-deploy HOST=root@media.example.org`.
#
# Sends the committed state of this checkout to FOLDER there (default media-pipeline, in the home of that user), and
# runs `make up` or `make upgrade` in it. Its .env, secrets and data stay as they are. May be repeated at any time.
#   SSH="ssh -p 2222 -i key"   another way to get there
#   ENV=my.env                 settings for the first installation
set -euo pipefail
cd "$(dirname "$0")/.."

host=${1:-}
folder=${FOLDER:-media-pipeline}
read -r -a ssh <<<"${SSH:-ssh}"
MIN_DISK_GB=15
MIN_MEMORY_MB=7500

fail() {
    printf 'vps-deploy: %s\n' "$1" >&2
    exit 1
}
there() { "${ssh[@]}" "$host" "$@"; }

[ -n "$host" ] || fail "whereto? make vps-deploy HOST=root@media.example.org"
git rev-parse --verify --quiet HEAD >/dev/null || fail "this is no git checkout: what should be sent?"
[ -z "$(git status --porcelain --untracked-files=no)" ] ||
    echo "note: changes that are not committed are not sent" >&2

echo "looking at $host"
there true || fail "ssh does not get there; try: ${ssh[*]} $host"
there "folder='$folder' min_disk=$MIN_DISK_GB min_memory=$MIN_MEMORY_MB bash -s" <<'CHECKS' || fail "$host is not ready; what is missing stands above"
set -u
bad=0
lack() { printf '  missing: %s\n' "$1" >&2; bad=1; }
note() { printf '  note: %s\n' "$1" >&2; }
for program in docker make tar; do
    command -v "$program" >/dev/null || lack "$program (apt install docker.io docker-compose make)"
done
if command -v docker >/dev/null; then
    docker info >/dev/null 2>&1 || lack "a Docker that answers $(id -un) (systemctl start docker; usermod -aG docker $(id -un))"
    docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || lack "Compose (apt install docker-compose)"
    free_gb=$(df --output=avail -BG "$(docker info --format '{{.DockerRootDir}}' 2>/dev/null || echo /)" 2>/dev/null | tail -1 | tr -dc 0-9)
    [ "${free_gb:-0}" -ge "$min_disk" ] || lack "$min_disk GB of disk for Docker; ${free_gb:-0} are free"
fi
memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
[ "$memory" -ge "$min_memory" ] || note "$memory MB of memory; 8 GB are what it is made for (MEDIA_PIPELINE_LOW_MEMORY=1)"
if [ ! -e "$folder/.deployed" ] && command -v ss >/dev/null; then
    for port in 80 443; do
        ss -Hltn "sport = :$port" | grep -q . && note "port $port is taken; another one: MEDIA_PIPELINE_SERVER__HTTP(S)_PORT"
    done
fi
exit $bad
CHECKS

version=$(git describe --always --abbrev=12 HEAD)
echo "sending $version"
there "mkdir -p '$folder'"
git ls-tree -r --name-only -z HEAD | tr '\0' '\n' | there "cd '$folder' && cat >.sent.new"
git archive --format=tar HEAD | there "tar -x -C '$folder'"
# What was sent the last time and is not among these is gone from the checkout, and goes there, too.
there "folder='$folder' version='$version' bash -s" <<'TIDY'
set -eu
cd "$folder"
touch .sent
comm -23 <(sort .sent) <(sort .sent.new) | while IFS= read -r gone; do
    rm -f -- "$gone"
    case $gone in */*) rmdir -p --ignore-fail-on-non-empty -- "${gone%/*}" ;; esac
done
mv .sent.new .sent
printf '%s\n' "$version" >.version
TIDY
if [ -n "${ENV:-}" ]; then
    there "cd '$folder' && if [ -e .env ]; then echo '  note: there is an .env already: it stays' >&2; else umask 077; cat >.env; fi" <"$ENV"
fi
there "cd '$folder' && if [ -s .deployed ]; then make --no-print-directory upgrade; else make --no-print-directory up; fi" </dev/null
