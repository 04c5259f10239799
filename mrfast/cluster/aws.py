"""Calls to AWS, and what their errors mean: what failed, where, and the cure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from mrfast.errors import CloudError, MrfastError, UsageError

AGAIN_S = (1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)  # a minute: what has just been made or removed is not seen at once

_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403", "AuthFailure")
_LOGIN = (
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
    "InvalidAccessKeyId",
)
_QUOTA = (
    "VcpuLimitExceeded",
    "InstanceLimitExceeded",
    "MaxSpotInstanceCountExceeded",
    "SecurityGroupLimitExceeded",
    "LimitExceeded",
    "LimitExceededException",
    "ParameterLimitExceeded",
    "TooManyBuckets",
)
_NO_CAPACITY = ("InsufficientInstanceCapacity", "SpotMaxPriceTooLow", "InsufficientHostCapacity")
_CREDENTIALS_CURE = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose a profile with AWS_PROFILE, or log in"


def code_of(error: BaseException) -> str:
    """The error code of an answer, or the name of the exception's class."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code") or type(error).__name__)


class Aws:
    """The services of one region, behind one call that translates errors; `sleep` is between repeated calls."""

    def __init__(self, region: str | None = None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        try:
            self.session = boto3.Session(region_name=region or os.environ.get("AWS_REGION"))
        except BotoCoreError as error:
            raise CloudError(f"the AWS login does not work: {error}; {_CREDENTIALS_CURE}") from error
        found = self.session.region_name
        if not found:
            raise UsageError("no region: give --region, as in --region eu-central-1, or set AWS_REGION")
        self.region: str = found
        self.sleep = sleep
        self._config = Config(retries={"mode": "standard", "total_max_attempts": 6}, user_agent_extra="mrfast")
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """The service's client, made once."""
        if service not in self._clients:
            self._clients[service] = self.session.client(service, config=self._config)
        return self._clients[service]

    def call(
        self,
        service: str,
        action: str,
        *,
        missing: tuple[str, ...] = (),
        again: Callable[[Exception], bool] = lambda error: False,
        **arguments: Any,
    ) -> Any:
        """The answer; None for an error of `missing`; what `again` says is repeated for a minute."""
        from botocore.exceptions import BotoCoreError, ClientError

        waits = iter(AGAIN_S)
        while True:
            try:
                return getattr(self.client(service), action)(**arguments)
            except (BotoCoreError, ClientError) as error:
                if code_of(error) in missing:
                    return None
                if again(error) and (wait := next(waits, None)) is not None:
                    self.sleep(wait)
                    continue
                raise translated(error, service, action, self.region) from error

    def pages(self, service: str, action: str, key: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """What a listing has under `key`, on all its pages."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            for page in self.client(service).get_paginator(action).paginate(**arguments):
                yield from page.get(key, ())
        except (BotoCoreError, ClientError) as error:
            raise translated(error, service, action, self.region) from error

    def wait(self, service: str, waiter: str, **arguments: Any) -> None:
        """Returns when the waiter's state is reached."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.client(service).get_waiter(waiter).wait(**arguments)
        except (BotoCoreError, ClientError) as error:
            raise translated(error, service, waiter, self.region) from error


def translated(error: Exception, service: str, action: str, region: str) -> MrfastError:
    """The error to raise for an exception of boto3: what, where, the cure."""
    code = code_of(error)
    called = f"{service}:{''.join(part.capitalize() for part in action.split('_'))}"
    response: dict[str, Any] = getattr(error, "response", None) or {}
    said = " ".join(str(response.get("Error", {}).get("Message") or error).split())[:500].rstrip(".")
    where = f"{called} in {region}"
    if code in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"):
        return CloudError(f"no AWS credentials ({said}); {_CREDENTIALS_CURE}")
    if code in _LOGIN or "SSO" in code or code == "TokenRetrievalError":
        return CloudError(f"the AWS credentials are not valid: {code}: {said} ({where}); {_CREDENTIALS_CURE}")
    if code in _DENIED:
        return CloudError(f"these credentials may not call {called}: {said}; allow {called} to them, or use others")
    if code in _QUOTA:
        return CloudError(
            f"a quota of this account is reached: {code}: {said} ({where}); take fewer --workers or a smaller --type, "
            f"or ask for more: https://{region}.console.aws.amazon.com/servicequotas"
        )
    if code in _NO_CAPACITY:
        return CloudError(
            f"EC2 has no such machine to give at the moment: {code}: {said} ({where}); try again later, with another "
            "--type, in another zone (--subnet), or without --spot"
        )
    if code in (
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "SSLError",
        "ProxyConnectionError",
    ):
        return CloudError(f"cannot reach AWS: {said} ({where}); check the network and --region")
    if code in ("InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable"):
        return UsageError(f"no such image: {said} ({where}); check --ami: each region has ids of its own")
    if code in ("InvalidSubnetID.NotFound", "InvalidSubnetId.Malformed"):
        return UsageError(f"no such subnet: {said} ({where}); check --subnet and --region")
    if code == "WaiterError":
        return CloudError(
            f"AWS has not done it, or not in time: {said} ({where}); mrfast cluster status says why a machine has "
            "ended; the same command goes on from here"
        )
    return CloudError(f"{where} failed: {code}: {said}; the same command goes on from here")
