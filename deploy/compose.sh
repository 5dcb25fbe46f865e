# What server.sh, restore.sh and restore-drill.sh have in common: Compose, the project's name, and .env, from which
# `docker compose …` in this folder takes what it has to know. Sourced by them, at the top of the checkout.
# shellcheck shell=bash

NOTE='# Written by `make up`, so that `docker compose …` here means this server:'
STATE=.deployed # the tag of the images that run

# A value of .env as Compose reads it, without quotes and comments, or what else was said.
setting() { # usage: setting NAME DEFAULT
    local value
    value=$(grep -E "^[[:space:]]*(export[[:space:]]+)?$1[[:space:]]*=" .env 2>/dev/null | tail -n 1) || true
    value=${value#*=}
    value=${value#"${value%%[![:space:]]*}"}
    case $value in
        \"*) value=${value#?} value=${value%%\"*} ;;
        \'*) value=${value#?} value=${value%%\'*} ;;
        \#*) value= ;;
        *)
            value=${value%%[[:space:]]#*}
            value=${value%"${value##*[![:space:]]}"}
            ;;
    esac
    printf '%s' "${value:-$2}"
}

# Writes values into .env in the place of those it has; empty ones are taken out. The file stays the same one, with its
# rights: a container has it mounted.
remember() { # usage: remember NOTE NAME=VALUE…; a note stands above them, where it is not empty
    local note=$1 entry names="" text
    shift
    for entry; do names+="|${entry%%=*}"; done
    text=$(grep -Ev "^[[:space:]]*(export[[:space:]]+)?(${names#|})[[:space:]]*=${note:+|^$note\$}" .env) ||
        [ $? = 1 ] || fail ".env cannot be read; is it yours?"
    for entry in ${note:+"$note"} "$@"; do
        case $entry in
            "$note" | *=?*) text+=${text:+$'\n'}$entry ;;
        esac
    done
    [ "$text" != "$(cat .env)" ] || return 0
    # Whole beside it first: a full disk must not cost the settings.
    (umask 077 && printf '%s\n' "$text" >.env.new) || fail ".env cannot be written anew: make room on this disk"
    cat .env.new >.env || fail ".env cannot be written; the whole of it is in .env.new: cat .env.new >.env"
    rm .env.new
}

find_compose() {
    if docker compose version >/dev/null 2>&1; then
        COMPOSE=(docker compose)
    elif command -v docker-compose >/dev/null; then
        COMPOSE=(docker-compose)
    else
        fail "there is no Compose; on Debian: apt install docker-compose"
    fi
}

compose() { "${COMPOSE[@]}" "$@"; }

COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-$(setting COMPOSE_PROJECT_NAME media-pipeline)}
export COMPOSE_PROJECT_NAME
