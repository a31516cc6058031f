"""Everything that Candor refuses, as one tree.

    CandorError
    ├── SettingsError            a CANDOR_ variable is unknown or has a bad value: the start stops
    ├── DeviceError              the device asked for does not run here: the start stops
    ├── PrecisionError           the precision asked for cannot be had here: the start stops
    ├── BundleError              the bundle cannot be used: the start stops
    │   ├── ManifestError            manifest.json is missing, is no JSON or breaks the contract
    │   ├── SchemaVersionError       written for another version of the contract
    │   ├── MissingFileError         the manifest names a file that is not there
    │   ├── DigestError              a file is not the one that the manifest was written for
    │   └── ExternalDataError        a graph keeps its tensors in other files, which no digest covers
    ├── BulkError                a folder cannot be worked through: nothing was changed
    │   └── Stopped                  the run was told to stop: what is finished is kept
    └── RequestError             the caller is told, as a problem (RFC 9457)
        ├── MalformedRequest     400 the body or a parameter cannot be read
        ├── NotFound             404 nothing is served there
        ├── MethodNotAllowed     405 not with this HTTP method
        ├── NotAcceptable        406 no such representation
        ├── SlowRequest          408 the body did not come in time
        ├── BodyTooLarge         413 more bytes than the limit
        ├── ImageTooLarge      413 more pixels than the limit
        ├── UnsupportedFormat    415 not a content type, or not an image format, that is taken
        ├── UndecodableImage   422 looks like an image and cannot be decoded
        ├── InvalidParameter     422 a parameter out of its range
        ├── MethodUnavailable    422 this bundle lacks the graph that the method needs
        ├── TooManyRequests      429 the queue is full
        ├── Unavailable          503 starting, stopping or overloaded
        ├── DeadlineExceeded     504 the caller's time is over
        └── InternalError        500 a defect of ours, never of an image

A message says what was wrong, the value, the limit and the remedy.
"""

from typing import Any, ClassVar

SHOWN = 40  # characters of a caller's value that a message repeats


def short(value: Any) -> str:
    """`value` as a message repeats it: a caller may send megabytes."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


class CandorError(Exception):
    """The root: catch it to catch all that Candor raises on purpose."""


class SettingsError(CandorError):
    """A CANDOR_ variable is unknown or has a bad value."""


class DeviceError(CandorError):
    """The device asked for does not run here."""


class PrecisionError(CandorError):
    """The precision asked for cannot be had here."""


class BundleError(CandorError):
    """The bundle cannot be used."""


class ManifestError(BundleError):
    """manifest.json is missing, is no JSON or breaks the contract."""


class SchemaVersionError(BundleError):
    """The manifest is written for another version of the contract."""


class MissingFileError(BundleError):
    """The manifest names a file that is not there."""


class DigestError(BundleError):
    """A file is not the one that the manifest was written for."""


class ExternalDataError(BundleError):
    """A graph keeps tensors in other files, which no digest covers."""


class BulkError(CandorError):
    """A folder cannot be worked through; nothing was changed."""


class Stopped(BulkError):
    """The run was told to stop; what is finished is kept."""


class RequestError(CandorError):
    """The caller is told: `status` is the HTTP status, `code` the stable name, `title` the same for every occurrence."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    @property
    def detail(self) -> str:
        """What was wrong, the value, the limit and the remedy."""
        return str(self)


class MalformedRequest(RequestError):
    """The body or a parameter cannot be read."""

    status, code, title = 400, "malformed_request", "The request cannot be read"


class NotFound(RequestError):
    """Nothing is served there."""

    status, code, title = 404, "not_found", "Nothing is served here"


class MethodNotAllowed(RequestError):
    """Something is served there, but not with this HTTP method."""

    status, code, title = 405, "method_not_allowed", "This HTTP method is not served here"


class NotAcceptable(RequestError):
    """The representation asked for with Accept does not exist."""

    status, code, title = 406, "not_acceptable", "No such representation"


class SlowRequest(RequestError):
    """The body did not come in time."""

    status, code, title = 408, "slow_request", "The body came too slowly"


class BodyTooLarge(RequestError):
    """The body has more bytes than the limit."""

    status, code, title = 413, "body_too_large", "The body is too large"


class ImageTooLarge(RequestError):
    """The image has more pixels than the limit."""

    status, code, title = 413, "picture_too_large", "The image is too large"


class UnsupportedFormat(RequestError):
    """The content type, or the format of the image, is not one that is taken."""

    status, code, title = 415, "unsupported_format", "Not an image format that is taken"


class UndecodableImage(RequestError):
    """The bytes begin like an image and cannot be decoded."""

    status, code, title = 422, "undecodable_picture", "The image cannot be decoded"


class InvalidParameter(RequestError):
    """A parameter is unknown or out of its range."""

    status, code, title = 422, "invalid_parameter", "A parameter is not valid"


class MethodUnavailable(RequestError):
    """This bundle lacks the graph that the method needs."""

    status, code, title = 422, "method_unavailable", "This model cannot be explained that way"


class TooManyRequests(RequestError):
    """The queue is full."""

    status, code, title = 429, "too_many_requests", "Too many requests are waiting"

    def __init__(self, message: str, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(RequestError):
    """The service is starting, stopping or overloaded."""

    status, code, title = 503, "unavailable", "The service cannot answer now"

    def __init__(self, message: str, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(RequestError):
    """The time that the caller gave is over."""

    status, code, title = 504, "deadline_exceeded", "The deadline has passed"


class InternalError(RequestError):
    """A defect of ours; the log has the trace."""

    status, code, title = 500, "internal_error", "A defect of the service"
