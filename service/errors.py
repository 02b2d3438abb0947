"""Everything that can go wrong between a client and the service.

Each class owns its HTTP status and a stable ``code``; the client raises the same classes.

    ServiceError                          500 internal_error
    ├── RequestError (ValueError)         400 bad_request
    │   ├── MalformedBodyError            422 malformed_body
    │   ├── FieldError                        (never raised itself)
    │   │   ├── InvalidRequestError       422 invalid_request
    │   │   ├── ContextLengthError        422 context_length
    │   │   ├── InvalidVectorError        422 invalid_vector
    │   │   ├── WrongDimensionError       422 wrong_dimension
    │   │   ├── DuplicateIdError          422 duplicate_id
    │   │   ├── UnknownIdError            422 unknown_id
    │   │   ├── UnknownModelError         422 unknown_model
    │   │   ├── BatchTooLargeError        422 batch_too_large
    │   │   ├── TopKTooLargeError         422 top_k_too_large
    │   │   ├── SequenceTooLongError      422 sequence_too_long
    │   │   ├── TextTooLongError          422 text_too_long
    │   │   ├── MetadataTooLargeError     422 metadata_too_large
    │   │   └── IdempotencyKeyReusedError 422 idempotency_key_reused
    │   ├── UnauthenticatedError          401 unauthenticated
    │   ├── ForbiddenError                403 forbidden
    │   ├── NotFoundError                 404 not_found
    │   │   ├── ChunkNotFoundError        404 chunk_not_found
    │   │   └── DocumentNotFoundError     404 document_not_found
    │   ├── MethodNotAllowedError         405 method_not_allowed
    │   ├── NotAcceptableError            406 not_acceptable
    │   ├── CheckpointRejectedError       409 checkpoint_rejected
    │   ├── BodyTooLargeError             413 body_too_large
    │   └── UnsupportedMediaTypeError     415 unsupported_media_type
    └── UnavailableError                  503 unavailable
        ├── NotReadyError                 503 not_ready
        ├── IndexUnavailableError         503 index_unavailable
        ├── UnreachableError              503 unreachable (raised by the client alone)
        ├── ModelUnavailableError         409 model_unavailable
        │   └── OrderUnavailableError     409 order_unavailable
        ├── QueueFullError                429 queue_full
        ├── RateLimitedError              429 rate_limited
        ├── EmbedderUnavailableError      501 embedder_unavailable
        ├── DeadlineError                 504 deadline_exceeded
        └── StorageFullError              507 storage_full
"""

from collections.abc import Iterator
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

    def __init_subclass__(cls) -> None:
        """Make a title of the code where the class has none of its own."""
        if "title" not in vars(cls):
            cls.title = cls.code.replace("_", " ").capitalize()

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
        # HTTP headers that go with the answer.
        self.headers: dict[str, str] = {}
        given = {"field": field, "expected": expected, "actual": actual, "reason": reason}
        self.members: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if retry_after_s is not None:
            self.members["retry_after_s"] = retry_after_s

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


class MalformedBodyError(RequestError):
    """The body is not what its content type says."""

    status = 422
    code = "malformed_body"


class InvalidRequestError(FieldError):
    """A member is missing, unknown, of the wrong type or out of range."""

    status = 422
    code = "invalid_request"


class ContextLengthError(FieldError):
    """The context holds no chunk, or more than the window."""

    status = 422
    code = "context_length"
    title = "Wrong context length"


class InvalidVectorError(FieldError):
    """A vector is not a list of finite numbers or base64 float32, or is zero."""

    status = 422
    code = "invalid_vector"


class WrongDimensionError(FieldError):
    """A vector's dimension is not the index's."""

    status = 422
    code = "wrong_dimension"


class DuplicateIdError(FieldError):
    """An id stands twice where each may stand once."""

    status = 422
    code = "duplicate_id"


class UnknownIdError(FieldError):
    """The body names a chunk that is not indexed."""

    status = 422
    code = "unknown_id"


class UnknownModelError(FieldError):
    """The body names a model that is not loaded."""

    status = 422
    code = "unknown_model"


class BatchTooLargeError(FieldError):
    """More queries, pairs or candidates than one request may carry."""

    status = 422
    code = "batch_too_large"


class TopKTooLargeError(FieldError):
    """More results than one query may ask for."""

    status = 422
    code = "top_k_too_large"
    title = "Too many results"


class SequenceTooLongError(FieldError):
    """More chunks than one bag may hold."""

    status = 422
    code = "sequence_too_long"


class TextTooLongError(FieldError):
    """A text has more characters than the service takes."""

    status = 422
    code = "text_too_long"


class MetadataTooLargeError(FieldError):
    """The metadata of a chunk have more bytes as JSON than the service takes."""

    status = 422
    code = "metadata_too_large"


class IdempotencyKeyReusedError(FieldError):
    """The idempotency key came with another request before."""

    status = 422
    code = "idempotency_key_reused"


class UnauthenticatedError(RequestError):
    """The request carries no API key that is known and still valid."""

    status = 401
    code = "unauthenticated"


class ForbiddenError(RequestError):
    """The API key is known, but its scopes do not include what was asked."""

    status = 403
    code = "forbidden"


class BodyTooLargeError(RequestError):
    """The body has more bytes than the service takes."""

    status = 413
    code = "body_too_large"


class NotFoundError(RequestError):
    """There is nothing at that path."""

    status = 404
    code = "not_found"


class ChunkNotFoundError(NotFoundError):
    """There is no chunk with that id."""

    code = "chunk_not_found"


class DocumentNotFoundError(NotFoundError):
    """There is no document with that id."""

    code = "document_not_found"


class MethodNotAllowedError(RequestError):
    """The path exists, but not for that HTTP method."""

    status = 405
    code = "method_not_allowed"


class NotAcceptableError(RequestError):
    """The answer cannot be written in any media type that the request accepts."""

    status = 406
    code = "not_acceptable"


class UnsupportedMediaTypeError(RequestError):
    """The body comes in a media type that this operation does not read."""

    status = 415
    code = "unsupported_media_type"


class CheckpointRejectedError(RequestError):
    """A checkpoint that was to be loaded cannot serve; what served before still does."""

    status = 409
    code = "checkpoint_rejected"


class UnavailableError(ServiceError):
    """The request may be right, but the service cannot answer it as it stands."""

    status = 503
    code = "unavailable"


def stopping(retry_after_s: int) -> UnavailableError:
    """Make the error of a service that is going down."""
    return UnavailableError(
        "the service is stopping", reason="stopping", retry_after_s=retry_after_s
    )


class NotReadyError(UnavailableError):
    """The store is still being loaded, or could not be."""

    code = "not_ready"


class IndexUnavailableError(UnavailableError):
    """The index is kept elsewhere, and does not answer."""

    code = "index_unavailable"


class UnreachableError(UnavailableError):
    """The client could not reach any service, or what answered is not one."""

    code = "unreachable"


class ModelUnavailableError(UnavailableError):
    """The request insists on a model, and none can be used; ``reason`` says why."""

    status = 409
    code = "model_unavailable"


class OrderUnavailableError(ModelUnavailableError):
    """Order needs the verifier of a valid checkpoint, and there is none."""

    code = "order_unavailable"


class EmbedderUnavailableError(UnavailableError):
    """Texts need an embedding model, and it is not installed or does not fit the index."""

    status = 501
    code = "embedder_unavailable"


class QueueFullError(UnavailableError):
    """Too many requests are waiting already."""

    status = 429
    code = "queue_full"


class RateLimitedError(UnavailableError):
    """The caller has sent more requests than it may in that time."""

    status = 429
    code = "rate_limited"


class DeadlineError(UnavailableError):
    """The deadline passed before there was an answer in the mode that was asked for."""

    status = 504
    code = "deadline_exceeded"


class StorageFullError(UnavailableError):
    """The disk of the store is full; nothing of the request was written."""

    status = 507
    code = "storage_full"


def error_classes(root: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """Walk the tree, parents first, without the nameless ``FieldError``."""
    if root is not FieldError:
        yield root
    for child in root.__subclasses__():
        yield from error_classes(child)
