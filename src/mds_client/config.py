"""What a client is told: where the data is, whose it is, and how long to wait."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from market_data_core.errors import ConfigurationError

_SERVER: Final = re.compile(r"postgres(ql)?://", re.IGNORECASE)
_DEFAULT_APP_NAME: Final = "mds_client"


class MDSConfig(BaseModel):
    """Options of `MDS` and `AMDS`.

    Attributes:
        dsn: A folder, ``file://`` URL or ``s3://bucket/prefix`` for the embedded lake, ``postgresql://`` for
            PostgreSQL. May hold a password, so it is in no message and no ``repr``.
        tenant_id: Whose data.
        pool_max: How many calls at once: connections to a server; `AMDS` may have as many again for its threads.
        timeout_s: How long to wait for a connection before a server counts as away.
        statement_timeout_s: How long one statement of a server may take; None for as long as it needs.
        app_name: What the server shows the connections as, unless the dsn says it; jobs are claimed in this name too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    dsn: str = Field(min_length=1, repr=False)
    tenant_id: str = Field(min_length=1)
    pool_max: int = Field(default=10, ge=1, le=1000)
    timeout_s: float = Field(default=10.0, gt=0)
    statement_timeout_s: float | None = Field(default=None, gt=0)
    app_name: str = Field(default=_DEFAULT_APP_NAME, min_length=1, max_length=63)

    @property
    def is_server(self) -> bool:
        """Whether the dsn names a server rather than a folder."""
        return _SERVER.match(self.dsn) is not None

    def address(self) -> str:
        """Return the dsn with the name that the server is to show."""
        if not self.is_server or "application_name" in dict(parse_qsl(urlsplit(self.dsn).query)):
            return self.dsn
        joined = "&" if "?" in self.dsn else "?"
        return f"{self.dsn}{joined}application_name={quote(self.app_name, safe='')}"


def config_of(options: Mapping[str, Any] | MDSConfig) -> MDSConfig:
    """Return options as a whole, checked.

    ``connect_timeout`` (seconds) and ``statement_timeout_ms`` are understood too.

    Raises:
        ConfigurationError: An option is unknown, missing or wrong; names it.
    """
    if isinstance(options, MDSConfig):
        return options
    given = {str(name): value for name, value in options.items()}
    if isinstance(given.get("dsn"), os.PathLike):
        given["dsn"] = os.fspath(given["dsn"])
    _rename(given, "connect_timeout", "timeout_s", per_second=1)
    _rename(given, "statement_timeout_ms", "statement_timeout_s", per_second=1000)
    try:
        return MDSConfig.model_validate(given)
    except pydantic.ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigurationError(
                f"the client has no option {name!r}; there are {', '.join(MDSConfig.model_fields)}"
            ) from exc
        raise ConfigurationError(f"the client's option {name!r}: {first['msg']}") from exc


# A value that is no number stays as it is and is refused under its new name.
def _rename(given: dict[str, Any], old: str, new: str, *, per_second: float) -> None:
    if old not in given:
        return
    if new in given:
        raise ConfigurationError(f"the client's options {old!r} and {new!r} say the same; give one")
    value = given.pop(old)
    given[new] = value / per_second if isinstance(value, int | float) else value
