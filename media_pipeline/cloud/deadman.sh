# Gives this machine back: LIMIT seconds after its start, or after SILENCE seconds without a worker.
# usage: sh deadman.sh LIMIT SILENCE PERIOD URL        (in the folder where workers leave their process ids)
# The key is the container's own. It can stop and destroy this machine, and nothing else.
limit=$1 silence=$2 period=$3 url=$4
echo $$ >deadman.pid
[ -s born ] || date +%s >born
touch alive

of_container() { # what its first process was started with; sessions by ssh do not see it
    tr '\0' '\n' </proc/1/environ 2>/dev/null | sed -n "s/^$1=//p"
}
key=${CONTAINER_API_KEY:-$(of_container CONTAINER_API_KEY)}
id=${CONTAINER_ID:-$(of_container CONTAINER_ID)}

has() { command -v "$1" >/dev/null 2>&1; }
has curl || has wget || has python3 || { apt-get -qq update && apt-get -qq -y install curl; } >/dev/null 2>&1

destroy() {
    if has curl; then # the key by a pipe: every process can read the arguments of others
        printf 'header = "Authorization: Bearer %s"\n' "$key" |
            curl -sS -m 30 -o /dev/null -X DELETE -H 'Content-Type: application/json' -d '{}' -K - "$url/api/v0/instances/$id/"
    elif has python3; then
        printf '%s' "$key" | python3 -c 'import sys, urllib.request as u
u.urlopen(u.Request(sys.argv[1], b"{}", {"Authorization": "Bearer " + sys.stdin.read(), "Content-Type": "application/json"}, method="DELETE"), timeout=30)' "$url/api/v0/instances/$id/"
    else
        wget -q -T 30 -O /dev/null --method=DELETE --header="Authorization: Bearer $key" "$url/api/v0/instances/$id/"
    fi
} 2>/dev/null

while [ -s born ]; do
    for file in worker.*.pid; do
        pid=${file#worker.} pid=${pid%.pid}
        if grep -q media_pipeline "/proc/$pid/cmdline" 2>/dev/null; then touch alive; else rm -f "$file"; fi
    done
    now=$(date +%s)
    seen=$(stat -c %Y alive incoming/* 2>/dev/null | sort -n | tail -n 1)
    if [ $((now - $(cat born))) -ge "$limit" ] || [ $((now - ${seen:-$now})) -ge "$silence" ]; then destroy; fi
    sleep "$period"
done
