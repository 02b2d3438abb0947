#!/usr/bin/env bash
# docker/check_scale.py with Debian's nginx, unpacked and not installed, if there is none.
#
#   docker/check_scale.sh DATA | --index-url URL | --milvus BINARY
set -euo pipefail
# shellcheck source=docker/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
fail() {
    echo "check_scale: FAILED: $*" >&2
    exit 1
}
trap 'rm -rf "$work"' EXIT
if ! command -v nginx >/dev/null && [ -z "${NGINX:-}" ]; then
    NGINX=$(unpack nginx)/usr/sbin/nginx
    export NGINX
fi
python=$root/.venv/bin/python
PYTHONPATH=$root "$python" "$here/check_scale.py" "$@"
