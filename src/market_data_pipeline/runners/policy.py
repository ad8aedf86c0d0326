"""What may be ingested and how: ``data_providers.yaml`` and ``ingestion_policy.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from market_data_core.errors import ConfigurationError
from market_data_core.settings import SettingsModel
from market_data_pipeline.runners.yamlfile import M, parse_model, wrong

PROVIDERS_FILE: Final = "data_providers.yaml"
POLICY_FILE: Final = "ingestion_policy.yaml"

_SECRET_WORDS: Final = ("key", "secret", "token", "password", "credential")
_HIDDEN: Final = "***"

ProviderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""Names a provider here; it becomes a label of metrics."""
Symbol = Annotated[
    str, StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=64, to_upper=True)
]


def _all_different(symbols: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(symbols)) < len(symbols):
        raise ValueError("a symbol is named twice")
    return symbols


Symbols = Annotated[tuple[Symbol, ...], AfterValidator(_all_different)]


class Pacing(SettingsModel):
    """How fast a provider is read."""

    events_per_second: float | None = Field(
        default=None,
        gt=0,
        description="Most events per second. Holds for sources that can wait, and for all while nothing is written.",
    )


class ProviderEntry(SettingsModel):
    """One provider as it may be started."""

    provider: str = Field(
        default="", description="Its market_data.providers entry point; the entry's own name when empty."
    )
    enabled: bool = Field(default=False, description="Whether it may be started.")
    symbols: Symbols = Field(default=(), description="What is read when a start names no symbols.")
    pacing: Pacing = Field(default_factory=Pacing, description="How fast it is read.")
    params: dict[str, Any] = Field(default_factory=dict, description="Arguments of its class by name.")
    overridable: tuple[str, ...] = Field(
        default=(), description="Arguments that a start may give other values; none where the list is empty."
    )

    def shown(self) -> dict[str, Any]:
        """Return the entry as it may be shown: values of arguments that sound like secrets are hidden."""
        return {**self.model_dump(mode="json", exclude={"params"}), "params": _hidden(self.params)}


class WritePath(SettingsModel):
    """Whether what is read is written."""

    enabled: bool = Field(default=True, description="False: nothing is written, whatever a start asks for.")
    dry_run: bool = Field(default=False, description="What a start means that does not say: read and count only.")
    max_runtime_seconds: float = Field(default=0, ge=0, description="A run is stopped after so long; 0 for never.")


class StoreSyncPolicy(SettingsModel):
    """Whether others are told that new data is in the store."""

    mode: Literal["bus", "http", "none"] = Field(
        default="none", description="bus: on the feedback bus; http: a POST to `url`; none: nobody is told."
    )
    url: str = Field(default="", description="Where notices are posted to; needed for http.")
    timeout_seconds: float = Field(default=2.0, gt=0, le=60, description="How long a notice may take.")
    interval_seconds: float = Field(default=1.0, gt=0, le=3600, description="Notices are no closer together than this.")

    @model_validator(mode="after")
    def _has_url(self) -> Self:
        if self.mode != "http":
            return self
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("mode http needs the url, http:// or https://, that notices are posted to")
        if parts.username is not None or parts.query:
            raise ValueError("the url may not hold a user name, password or query: it is shown in status and log")
        return self


class Guards(SettingsModel):
    """What is looked at before a provider is started."""

    require_provider_enabled: bool = Field(default=True, description="Only providers that are enabled are started.")
    require_symbols_nonempty: bool = Field(default=True, description="Only with symbols, from the start or the entry.")
    max_symbols: int | None = Field(default=None, ge=1, description="Most symbols of one start; empty for any number.")


class IngestPolicy(SettingsModel):
    """The file ``ingestion_policy.yaml``."""

    write_path: WritePath = Field(default_factory=WritePath)
    store_sync: StoreSyncPolicy = Field(default_factory=StoreSyncPolicy)
    guards: Guards = Field(default_factory=Guards)


class _Providers(SettingsModel):
    providers: dict[ProviderName, ProviderEntry] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    """Both files.

    Attributes:
        providers: By name.
        policy: What holds for all of them.
    """

    providers: dict[str, ProviderEntry]
    policy: IngestPolicy


def load_ingest_config(folder: Path) -> IngestConfig:
    """Read both files of a folder; for one that is not there the packaged default stands in.

    Raises:
        ConfigurationError: A file is wrong. The message names every mistake of both with file, line and key, and
            `details` has them as a list ``errors`` of ``{where, field, detail}``.
    """
    problems: list[dict[str, str]] = []
    providers, policy = _Providers(), IngestPolicy()
    try:
        providers = _parsed(_Providers, folder, PROVIDERS_FILE)
    except ConfigurationError as exc:
        problems += exc.details["errors"]
    try:
        policy = _parsed(IngestPolicy, folder, POLICY_FILE)
    except ConfigurationError as exc:
        problems += exc.details["errors"]
    if problems:
        raise wrong(problems)
    return IngestConfig(providers=dict(providers.providers), policy=policy)


def packaged_default(name: str) -> str:
    """Return the text of the packaged `PROVIDERS_FILE` or `POLICY_FILE`."""
    return (files(__package__) / "defaults" / name).read_text("utf-8")


def _parsed(model: type[M], folder: Path, file_name: str) -> M:
    text, name = _text(folder, file_name)
    return parse_model(model, text, name=name)


def _text(folder: Path, name: str) -> tuple[str, str]:
    path = folder / name
    try:
        return path.read_text("utf-8"), str(path)
    except FileNotFoundError:
        return packaged_default(name), f"packaged {name}"
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise wrong([{"where": str(path), "field": "", "detail": f"cannot be read: {why}"}]) from exc


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _HIDDEN if _sounds_secret(str(k)) else _hidden(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_hidden(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _sounds_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_WORDS)
