"""From an answer that is not a success to the service's own error."""

from collections.abc import Mapping

from service.errors import RequestError, ServiceError, UnreachableError, error_classes

MEMBERS = ("field", "expected", "actual", "reason", "retry_after_s")


def from_problem(status: int, body: object) -> ServiceError:
    """Rebuild the error that a problem object describes.

    Args:
        status: HTTP status of the answer.
        body: Its decoded body; anything but a problem object becomes ``UnreachableError``.
    """
    if not isinstance(body, Mapping) or not isinstance(body.get("code"), str):
        return UnreachableError(f"what answered with status {status} is not a nextchunk service")
    by_code = {kind.code: kind for kind in error_classes()}
    fallback = RequestError if 400 <= status < 500 else ServiceError
    kind = by_code.get(body["code"], fallback)
    error = kind.__new__(kind)
    ServiceError.__init__(
        error, str(body.get("detail", "")), **{name: body.get(name) for name in MEMBERS}
    )
    error.request_id = str(body.get("request_id", "")) or None
    return error
