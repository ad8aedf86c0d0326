"""May this be started? What configuration and policy make of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from market_data_core.clock import NS_PER_SECOND
from market_data_core.errors import ConfigurationError, RegistryError
from market_data_pipeline.runners.orders import IngestOrder
from market_data_pipeline.runners.policy import IngestConfig, ProviderEntry

Mode = Literal["write", "dry_run", "write_path_disabled"]
"""What is done with events: written, or counted under the reason they are not."""


def entry_of(config: IngestConfig, provider: str) -> ProviderEntry:
    """Return a provider's entry, or raise RegistryError naming those there are."""
    entry = config.providers.get(provider)
    if entry is None:
        known = ", ".join(sorted(config.providers)) or "none"
        raise RegistryError(f"no provider named {provider!r} is configured; there are: {known}")
    return entry


def make_order(
    config: IngestConfig,
    provider: str,
    *,
    symbols: Sequence[str] | None,
    dry_run: bool | None,
    override_params: Mapping[str, Any] | None,
    now_ns: int,
) -> IngestOrder:
    """Return the order that a request amounts to; see `IngestController.start`.

    Raises:
        RegistryError: No such provider is configured.
        ConfigurationError: A guard refuses it.
    """
    entry, write_path = entry_of(config, provider), config.policy.write_path
    limit_s = write_path.max_runtime_seconds
    wanted = entry.symbols if symbols is None else (s.strip().upper() for s in symbols)
    order = IngestOrder(
        provider=provider,
        symbols=tuple(dict.fromkeys(s for s in wanted if s)),
        dry_run=write_path.dry_run if dry_run is None else dry_run,
        override_params=dict(override_params or {}),
        since_ns=now_ns,
        until_ns=now_ns + int(limit_s * NS_PER_SECOND) if limit_s else None,
    )
    check(config, order)
    return order


def check(config: IngestConfig, order: IngestOrder) -> None:
    """Raise RegistryError or ConfigurationError, saying why, if an order may not be begun under this configuration."""
    entry, guards, name = entry_of(config, order.provider), config.policy.guards, order.provider
    if guards.require_provider_enabled and not entry.enabled:
        raise ConfigurationError(f"provider {name!r} is disabled: providers.{name}.enabled is false")
    if guards.require_symbols_nonempty and not order.symbols:
        raise ConfigurationError(
            f"no symbols for provider {name!r}: name some in the request, or in providers.{name}.symbols"
        )
    if guards.max_symbols is not None and len(order.symbols) > guards.max_symbols:
        raise ConfigurationError(
            f"{len(order.symbols)} symbols for provider {name!r}; guards.max_symbols allows {guards.max_symbols}"
        )
    refused = sorted(set(order.override_params) - set(entry.overridable))
    if refused:
        raise ConfigurationError(
            f"override_params of provider {name!r} may not set {', '.join(refused)}; "
            f"providers.{name}.overridable allows: {', '.join(entry.overridable) or 'none'}"
        )


def mode_of(config: IngestConfig, order: IngestOrder) -> Mode:
    """Return what is done with the events of an order."""
    if order.dry_run:
        return "dry_run"
    return "write" if config.policy.write_path.enabled else "write_path_disabled"
