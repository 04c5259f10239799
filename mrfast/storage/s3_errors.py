"""What an S3 error means, in one sentence: what failed, where, the request's id, and the cure. Knows no boto3."""

from __future__ import annotations

from typing import Any

from mrfast.errors import MrfastError, NotFound, PreconditionFailed, StoreError, UsageError
from mrfast.storage.base import shown

_ACCESS = ("AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "RequestExpired")
_BAD_CREDENTIALS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
)
_OTHER_REGION = ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_BUSY = ("SlowDown", "ServiceUnavailable", "503", "InternalError", "500", "RequestTimeout", "Throttling")
_DAMAGED = ("BadDigest", "XAmzContentChecksumMismatch")
_UNREACHABLE = (
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ProxyConnectionError",
    "SSLError",
    "HTTPClientError",
    "Unreachable",
)
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError")
_BAD_LOGIN = (
    "ProfileNotFound",
    "UnauthorizedSSOTokenError",
    "SSOTokenLoadError",
    "ConfigParseError",
    "LoginRefreshRequired",
)

CREDENTIALS_CURE = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose a profile with AWS_PROFILE, or give the machine a role"
)


def code_of(error: BaseException | None) -> str:
    """The error code of an S3 answer (`NoSuchKey`, `412`, ...), or the name of the exception's class."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code") or type(error).__name__)


def translate(error: Exception, call: str, bucket: str, key: str | None, endpoint: str, span: str = "") -> MrfastError:
    """The error to raise for an exception of boto3 in `call` on this object."""
    where = f"s3://{bucket}" if key is None else shown(f"s3://{bucket}/{key}")
    response: dict[str, Any] = getattr(error, "response", None) or {}
    request_id = response.get("ResponseMetadata", {}).get("RequestId")
    said = f"{call} on {where}" + (f" {span}" if span else "") + (f", request {request_id}" if request_id else "")
    code = code_of(error)
    if code == "NoSuchBucket":
        return StoreError(f"no such bucket: {bucket} at {endpoint} ({said}); check its name, or create it")
    if code in ("NoSuchKey", "404", "NotFound"):
        return NotFound(f"{where} does not exist ({said})")
    if code in ("PreconditionFailed", "412"):
        return PreconditionFailed(f"{where} has changed: its etag is another one now ({said})")
    if code in _ACCESS:
        return StoreError(
            f"access denied to {where} ({said}); check the policies of these credentials and of the bucket"
        )
    if code in _EXPIRED:
        return StoreError(
            f"the AWS session token has expired or is invalid ({said}); log in again, e.g. `aws sso login`"
        )
    if code in _BAD_CREDENTIALS:
        return StoreError(f"the AWS credentials are not valid: {code} ({said}); {CREDENTIALS_CURE}")
    if code in _NO_CREDENTIALS:
        return StoreError(f"no AWS credentials for {where} ({_text(error)}); {CREDENTIALS_CURE}")
    if code in _BAD_LOGIN:
        return StoreError(f"the AWS login does not work: {_text(error)} ({said}); log in again, or check AWS_PROFILE")
    if code in ("400", "BadRequest"):
        return StoreError(f"S3 refused {said} without a reason; most often the session token has expired: log in again")
    if code in ("DamagedAnswer", "ResponseParserError") or (code == "ValueError" and "endpoint" not in _text(error)):
        return StoreError(
            f"the answer of S3 at {endpoint} is damaged: {_text(error)} ({said}); check the network and this machine's"
            " memory"
        )
    if code in _DAMAGED:
        return StoreError(
            f"what arrived at S3 at {endpoint} was not what was sent: {code}: {_text(error)} ({said}); check the"
            " network and this machine's memory"
        )
    if code == "RequestTimeTooSkewed":
        return StoreError(f"this machine's clock is wrong, S3 refuses its requests ({said}); set the clock")
    if code in _OTHER_REGION:
        return StoreError(f"the bucket {bucket} is in another region ({said}); set AWS_REGION to the bucket's region")
    if code in _UNREACHABLE:
        return StoreError(
            f"cannot reach S3 at {endpoint} for {where}: {_text(error)}; check the network and AWS_ENDPOINT_URL_S3"
        )
    if code == "Broken":
        return StoreError(f"the connection to S3 at {endpoint} broke off: {_text(error)} ({said}); check the network")
    if code == "ParamValidationError":
        return UsageError(f"{where} is not a bucket or key that S3 can have: {_text(error)}")
    if code == "ValueError":
        return UsageError(f"the S3 endpoint {endpoint!r} is not a URL ({_text(error)}); check AWS_ENDPOINT_URL_S3")
    cure = "; it is overloaded or down: try again later" if code in _BUSY else ""
    return StoreError(f"S3 at {endpoint}: {call} of {where} failed: {code}: {_text(error)} ({said}){cure}")


def _text(error: Exception) -> str:
    response: dict[str, Any] = getattr(error, "response", None) or {}
    message = response.get("Error", {}).get("Message") or str(error)
    return " ".join(str(message).split())[:500].rstrip(".")
