#!/usr/bin/env bash
# Build the image, run it as it should be run in production, and question it. Needs no Docker
# daemon: buildah builds, podman runs. For root on Debian 12; docs/deploy.md says more.
#
#   docker/check.sh DATA [CKPT]
#
# DATA  folder that `python -m service index` filled with vectors that fit the shipped checkpoint,
#       which is in the image (it is copied, never touched)
# CKPT  checkpoint to mount in a second run (default: the shipped one)
#
# Environment: IMAGE and BASE_IMAGE (names), TORCH_INDEX_URL, TORCH_SHA256 and EXTRAS (as in the
# Dockerfile), PORT (default: a free one), SKIP_COMPOSE=1 (validate the Compose files, but do not
# run one, nor Prometheus).
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: docker/check.sh DATA [CKPT]" >&2
    exit 2
fi
# shellcheck source=docker/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
data=$(realpath -e "$1")
checkpoint=$(realpath -e "${2:-$shipped}")

image=${IMAGE:-localhost/nextchunk:dev}
user=10001:10001
memory=2g
# Beside the base: torch 571, all else that serving needs 184, the checkpoint 6 (docs/deploy.md).
most_mb=780
stop_within_s=8
container=nextchunk-check-$$
engine_pid=
compose=()

fail() {
    echo "check: FAILED: $*" >&2
    if podman container exists "$container" 2>/dev/null; then
        podman logs --tail 20 "$container" >&2 || true
    fi
    exit 1
}

cleanup() {
    local status=$?
    set +e
    if [ ${#compose[@]} -gt 0 ]; then
        "${compose[@]}" down --volumes --timeout 1 >/dev/null 2>&1
    fi
    if [ -n "$engine_pid" ]; then
        kill "$engine_pid" 2>/dev/null
        wait "$engine_pid" 2>/dev/null
    fi
    if command -v podman >/dev/null; then
        podman rm --force --time 1 --ignore --volumes "$container" >/dev/null 2>&1
        podman volume rm --force "$container" >/dev/null 2>&1
    fi
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

label() { podman image inspect -f "{{index .Labels \"org.opencontainers.image.$1\"}}" "$image"; }

check_contents() {
    say "what is in the image"
    local id name site size
    [ "$(podman image inspect -f '{{.User}}' "$image")" = "$user" ] || fail "not user $user"
    podman image inspect "$image" | grep -q '/opt/healthcheck.py' || fail "no HEALTHCHECK"
    for name in title description licenses version revision created source; do
        [ -n "$(label $name)" ] || fail "no label $name"
    done
    [ "$(label licenses)" = Apache-2.0 ] || fail "the licence's label is $(label licenses)"
    if grep -nEi 'amd64|arm64|x86_64|aarch64|manylinux' "$root/Dockerfile"; then
        fail "the Dockerfile names an architecture"
    fi
    id=$(podman create --no-healthcheck --network none "$image")
    podman export "$id" | tar -t >"$work/files"
    podman rm --volumes "$id" >/dev/null
    site='opt/venv/lib/python3[.0-9]*/site-packages'
    if grep -E "^opt/venv/.*/(pip|training|tests)/\$|/bin/(gcc|cc|g\+\+|clang|ld|make)\$" \
        "$work/files" || grep -E '\.cache/|^etc/pip.conf|^root/\.(config|local)|^tmp/.' "$work/files" ||
        grep -E "^$site/(transformers|sentence_transformers|scipy|sympy|triton|nvidia)/\$" \
            "$work/files"; then
        fail "these do not belong into the image"
    fi
    # Weights: the checkpoint's, and none that a library brought.
    grep -E '\.(safetensors|onnx|pt|bin|gguf)$' "$work/files" | grep -v '^opt/checkpoint/' &&
        fail "these weights do not belong into the image"
    size=$(($(podman image inspect -f '{{.Size}}' "$image") / 1000000))
    name=$(($(podman image inspect -f '{{.Size}}' "$base") / 1000000))
    echo "size: $size MB, of which $name MB are the base"
    [ $((size - name)) -le $most_mb ] || fail "expected at most $most_mb MB beside the base"
    podman run --rm --no-healthcheck --network none --entrypoint sh "$image" -c \
        'cd /opt/venv/lib/python3*/site-packages && du -sk --apparent-size -- */ /opt/checkpoint |
         sort -rn | head -12' | awk '{ printf "  %4d MB %s\n", $1 * 1.024 / 1000, $2 }'
}

check_air_gap() {
    say "starting without any network, on an empty volume"
    local start
    start=$(now_ms)
    podman run -d --name "$container" --network none --read-only --tmpfs /tmp --cap-drop ALL \
        --memory "$memory" --no-healthcheck "$image" >/dev/null
    until podman exec "$container" python /opt/healthcheck.py; do
        [ $(($(now_ms) - start)) -lt 60000 ] || fail "it does not come up without a network"
        sleep 0.2
    done
    echo "healthy $(($(now_ms) - start)) ms after podman run"
    podman rm --force --time 1 --volumes "$container" >/dev/null
}

copy_folders() {
    cp -a "$data" "$work/data"
    cp -a "$checkpoint" "$work/checkpoint"
    chown -R "$user" "$work/data"
    chmod -R a+rX "$work/checkpoint"
    port=${PORT:-$(free_port)}
    url=http://127.0.0.1:$port
}

start_service() { # start_service WHAT VOLUME [PODMAN_OPTION...]
    say "running with $1: read-only, no capabilities, $memory, user $user"
    local start volume=$2
    shift 2
    start=$(now_ms)
    podman run -d --name "$container" --network host --read-only --tmpfs /tmp --cap-drop ALL \
        --security-opt no-new-privileges --memory "$memory" --pids-limit 256 --no-healthcheck \
        -v "$volume:/data" -e "NEXTCHUNK_PORT=$port" "$@" "$image" >/dev/null
    python3 "$here/ask.py" --wait "$url" || fail "it does not come up"
    echo "ready $(($(now_ms) - start)) ms after podman run"
}

check_confinement() {
    local status
    status=$(podman exec "$container" cat /proc/1/status)
    grep -qE '^Uid:\s10001\s10001\s' <<<"$status" || fail "runs as another user"
    grep -qE '^CapEff:\s0+$' <<<"$status" || fail "has capabilities"
    if podman exec "$container" sh -c 'touch /opt/x' 2>/dev/null; then
        fail "the root file system is writable"
    fi
    podman exec "$container" python /opt/healthcheck.py || fail "the health check says no"
    if podman exec -e NEXTCHUNK_PORT=1 "$container" python /opt/healthcheck.py; then
        fail "the health check says yes to a closed port"
    fi
    # An orphan becomes a child of process 1, which has to reap it.
    podman exec "$container" sh -c 'sh -c "sleep 0.3 & echo orphaned" && sleep 1' >/dev/null
    if podman exec "$container" sh -c 'cat /proc/[0-9]*/stat 2>/dev/null' | grep -E '^[0-9]+ \(sleep\)'; then
        fail "process 1 does not reap"
    fi
    echo "uid 10001, no capabilities, read-only, healthy, process 1 reaps"
}

check_answers() { # check_answers CKPT: of the checkpoint that should answer
    say "asking over the socket"
    python3 "$here/ask.py" "$url" "$work/data" "$1" | tee "$work/answers" || fail "wrong answers"
    echo "memory: $(podman stats --no-stream --format '{{.MemUsage}}' "$container")"
}

stop_service() {
    say "stopping with SIGTERM, while a request has begun"
    local start code asker
    python3 "$here/survive.py" drain "$url" >"$work/drain" &
    asker=$!
    for _ in $(seq 100); do
        grep -q begun "$work/drain" && break
        sleep 0.1
    done
    start=$(now_ms)
    podman kill --signal TERM "$container" >/dev/null
    code=$(timeout "$stop_within_s" podman wait "$container") ||
        fail "still running $stop_within_s s after SIGTERM"
    [ "$code" = 0 ] || fail "exit code $code after SIGTERM"
    echo "stopped after $(($(now_ms) - start)) ms, exit code 0"
    wait "$asker" || fail "the request was not answered"
    tail -1 "$work/drain"
    podman rm --volumes "$container" >/dev/null
}

check_kill() {
    start_service "an empty volume" "$container"
    python3 "$here/survive.py" write "$url" || fail "it does not write"
    podman kill --signal KILL "$container" >/dev/null
    [ "$(podman wait "$container")" = 137 ] || fail "SIGKILL did not kill"
    podman rm "$container" >/dev/null
    start_service "the same volume, after SIGKILL" "$container"
    python3 "$here/survive.py" find "$url" || fail "writes are lost"
    stop_service
    podman volume rm "$container" >/dev/null
}

compose_up() { # compose_up WHAT
    say "by Compose: $1"
    local start
    start=$(now_ms)
    compose=("$work/venv/bin/docker-compose" -p "$container" -f "$here/compose.yaml")
    "${compose[@]}" up -d --no-build >"$work/compose.log" 2>&1 ||
        fail "compose: $(tail -5 "$work/compose.log")"
    python3 "$here/ask.py" --wait "$url" || fail "it does not come up"
    echo "ready $(($(now_ms) - start)) ms after docker compose up"
    "${compose[@]}" logs demo 2>/dev/null | sed 's/^[^|]*| *//' | tail -1
}

compose_down() {
    "${compose[@]}" down --timeout "$stop_within_s" "$@" >"$work/compose.log" 2>&1 ||
        fail "compose: $(tail -5 "$work/compose.log")"
    compose=()
}

run_compose() {
    start_engine
    export NEXTCHUNK_IMAGE=${image%:*}:demo NEXTCHUNK_HOST_PORT=$port
    compose_up "an empty volume, which gets the demo's chunks"
    python3 "$here/survive.py" write "$url" || fail "it does not write"
    compose_down
    compose_up "the same volume"
    python3 "$here/survive.py" find "$url" || fail "writes are lost"
    python3 "$here/ask.py" --demo "$url" || fail "wrong answers"
    compose_down --volumes
    export NEXTCHUNK_DATA_DIR=$work/data NEXTCHUNK_CHECKPOINT_DIR=$work/checkpoint
    compose_up "a folder and a checkpoint of one's own"
    python3 "$here/ask.py" "$url" "$work/data" "$work/checkpoint" ||
        fail "wrong answers: $("${compose[@]}" logs --tail 20 2>&1)"
    compose_down
}

check_observability() {
    say "Prometheus: configuration, alerts, and every query of the dashboard"
    local asker binaries
    binaries=$(unpack prometheus)/usr/bin
    (while python3 "$here/ask.py" "$url" "$work/data" "$work/checkpoint"; do sleep 1; done) \
        >"$work/asking" 2>&1 &
    asker=$!
    python3 "$here/observe.py" "$binaries" "$url" || fail "the dashboard: $(tail -3 "$work/asking")"
    kill "$asker"
    wait "$asker" 2>/dev/null || true
}

install_tools
check_files
make_base
say "building"
build_image "" "$image"
build_image full "${image%:*}:full"
build_image demo "${image%:*}:demo"
check_contents
check_air_gap
copy_folders
start_service "the image's own checkpoint" "$work/data"
check_confinement
check_answers "$shipped"
grep -q 'auto by p8$' "$work/answers" || fail "auto does not answer by P8"
stop_service
start_service "$checkpoint" "$work/data" \
    -v "$work/checkpoint:/checkpoint:ro" -e NEXTCHUNK_CHECKPOINT=/checkpoint
check_answers "$work/checkpoint"
[ -n "${SKIP_COMPOSE:-}" ] || check_observability
stop_service
check_kill
[ -n "${SKIP_COMPOSE:-}" ] || run_compose
say "the image is good"
