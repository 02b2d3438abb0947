"""Exit 0 if the service in this container can answer ranks; the image's HEALTHCHECK."""

import os
import urllib.error
import urllib.request

TIMEOUT_S = 2.0


def main() -> int:
    """Ask ``/readyz``, past any proxy."""
    url = f"http://127.0.0.1:{os.environ.get('NEXTCHUNK_PORT', '8000')}/readyz"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S):
            return 0
    except (urllib.error.URLError, OSError):
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
