"""Everything that Candor rejects or gives up, as one tree.

    CandorError
    ├── SettingsError            a CANDOR_ variable is unknown or has a bad value
    ├── DeviceError              the requested device does not run here
    ├── PrecisionError           the requested precision is not possible here
    ├── HomeError                BENTOML_HOME is in use, or not safe from other users
    ├── BundleError              the bundle cannot be used
    │   ├── ManifestError            manifest.json is missing, is no JSON or breaks the contract
    │   ├── SchemaVersionError       manifest.json has another version of the contract
    │   ├── MissingFileError         a file that the manifest names is missing
    │   ├── DigestError              a file is not the one that the manifest was written for
    │   ├── ExternalDataError        a graph keeps tensors in other files, which no digest covers
    │   └── DeliveryError            the address or the archive of a bundle cannot be read
    ├── BulkError                a bulk run cannot start, continue or finish
    │   └── Stopped                  a signal stopped the run; finished parts are kept
    └── RequestError             the answer is a problem (RFC 9457) with this status:
        ├── MalformedRequest     400 the request cannot be read: its head, body or a parameter
        ├── Unauthorized         401 the request has no key, or an unknown one
        ├── Forbidden            403 the key lacks a scope, or another site sent the request
        ├── NotFound             404 nothing is served at this path
        ├── MethodNotAllowed     405 the path is served with other HTTP methods
        ├── NotAcceptable        406 no representation matches Accept
        ├── SlowRequest          408 the head or the body did not arrive in time
        ├── Conflict             409 a model cannot be loaded or unloaded now
        ├── BodyTooLarge         413 the body has more bytes than the limit
        ├── ImageTooLarge        413 the image has more pixels, or takes more memory, than the limit
        ├── UnsupportedFormat    415 the content type or the image format is not supported
        ├── UndecodableImage     422 the bytes begin like an image and cannot be decoded
        ├── InvalidParameter     422 a parameter is unknown or out of range
        ├── MethodUnavailable    422 the bundle lacks the graph of the attribution method
        ├── TooManyRequests      429 the queue is full, or the memory in use
        ├── HeadTooLarge         431 the head has more bytes than the limit
        ├── Unavailable          503 the service is starting, stopping or overloaded
        ├── DeadlineExceeded     504 the caller's deadline has passed
        └── InternalError        500 a defect of the service, never of an image

At start, an error of the upper half ends the process with its message. A message names the fault,
the value, the limit and the remedy.
"""

from typing import Any, ClassVar

# Characters of a caller's value that a message repeats: the caller may have sent megabytes.
SHOWN = 40


def short(value: Any) -> str:
    """`value` as a message repeats it, cut to SHOWN characters."""
    # A text is cut first: to write out one of 10 MB takes long.
    text = repr(value[: SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


class CandorError(Exception):
    """The root of all that Candor raises on purpose."""


class SettingsError(CandorError):
    """At start: a CANDOR_ variable is unknown or has a bad value."""


class DeviceError(CandorError):
    """At start: CANDOR_DEVICE names a device that does not run here."""


class PrecisionError(CandorError):
    """At start: the bundle or the device cannot compute in CANDOR_PRECISION."""


class HomeError(CandorError):
    """At start: BENTOML_HOME is in use by another server, or not safe from other users."""


class BundleError(CandorError):
    """At start, or when a file is read: the bundle cannot be used."""


class ManifestError(BundleError):
    """manifest.json is missing, is no JSON or breaks the contract."""


class SchemaVersionError(BundleError):
    """manifest.json was written for another version of the contract."""


class MissingFileError(BundleError):
    """A file is missing that the manifest names, or a caller reads one that it does not name."""


class DigestError(BundleError):
    """A file's sha256 is not the one in the manifest: it was changed or damaged."""


class ExternalDataError(BundleError):
    """A graph keeps tensors in other files, which no digest covers."""


class DeliveryError(BundleError):
    """At start: the address or the archive that CANDOR_BUNDLE names cannot be read."""


class BulkError(CandorError):
    """A bulk run cannot start, continue or finish; no table was written."""


class Stopped(BulkError):
    """SIGTERM or SIGINT stopped a bulk run; finished parts are kept."""


class RequestError(CandorError):
    """The root of what a caller receives as a problem (RFC 9457).

    `status`: the HTTP status. `code`: a stable name. `title`: the same for every occurrence.
    `reason`: the cause of a rejection, as metrics label it; empty where the code says all.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]
    reason: str = ""

    @property
    def detail(self) -> str:
        """The message of this occurrence: fault, value, limit and remedy."""
        return str(self)


class MalformedRequest(RequestError):
    """400: the head, the body or a parameter cannot be read, for example JSON that is cut off."""

    status, code, title = 400, "malformed_request", "The request cannot be read"


class Unauthorized(RequestError):
    """401: the service has keys (CANDOR_KEYS), and the request comes with none of them."""

    status, code, title = 401, "unauthorized", "A key is needed"
    challenge = 'Bearer realm="candor"'


class Forbidden(RequestError):
    """403: the key lacks the `scope` that is needed, or a page of another site sent the request."""

    status, code, title = 403, "forbidden", "This is not allowed"

    def __init__(self, message: str, scope: str | None = None) -> None:
        super().__init__(message)
        if scope is not None:
            self.challenge = f'Bearer realm="candor", error="insufficient_scope", scope="{scope}"'


class NotFound(RequestError):
    """404: nothing is served at this path."""

    status, code, title = 404, "not_found", "Nothing is served here"


class MethodNotAllowed(RequestError):
    """405: the path is served, but not with this HTTP method."""

    status, code, title = 405, "method_not_allowed", "This HTTP method is not served here"


class NotAcceptable(RequestError):
    """406: the answer does not exist in a representation that Accept names."""

    status, code, title = 406, "not_acceptable", "No such representation"


class SlowRequest(RequestError):
    """408: the head or the body did not arrive in time."""

    status, code, title = 408, "slow_request", "The request arrived too slowly"


class Conflict(RequestError):
    """409: a model cannot be loaded or unloaded; what is served goes on."""

    status, code, title = 409, "conflict", "What is served cannot be changed so"


class BodyTooLarge(RequestError):
    """413: the body has more bytes than CANDOR_MAX_BODY_BYTES."""

    status, code, title = 413, "body_too_large", "The body is too large"


class ImageTooLarge(RequestError):
    """413: the image has more pixels than CANDOR_MAX_PIXELS, or takes more memory than one may."""

    status, code, title = 413, "picture_too_large", "The image is too large"


class UnsupportedFormat(RequestError):
    """415: the content type or the format of the image is not supported."""

    status, code, title = 415, "unsupported_format", "The format is not supported"


class UndecodableImage(RequestError):
    """422: the bytes begin like an image and cannot be decoded."""

    status, code, title = 422, "undecodable_picture", "The image cannot be decoded"


class InvalidParameter(RequestError):
    """422: a parameter is unknown or out of range."""

    status, code, title = 422, "invalid_parameter", "A parameter is not valid"


class MethodUnavailable(RequestError):
    """422: the bundle lacks the graph that the attribution method needs."""

    status, code, title = 422, "method_unavailable", "This model cannot be explained that way"


class TooManyRequests(RequestError):
    """429: the queue is full, or the memory in use; retry after `retry_after_seconds`."""

    status, code, title = 429, "too_many_requests", "Too many requests are waiting"

    def __init__(self, message: str, retry_after_seconds: int = 1, reason: str = "") -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.reason = reason


class HeadTooLarge(RequestError):
    """431: the request line and the headers have more bytes than the limit."""

    status, code, title = 431, "head_too_large", "The headers are too large"


class Unavailable(RequestError):
    """503: the service is starting, stopping or overloaded; see `retry_after_seconds`."""

    status, code, title = 503, "unavailable", "The service cannot answer now"

    def __init__(self, message: str, retry_after_seconds: int = 1, reason: str = "") -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.reason = reason


class DeadlineExceeded(RequestError):
    """504: the caller's deadline has passed."""

    status, code, title = 504, "deadline_exceeded", "The deadline has passed"


class InternalError(RequestError):
    """500: a defect of the service; the log has the traceback."""

    status, code, title = 500, "internal_error", "A defect of the service"
