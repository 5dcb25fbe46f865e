#!/usr/bin/env bash
# Operates the server that docker-compose.yml describes, on the machine that has it. `make up` and its sisters call this.
#
#   server.sh up        make what is missing (.env, secrets, images), start everything, wait until it is well
#   server.sh down      stop everything; all data stays
#   server.sh status    what runs, how it is, what it takes
#   server.sh logs [SERVICE…]
#   server.sh upgrade   build this checkout, save the database, migrate, start; go back by itself when it is not well
#   server.sh build     only build the images of this checkout
#   server.sh drill     restore the newest backup beside the installation and compare
#   server.sh back DUMP put Dagster's database back as it was before an upgrade, and start what ran then
#
# Needs Docker and Compose (v2, or docker-compose 1.29) and rights to use them. MONITORING=1 writes
# MEDIA_PIPELINE_SERVER__MONITORING=true into .env: Prometheus, Alertmanager and Grafana are started as well.
set -euo pipefail
cd "$(dirname "$0")/.."

WAIT_S=${WAIT_S:-420}
KEPT_DUMPS=3 # of Dagster's database before upgrades

fail() {
    printf 'server: %s\n' "$*" >&2
    exit 1
}
say() { printf '%s\n' "$*"; }
. deploy/compose.sh

# --- what there must be ----------------------------------------------------------------------------------------------

require_docker() {
    command -v docker >/dev/null || fail "there is no Docker; on Debian: apt install docker.io docker-compose"
    docker info >/dev/null 2>&1 || fail "Docker does not answer; start it (systemctl start docker), or join its group"
    find_compose
    local address=${DOCKER_HOST:-unix:///var/run/docker.sock}
    DOCKER_SOCKET=${DOCKER_SOCKET:-${address#unix://}}
    DOCKER_GROUP=$(stat -Lc %g "$DOCKER_SOCKET")
    export DOCKER_SOCKET DOCKER_GROUP
}

# The tag of this checkout's images: its commit, or what the sender said in .version.
version() {
    local found
    if found=$(git describe --always --dirty --abbrev=12 2>/dev/null); then
        case $found in
            *-dirty) printf '%s-%s' "$found" "$(git diff HEAD | sha256sum | cut -c1-8)" ;;
            *) printf '%s' "$found" ;;
        esac
    else
        cat .version 2>/dev/null || printf 'local'
    fi
}

# The base image and where wheels come from are for those who have their own; deploy/Dockerfile.
build() { # usage: build TAG
    local given=()
    [ -z "${BASE:-}" ] || given+=(--build-arg "BASE=$BASE")
    [ -z "${PIP_FIND_LINKS:-}" ] || given+=(--build-arg "PIP_FIND_LINKS=$PIP_FIND_LINKS")
    say "building images $1 (the first time takes some minutes)"
    # Every step in one line, so that somebody who waits sees that it goes on; the whole of it is in the file.
    if ! TAG=$1 compose build ${given[@]+"${given[@]}"} 2>&1 | tee .build.log |
        { grep --line-buffered -Eo '^(Building|Step [0-9]+/[0-9]+ : [A-Z]+|#[0-9]+ \[[^]]+\]).{0,60}' || true; }; then
        tail -n 30 .build.log >&2
        fail "the images could not be built; all of it is in .build.log"
    fi
}

has_images() {
    local images=("media-pipeline:$1" "media-pipeline-postgres:$1" "media-pipeline-gateway:$1")
    ! has_monitoring || images+=("media-pipeline-prometheus:$1" "media-pipeline-alertmanager:$1")
    docker image inspect "${images[@]}" >/dev/null 2>&1
}

media() { # a command of the product, without anything of the server; usage: media TAG ARGUMENTS…
    local tag=$1
    shift
    docker run --rm --network none --user "$(id -u):$(id -g)" --entrypoint media-pipeline \
        --volume "$PWD/.env:/.env:ro" "media-pipeline:$tag" --home /tmp/home "$@"
}

settings() {
    if [ ! -e .env ]; then
        cp .env.example .env
        say "made .env: every setting, all commented out; the server's own are MEDIA_PIPELINE_SERVER__…"
    fi
    if [ -n "${MONITORING:-}" ] && ! has_monitoring; then
        remember "" MEDIA_PIPELINE_SERVER__MONITORING=true
    fi
    local others # profiles of your own, in docker-compose.override.yml
    others=$(tr ',' '\n' <<<"${COMPOSE_PROFILES:-$(setting COMPOSE_PROFILES "")}" | grep -vxF monitoring | paste -sd ,) || true
    COMPOSE_PROFILES=$others
    if has_monitoring; then COMPOSE_PROFILES=${others:+$others,}monitoring; fi
    export COMPOSE_PROFILES
}

has_monitoring() { # said as the product understands it
    local said
    said=$(setting MEDIA_PIPELINE_SERVER__MONITORING false)
    case ${said,,} in
        true | t | 1 | yes | y | on) return 0 ;;
        *) return 1 ;;
    esac
}

# What Compose is told of, here and when a person types `docker compose …` in this folder.
use() { # usage: use TAG
    export TAG=$1
    remember "$NOTE" "COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME" "COMPOSE_PROFILES=${COMPOSE_PROFILES:-}" \
        "TAG=$TAG" "DOCKER_SOCKET=$DOCKER_SOCKET" "DOCKER_GROUP=$DOCKER_GROUP"
}

check_and_make_secrets() { # usage: check_and_make_secrets TAG
    media "$1" settings check /.env >/dev/null || fail "mend .env where the lines above say so"
    mkdir -p secrets
    # In a container, because the files belong to its user, whatever user this is.
    docker run --rm --network none --user 0 --entrypoint /secrets.sh --volume "$PWD/deploy/secrets:/secrets.sh:ro" \
        --volume "$PWD/secrets:/secrets" --volume "$PWD/.env:/settings" "media-pipeline-gateway:$1"
}

# --- starting, and waiting -------------------------------------------------------------------------------------------

states() { # "service state health" of each container of the project that should be there
    docker ps --all --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
        --filter label=com.docker.compose.oneoff=False \
        --format '{{.Label "com.docker.compose.service"}}|{{.State}}|{{.Status}}' | sort
}

# Who has no health check (something of your own in docker-compose.override.yml) is well after ten seconds.
unwell() {
    states | awk -F'|' '{
        new = $3 ~ /^Up (Less than a second|[0-9] seconds?)$/
        if (!($2 == "running" && ($3 ~ /\(healthy\)/ || ($3 !~ /\(/ && !new)))) print
    }'
}

wait_until_well() {
    local deadline=$((SECONDS + WAIT_S)) left waiting="" said=""
    while left=$(unwell) && [ -n "$left" ]; do
        waiting=$(cut -d'|' -f1 <<<"$left" | paste -sd ' ')
        [ "$waiting" = "$said" ] || say "waiting for $waiting"
        said=$waiting
        if ((SECONDS > deadline)); then
            printf 'not well after %s s:\n%s\n' "$WAIT_S" "$left" >&2
            local service
            for service in $(cut -d'|' -f1 <<<"$left"); do
                compose logs --tail=15 "$service" >&2 || true
            done
            return 1
        fi
        sleep 2
    done
}

start() { # usage: start TAG
    use "$1"
    compose up --detach --remove-orphans --no-build 2>.start.log ||
        { tail -n 20 .start.log >&2; return 1; }
    wait_until_well
}

addresses() {
    local domain port
    domain=$(setting MEDIA_PIPELINE_SERVER__DOMAIN localhost)
    port=$(setting MEDIA_PIPELINE_SERVER__HTTPS_PORT 443)
    [ "$port" = 443 ] && port="" || port=":$port"
    say ""
    say "  UI        https://$domain$port/"
    say "  upload    https://$domain$port/upload/"
    ! has_monitoring || say "  Grafana   https://$domain$port/grafana/"
    say ""
}

# --- the commands ----------------------------------------------------------------------------------------------------

up() {
    local tag
    tag=$(cat "$STATE" 2>/dev/null || version)
    settings
    has_images "$tag" || build "$tag"
    check_and_make_secrets "$tag"
    start "$tag" || fail "not everything is well; \`make logs\` says more, docs/operations.md what to do"
    printf '%s\n' "$tag" >"$STATE"
    addresses
}

upgrade() {
    local old new saved
    old=$(cat "$STATE" 2>/dev/null) || fail "nothing was started here yet: make up"
    new=$(version)
    settings
    has_images "$new" || build "$new"
    check_and_make_secrets "$new"
    saved=before-$new.dump
    export TAG=$old
    save_database "$saved" || fail "the database could not be saved; is postgres running, and has its disk room? (make up)"
    say "Dagster's database is saved as $saved in the volume of postgres"
    say "from $old to $new"
    if TAG=$new compose run --rm --no-deps code dagster instance migrate >.start.log 2>&1 && start "$new"; then
        printf '%s\n' "$new" >"$STATE"
        say "upgraded to $new"
        addresses
        return
    fi
    tail -n 10 .start.log >&2
    say "the new version is not well: back to $old"
    go_back "$old" "$saved"
    fail "still at $old; what went wrong stands above"
}

back() { # usage: back FILE
    local old
    old=$(cat "$STATE" 2>/dev/null) || fail "nothing was started here yet: make up"
    [ -n "${1:-}" ] || fail "which one? docker compose exec postgres ls -t /var/lib/postgresql/data lists before-….dump"
    settings
    go_back "$old" "$1"
    say "back at $old, with the database of $1"
}

go_back() { # usage: go_back TAG FILE
    restore_database "$1" "$2" ||
        fail "the database could not be put back; it is saved as $2 in the volume of postgres, and the services that" \
            "use it are stopped. Mend what stands above (most often: no room, docker system df), then:" \
            "deploy/server.sh back $2"
    start "$1" || fail "the old version does not get well either; docs/operations.md, \"Upgrade\""
}

# A whole dump or none under this name; of older ones the last few stay.
save_database() { # usage: save_database FILE
    compose exec -T postgres sh -ec "
        cd /var/lib/postgresql/data
        if pg_dump --username=dagster --format=custom dagster >$1.part; then mv $1.part $1; else rm $1.part; exit 1; fi
        ls -t before-*.dump | tail -n +$((KEPT_DUMPS + 1)) | xargs -r rm -f --"
}

restore_database() { # usage: restore_database TAG FILE; everyone who uses it is stopped
    use "$1"
    compose stop webserver viewer daemon code >/dev/null 2>&1 || true
    compose up --detach --no-build postgres >/dev/null 2>.start.log || { tail -n 20 .start.log >&2; return 1; }
    local _
    for _ in $(seq 60); do
        compose exec -T postgres pg_isready --quiet --host=127.0.0.1 --username=dagster && break
        sleep 1
    done
    compose exec -T postgres pg_restore --username=dagster --dbname=dagster --clean --if-exists --single-transaction \
        "/var/lib/postgresql/data/$2"
}

down() {
    TAG=$(cat "$STATE" 2>/dev/null || version)
    export TAG COMPOSE_PROFILES=monitoring
    local runs
    # Containers of runs are not Compose's: they finish what they have in hand and stop, and go on after the next start.
    runs=$(docker ps --quiet --filter label=dagster/run_id --filter "volume=$COMPOSE_PROJECT_NAME-home")
    # shellcheck disable=SC2086 # several ids
    [ -z "$runs" ] || docker stop --time 30 $runs >/dev/null
    compose down --remove-orphans 2>/dev/null
    say "stopped; all data is in the volumes $COMPOSE_PROJECT_NAME-…"
}

status() {
    TAG=$(cat "$STATE" 2>/dev/null || version)
    say "version $TAG"
    states | column -t -s '|'
    say ""
    # shellcheck disable=SC2046 # several ids
    docker stats --no-stream --format 'table {{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}' \
        $(docker ps --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME") \
        $(docker ps --quiet --filter label=dagster/run_id --filter "volume=$COMPOSE_PROJECT_NAME-home")
    say ""
    docker system df | head -n 4
    [ -z "$(unwell)" ]
}

logs() {
    TAG=$(cat "$STATE" 2>/dev/null || version)
    export TAG COMPOSE_PROFILES=monitoring
    compose logs --tail=100 "$@"
}

drill() {
    TAG=$(cat "$STATE" 2>/dev/null || version)
    export TAG
    deploy/restore-drill.sh "$@"
}

command=${1:-}
shift || true
case $command in
    drill | up | down | status | logs | upgrade | back) require_docker && "$command" "$@" ;;
    build) require_docker && build "$(version)" ;;
    *) sed -n '2,14p' "$0" && exit 2 ;;
esac
