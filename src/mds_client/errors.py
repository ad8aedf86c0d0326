"""The errors that users of stored data meet.

All come from `MarketDataError` and know whether the same call may work later (`retryable`):

| error | retryable | when |
|---|---|---|
| `TemporaryUnavailable` | yes | the store, its disk or server is away, or a statement took too long |
| `WriterConflict` | no | another writer had the table; read again before going on |
| `ValidationError` | no | a row, time or job breaks a contract |
| `SchemaValidationError` | no | a row cannot be stored; ``details`` say ``row`` (from 0) and ``column`` |
| `ConfigurationError` | no | an option, table, column or package is not there |
| `AuthenticationFailed`, `PermissionsMissing` | no | the server does not accept the user, or its user may not do that |
| `ClientClosed` | no | the client or batch was closed before the call |

A value that does not fit a model raises `pydantic.ValidationError`, which names the field.
"""

from __future__ import annotations

from market_data_core.errors import (
    AuthenticationFailed,
    ConfigurationError,
    MarketDataError,
    PermissionsMissing,
    SchemaValidationError,
    TemporaryUnavailable,
    ValidationError,
    WriterConflict,
)

__all__ = [
    "AuthenticationFailed",
    "ClientClosed",
    "ConfigurationError",
    "MarketDataError",
    "PermissionsMissing",
    "SchemaValidationError",
    "TemporaryUnavailable",
    "ValidationError",
    "WriterConflict",
]


class ClientClosed(MarketDataError):
    """The client or batch was closed before the call."""
