"""Everything that can go wrong between a client and the service.

Each class owns its HTTP status and a stable ``code``; the client raises the same classes.

    ServiceError                      500 internal_error
    ├── RequestError (ValueError)     400 bad_request
    │   ├── MalformedJsonError        422 malformed_json
    │   ├── FieldError                    (never raised itself)
    │   │   ├── InvalidRequestError   422 invalid_request
    │   │   ├── ContextLengthError    422 context_length
    │   │   ├── InvalidVectorError    422 invalid_vector
    │   │   ├── WrongDimensionError   422 wrong_dimension
    │   │   ├── DuplicateIdError      422 duplicate_id
    │   │   ├── UnknownIdError        422 unknown_id
    │   │   └── BatchTooLargeError    422 batch_too_large
    │   ├── BodyTooLargeError         413 body_too_large
    │   ├── NotFoundError             404 not_found
    │   │   ├── ChunkNotFoundError    404 chunk_not_found
    │   │   └── DocumentNotFoundError 404 document_not_found
    │   └── MethodNotAllowedError     405 method_not_allowed
    └── UnavailableError              503 unavailable
        ├── NotReadyError             503 not_ready
        ├── StoreChangedError         503 store_changed
        ├── UnreachableError          503 unreachable (raised by the client alone)
        ├── ModelUnavailableError     409 model_unavailable
        │   └── OrderUnavailableError 409 order_unavailable
        ├── EmbedderUnavailableError  501 embedder_unavailable
        ├── QueueFullError            429 queue_full
        └── DeadlineError             504 deadline_exceeded
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

PROBLEM_TYPE = "application/problem+json"


class ServiceError(Exception):
    """The service failed; what exactly is in its log, under the request id.

    Args:
        detail: One sentence for the person who reads the answer.
        field: Dotted path of the member at fault, such as ``context.2``.
        expected: What the service wanted there.
        actual: What it found there.
        reason: Stable word for the cause, where one code has several.
        retry_after_s: Seconds after which another attempt makes sense.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        field: str | None = None,
        expected: str | None = None,
        actual: str | None = None,
        reason: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.request_id: str | None = None
        self.members: dict[str, Any] = {
            name: value
            for name, value in (
                ("field", field),
                ("expected", expected),
                ("actual", actual),
                ("reason", reason),
                ("retry_after_s", retry_after_s),
            )
            if value is not None
        }

    def problem(self, request_id: str) -> dict[str, Any]:
        """Write the error as an RFC 9457 problem object."""
        return {
            "type": f"urn:nextchunk:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            **self.members,
        }


class RequestError(ServiceError, ValueError):
    """The request is at fault, and sending it again will not help."""

    status = 400
    code = "bad_request"
    title = "Bad request"


class FieldError(RequestError):
    """A member of the body is at fault. Never raised itself: its subclasses are.

    Args:
        field: Dotted path of the member.
        expected: What the service wanted there.
        actual: What it found there.
    """

    def __init__(self, field: str, expected: str, actual: str) -> None:
        super().__init__(
            f"{field}: expected {expected}, got {actual}",
            field=field,
            expected=expected,
            actual=actual,
        )


class MalformedJsonError(RequestError):
    """The body is not JSON."""

    status = 422
    code = "malformed_json"
    title = "Malformed JSON"


class InvalidRequestError(FieldError):
    """A member is missing, unknown, of the wrong type or out of range."""

    status = 422
    code = "invalid_request"
    title = "Invalid request"


class ContextLengthError(FieldError):
    """The context holds no chunk, or more than the window."""

    status = 422
    code = "context_length"
    title = "Wrong context length"


class InvalidVectorError(FieldError):
    """A vector is not a list of finite numbers or base64 float32, or is zero."""

    status = 422
    code = "invalid_vector"
    title = "Invalid vector"


class WrongDimensionError(FieldError):
    """A vector's dimension is not the index's."""

    status = 422
    code = "wrong_dimension"
    title = "Wrong dimension"


class DuplicateIdError(FieldError):
    """An id stands twice where each may stand once."""

    status = 422
    code = "duplicate_id"
    title = "Duplicate id"


class UnknownIdError(FieldError):
    """The body names a chunk that is not indexed."""

    status = 422
    code = "unknown_id"
    title = "Unknown id"


class BatchTooLargeError(FieldError):
    """More queries, pairs or candidates than one request may carry."""

    status = 422
    code = "batch_too_large"
    title = "Batch too large"


class BodyTooLargeError(RequestError):
    """The body has more bytes than the service takes."""

    status = 413
    code = "body_too_large"
    title = "Body too large"


class NotFoundError(RequestError):
    """There is nothing at that path."""

    status = 404
    code = "not_found"
    title = "Not found"


class ChunkNotFoundError(NotFoundError):
    """There is no chunk with that id."""

    code = "chunk_not_found"
    title = "Chunk not found"


class DocumentNotFoundError(NotFoundError):
    """There is no document with that id."""

    code = "document_not_found"
    title = "Document not found"


class MethodNotAllowedError(RequestError):
    """The path exists, but not for that HTTP method."""

    status = 405
    code = "method_not_allowed"
    title = "Method not allowed"


class UnavailableError(ServiceError):
    """The request may be right, but the service cannot answer it as it stands."""

    status = 503
    code = "unavailable"
    title = "Unavailable"


class NotReadyError(UnavailableError):
    """The store is still being loaded, or could not be."""

    code = "not_ready"
    title = "Not ready"


class StoreChangedError(UnavailableError):
    """The store on disk was replaced under the running service."""

    code = "store_changed"
    title = "Store changed"


class UnreachableError(UnavailableError):
    """The client could not reach any service, or what answered is not one."""

    code = "unreachable"
    title = "Unreachable"


class ModelUnavailableError(UnavailableError):
    """The request insists on a model, and none can be used; ``reason`` says why."""

    status = 409
    code = "model_unavailable"
    title = "Model unavailable"


class OrderUnavailableError(ModelUnavailableError):
    """Order needs the verifier of a valid checkpoint, and there is none."""

    code = "order_unavailable"
    title = "Order unavailable"


class EmbedderUnavailableError(UnavailableError):
    """Texts need an embedding model, and it is not installed or does not fit the index."""

    status = 501
    code = "embedder_unavailable"
    title = "Embedder unavailable"


class QueueFullError(UnavailableError):
    """Too many requests are waiting already."""

    status = 429
    code = "queue_full"
    title = "Queue full"


class DeadlineError(UnavailableError):
    """The deadline passed before there was an answer in the mode that was asked for."""

    status = 504
    code = "deadline_exceeded"
    title = "Deadline exceeded"


def error_classes(root: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """Walk the tree, parents first, without the nameless ``FieldError``."""
    if root is not FieldError:
        yield root
    for child in root.__subclasses__():
        yield from error_classes(child)


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
    names = ("field", "expected", "actual", "reason", "retry_after_s")
    error = kind.__new__(kind)
    ServiceError.__init__(
        error, str(body.get("detail", "")), **{name: body.get(name) for name in names}
    )
    error.request_id = str(body.get("request_id", "")) or None
    return error
