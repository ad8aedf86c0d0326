#!/bin/sh
# Has a running service ingest: status, a dry run, status, stop. The exit code is curl's for the first call that fails,
# and 1 for an answer that is not the expected one.
#
#   BASE     where it answers; http://127.0.0.1:8083 when not set
#   API_KEY  a key of an operator or admin
#   PROVIDER what is read; synthetic when not set
set -eu

base="${BASE:-http://127.0.0.1:8083}/runtime/ingest"
provider="${PROVIDER:-synthetic}"

# The key goes in through a pipe: everybody on the machine can see the arguments of a command.
call() {
    method="$1"
    path="$2"
    shift 2
    printf 'header = "X-API-Key: %s"\n' "${API_KEY:-}" |
        curl --config - --silent --show-error --fail-with-body --noproxy '*' --max-time 30 \
            --request "$method" --header 'Content-Type: application/json' "$@" "$base$path"
}

# expect TEXT CALL...: make the call, show its answer, and go on only if TEXT is in it.
expect() {
    text="$1"
    shift
    answer=$(call "$@") || {
        code=$?
        echo "$answer" >&2
        exit "$code"
    }
    echo "$answer"
    case "$answer" in
    *"$text"*) ;;
    *)
        echo "expected $text" >&2
        exit 1
        ;;
    esac
}

expect '"providers":' GET /status
expect '"status":"started"' POST /start --data "{\"provider\": \"$provider\", \"dry_run\": true}"
expect '"running":true' GET /status
expect '"status":"stopped"' POST /stop --data "{\"provider\": \"$provider\"}"
echo ok
