"""Bodies of requests, in every form, and the files that the load generators read them from."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from models.scoring import Floats

BOUNDARY = "contest"


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a server wants a window of context vectors."""

    path: str
    """Where it is sent."""
    content_type: str
    kind: str
    """``numbers`` or ``base64`` in JSON, ``octets`` bare, or ``file`` of a form."""
    nested: bool = False
    """Whether the body holds a batch of one."""
    members: tuple[tuple[str, object], ...] = ()
    """What else a JSON body says."""

    def body(self, window_LD: Floats) -> bytes:
        """Write a window."""
        if self.kind == "octets":
            return window_LD.astype("<f4").tobytes()
        if self.kind == "file":
            return _form(window_LD.astype("<f4").tobytes())
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in window_LD]
        context = window_LD if self.kind == "numbers" else rows
        body = {**dict(self.members), "context": [context] if self.nested else context}
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _form(octets: bytes) -> bytes:
    head = (
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="context"; filename="f32"\r\n'
        "content-type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + octets + f"\r\n--{BOUNDARY}--\r\n".encode()


def write_bodies(bodies: Sequence[bytes], path: Path) -> None:
    """Write bodies for wrk: the length of each in a line before it."""
    with path.open("wb") as file:
        for body in bodies:
            file.write(f"{len(body)}\n".encode() + body)


def write_for_k6(bodies: Sequence[bytes], path: Path) -> int:
    """Write bodies for k6, without a break, shorter ones filled up with blanks.

    JSON may end in blanks; bodies of octets are of one length. (k6 would take 10 ms to hand on a
    text of 40 kB, and octets as they are.)

    Returns:
        Bytes of each.
    """
    size = max(map(len, bodies))
    path.write_bytes(b"".join(body.ljust(size) for body in bodies))
    return size
