"""The errors of the platform.

MarketDataError
├── ProviderError
│   ├── PacingViolation*        the provider's budget is spent; ``retry_after_sec`` says how long
│   ├── FarmTransient*          a data farm of the provider is away for a while
│   ├── ConnectionFailed*       the wire broke or never came up
│   ├── PermissionsMissing      the account may not see this
│   └── InvalidInstrument       the provider does not know the instrument
├── TemporaryUnavailable*       a store, disk or service is away for a while
├── ConfigurationError          a setting is wrong; names which and where
├── AuthenticationFailed
├── ValidationError             a record or message breaks a contract
│   └── SchemaValidationError
├── PipelineError
│   ├── SourceError
│   ├── TransformError
│   ├── SinkError
│   │   └── WriterConflict      another writer committed to our table
│   └── BatcherError
├── LogError
│   ├── LogFull*                the log is at its limit or the disk is full
│   └── LogLocked               another process writes this log
└── RegistryError
                                (* = retryable)

Every error knows whether trying again can help (`retryable`) and, where the other side said so, when
(`retry_after_sec`). Errors of libraries are translated where they enter, with ``raise ... from exc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class MarketDataError(Exception):
    """Base of every error this platform raises on purpose.

    Args:
        message: One sentence that names what went wrong and where.
        code: Stable machine-readable name; defaults to the class name.
        details: Further facts, free of secrets.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, code: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).__name__
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after_sec: float | None = None


class ProviderError(MarketDataError):
    """A provider refused or failed."""


class PacingViolation(ProviderError):
    """The provider's request budget is spent."""

    retryable = True

    def __init__(
        self,
        message: str,
        code: str | None = None,
        details: Mapping[str, Any] | None = None,
        *,
        retry_after_sec: float | None = None,
    ) -> None:
        super().__init__(message, code, details)
        self.retry_after_sec = retry_after_sec


class FarmTransient(ProviderError):
    """A data farm of the provider is away for a while."""

    retryable = True


class ConnectionFailed(ProviderError):
    """The connection broke or could not be made."""

    retryable = True


class PermissionsMissing(ProviderError):
    """The account is not entitled to what was asked for."""


class InvalidInstrument(ProviderError):
    """The provider does not know the instrument."""


class TemporaryUnavailable(MarketDataError):
    """A store, disk or service is away; the same call may work later."""

    retryable = True


class ConfigurationError(MarketDataError):
    """A setting is wrong; the message names which one and where it was read."""


class AuthenticationFailed(MarketDataError):
    """The caller or our credentials were not accepted."""


class ValidationError(MarketDataError):
    """A record or message breaks a contract."""


class SchemaValidationError(ValidationError):
    """Data does not have the declared columns or types."""


class PipelineError(MarketDataError):
    """A part of a pipeline failed."""


class SourceError(PipelineError):
    """A source cannot be read; the message names the file or provider and the place."""


class TransformError(PipelineError):
    """An operator failed."""


class SinkError(PipelineError):
    """A sink did not take what it was given."""


class WriterConflict(SinkError):
    """Another writer committed to our table; going on would double rows."""


class BatcherError(PipelineError):
    """A batch could not be built."""


class LogError(MarketDataError):
    """The event log cannot be read or written."""


class LogFull(LogError):
    """The log is at its limit or the disk is full; appending works again once there is room."""

    retryable = True


class LogLocked(LogError):
    """Another process holds the writer's lock of this data directory."""


class RegistryError(MarketDataError):
    """A provider, sink or schema is not registered or cannot be loaded."""
