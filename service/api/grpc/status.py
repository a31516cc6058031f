"""Errors as statuses of gRPC.

The details are the sentence that HTTP's problems have, and the trailing metadata `candor-code` is
their stable code. Where a later try may succeed, `grpc-retry-pushback-ms` (gRPC's proposal A6) says
after how long.
"""

from collections.abc import Mapping

from grpc import StatusCode

from service import errors
from service.errors import RequestError

CODES: Mapping[type[RequestError], StatusCode] = {
    errors.MalformedRequest: StatusCode.INVALID_ARGUMENT,
    errors.Unauthorized: StatusCode.UNAUTHENTICATED,
    errors.Forbidden: StatusCode.PERMISSION_DENIED,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.MethodNotAllowed: StatusCode.UNIMPLEMENTED,
    errors.NotAcceptable: StatusCode.INVALID_ARGUMENT,
    errors.SlowRequest: StatusCode.DEADLINE_EXCEEDED,
    errors.Conflict: StatusCode.FAILED_PRECONDITION,
    errors.BodyTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    errors.ImageTooLarge: StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedFormat: StatusCode.INVALID_ARGUMENT,
    errors.UndecodableImage: StatusCode.INVALID_ARGUMENT,
    errors.InvalidParameter: StatusCode.INVALID_ARGUMENT,
    errors.MethodUnavailable: StatusCode.FAILED_PRECONDITION,
    errors.TooManyRequests: StatusCode.RESOURCE_EXHAUSTED,
    errors.HeadTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.InternalError: StatusCode.INTERNAL,
}
PUSHBACK, CODE = "grpc-retry-pushback-ms", "candor-code"


def code_of(error: RequestError) -> StatusCode:
    """The status code of an error."""
    return CODES[type(error)]


def metadata_of(error: RequestError) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of an error."""
    seconds = getattr(error, "retry_after_seconds", None)
    pushback = () if seconds is None else ((PUSHBACK, str(1000 * seconds)),)
    return ((CODE, error.code), *pushback)
