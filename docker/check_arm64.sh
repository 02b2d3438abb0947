#!/usr/bin/env bash
# Build the image for arm64 and run it beside the one for this machine, on the same chunks: what they
# answer has to be alike. Where the machine is not arm64, Debian's qemu stands in for the processor,
# ten times slower and more. For root on Debian 12, by hand: it takes half an hour.
#
#   docker/check_arm64.sh DATA [PROCESSOR...]
#
# DATA       folder that `python -m service index` filled with vectors that fit the shipped checkpoint
# PROCESSOR  as qemu names them (default: neoverse-n1, which has neither SVE nor bfloat16, and
#            neoverse-v1, which has both)
#
# Environment: IMAGE (name), TORCH_INDEX_URL, TORCH_SHA256 (of the wheel for arm64), as in the Dockerfile.
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: docker/check_arm64.sh DATA [PROCESSOR...]" >&2
    exit 2
fi
# shellcheck source=docker/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
data=$(realpath -e "$1")
shift
processors=(neoverse-n1 neoverse-v1)
[ $# -eq 0 ] || processors=("$@")

image=${IMAGE:-localhost/nextchunk:dev}
here_name=nextchunk-here-$$
there_name=nextchunk-arm64-$$
# The first bytes of a program for arm64, and which bits of them count.
elf='\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
rules=/proc/sys/fs/binfmt_misc
registered=

fail() {
    echo "check: FAILED: $*" >&2
    podman logs --tail 20 "$there_name" 2>/dev/null >&2 || true
    exit 1
}

cleanup() {
    local status=$?
    set +e
    podman rm --force --time 1 --ignore --volumes "$here_name" "$there_name" >/dev/null 2>&1
    [ -z "$registered" ] || echo -1 >"$rules/$registered"
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# qemu's emulator for arm64, without dependencies. Debian 12's own version, 7.2, crashes in torch's
# threads; Debian's backports have a newer one.
fetch_qemu() { # prints the program
    local options uri
    # shellcheck disable=SC2016  # apt-get expands it
    uri=$(apt-get indextargets --format '$(REPO_URI)' "Codename: bookworm" "Created-By: Packages" |
        head -1)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri bookworm-backports main" \
        >"$work/backports.list"
    mkdir -p "$work/lists" "$work/qemu"
    options=(-qq -o "Dir::Etc::SourceList=$work/backports.list" -o Dir::Etc::SourceParts=-
        -o "Dir::State::Lists=$work/lists")
    (cd "$work/qemu" && apt-get "${options[@]}" update && apt-get "${options[@]}" download qemu-user) \
        >"$work/apt.log" 2>&1 || fail "apt: $(tail -3 "$work/apt.log")"
    dpkg -x "$work"/qemu/*.deb "$work/qemu"
    echo "$work/qemu/usr/bin/qemu-aarch64"
}

# Have the kernel hand programs for arm64 to qemu, in containers, too (F), under the name that
# mmdebstrap looks for. It is undone at the end.
register_qemu() {
    local program
    [ "$(uname -m)" != aarch64 ] || return 0
    # mmdebstrap wants it to see that such programs run.
    command -v arch-test >/dev/null || apt-get install -y -qq --no-install-recommends arch-test \
        >"$work/apt.log" 2>&1 || fail "apt: $(tail -3 "$work/apt.log")"
    [ -e "$rules/register" ] || mount -t binfmt_misc binfmt_misc "$rules"
    if [ -e "$rules/qemu-aarch64" ]; then
        echo "as registered: $(sed -n 's/^interpreter //p' "$rules/qemu-aarch64")"
        return
    fi
    program=$(fetch_qemu)
    "$program" --version | head -1
    printf '%s' ":qemu-aarch64:M::$elf:$mask:$program:OCF" >"$rules/register"
    registered=qemu-aarch64
}

start() { # start NAME IMAGE PORT [PODMAN_OPTION...]
    local name=$1 what=$2 port=$3
    shift 3
    cp -a "$data" "$work/$name"
    chown -R 10001:10001 "$work/$name"
    podman run -d --name "$name" --network host --read-only --tmpfs /tmp --cap-drop ALL \
        --security-opt no-new-privileges --memory 2g --pids-limit 256 --no-healthcheck \
        -v "$work/$name:/data" -e "NEXTCHUNK_PORT=$port" -e NEXTCHUNK_DEADLINE_MS=60000 \
        "$@" "$what" >/dev/null
}

compare() { # compare PROCESSOR
    say "arm64 as a $1: read-only, no capabilities, 2g"
    local start port
    port=$(free_port)
    start=$(now_ms)
    start "$there_name" "$image-arm64" "$port" --arch arm64 --pull never -e "QEMU_CPU=$1"
    python3 "$here/alike.py" --wait "http://127.0.0.1:$port" || fail "it does not come up"
    echo "ready $(($(now_ms) - start)) ms after podman run"
    podman exec "$there_name" python -c 'import platform; print(platform.machine())'
    python3 "$here/alike.py" "$here_url" "http://127.0.0.1:$port" "$data" || fail "answers differ"
    podman exec "$there_name" python /opt/healthcheck.py || fail "the health check says no"
    start=$(now_ms)
    podman kill --signal TERM "$there_name" >/dev/null
    [ "$(timeout 60 podman wait "$there_name")" = 0 ] || fail "not 0 after SIGTERM"
    echo "stopped $(($(now_ms) - start)) ms after SIGTERM, exit code 0"
    podman rm "$there_name" >/dev/null
    rm -rf "${work:?}/$there_name"
}

install_tools
python3 -m venv "$work/venv"
register_qemu
make_base
say "building for this machine"
TORCH_SHA256='' build_image "" "$image"
arch=arm64
base=localhost/python:3.11-slim-arm64
make_base
say "building for arm64"
build_image "" "$image-arm64"
here_port=$(free_port)
here_url=http://127.0.0.1:$here_port
start "$here_name" "$image" "$here_port"
python3 "$here/ask.py" --wait "$here_url" || fail "the one for this machine does not come up"
for processor in "${processors[@]}"; do
    compare "$processor"
done
say "the image for arm64 is good"
