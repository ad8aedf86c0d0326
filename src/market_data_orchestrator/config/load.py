"""Reading the platform's configuration from file, environment and command line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Final

from dotenv import dotenv_values

from market_data_core import plugins
from market_data_core.errors import ConfigurationError, RegistryError
from market_data_orchestrator.config.graph import read_platform_graph
from market_data_orchestrator.config.model import PlatformConfig, ProviderEntry, SinkEntry
from market_data_orchestrator.config.policies import POLICIES, read_duration
from market_data_orchestrator.settings import OrchestratorSettings, load_settings
from market_data_pipeline.dag import ALL_SOURCES
from market_data_pipeline.dag.document import Item, read_text, read_yaml
from market_data_pipeline.dag.parse import NAME, NAME_RULE, text_list
from market_data_pipeline.dag.problems import Problems, nearest
from market_data_pipeline.dag.signatures import fitting, parameter_names, reporter

PACKAGED: Final = "the packaged default"
_LARGEST_BYTES: Final = 1 << 20
_TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECTIONS: Final = ("tenant", "providers", "dag", "sinks", "policies")
_VALIDATION: Final = ("future", "jump")
_PARAM_SETTINGS: Final[Mapping[str, str]] = {
    "host": "provider_host",
    "port": "provider_port",
    "client_id": "provider_client_id",
    "rate": "provider_rate",
}
"""Params of a provider that have settings of the service, which win."""


def packaged_text() -> str:
    """Return the text of the packaged default configuration."""
    return resources.files(__package__).joinpath("platform.yaml").read_text("utf-8")


def load_platform(
    path: Path | str | None = None,
    *,
    settings: OrchestratorSettings | None = None,
    env: Mapping[str, str] | None = None,
) -> PlatformConfig:
    """Read and check the platform's configuration.

    Args:
        path: The file; None for the one that ``ORCH_CONFIG`` names, or the packaged default where there is none.
        settings: As `load_settings` gave them, command line included: what was set there wins over the file. Read
            anew if None.
        env: Variables that ``${NAME}`` may name; those of the process and of ``.env`` if None.

    Raises:
        ConfigurationError: Something is wrong. The message names every error with file, line and key, and no secret;
            ``details["errors"]`` lists them too.
    """
    settings = settings or load_settings()
    variables = _environment() if env is None else env
    found = _found(path, settings)
    problems = Problems()
    default = _sections(packaged_text(), PACKAGED, problems, {})
    if found is None:
        config = _Reader(PACKAGED, default, default, settings, problems).read()
    else:
        text = read_text(_content(found), file=str(found), problems=problems)
        sections = _sections(text, str(found), problems, variables) if text is not None else {}
        config = _Reader(str(found), {**default, **sections}, default, settings, problems).read()
    problems.check(config.source)
    return config


def _environment() -> dict[str, str]:
    # The file .env is read as the settings read it; what the process has wins.
    return {**{k: v for k, v in dotenv_values(".env").items() if v is not None}, **os.environ}


def _found(path: Path | str | None, settings: OrchestratorSettings) -> Path | None:
    if path is not None:
        return Path(path)
    if settings.config.exists() or _is_set(settings, "config"):
        return settings.config
    return None


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if len(content) > _LARGEST_BYTES:
        raise ConfigurationError(f"{path}: is larger than {_LARGEST_BYTES} bytes, which no configuration is")
    return content


def _is_set(settings: OrchestratorSettings, name: str) -> bool:
    # By command line, environment or .env; an empty value is as good as none.
    return name in settings.model_fields_set and getattr(settings, name) not in ("", [], None)


def _sections(text: str, file: str, problems: Problems, env: Mapping[str, str]) -> dict[str, Item]:
    item = read_yaml(text, file=file, problems=problems, env=env)
    if item is None or item.value is None:
        return {}
    return fields(item, problems, "", _SECTIONS)


def fields(
    item: Item | None, problems: Problems, key: str, known: tuple[str, ...] | None = None, node: str = ""
) -> dict[str, Item]:
    """Return the items of a mapping; unknown keys, and what is no mapping, are problems."""
    if item is None or item.value is None:
        return {}
    if not isinstance(item.value, dict):
        problems.add(item.where, "is no mapping of names to values", key=key, node=node)
        return {}
    for name, value in item.value.items():
        if known is not None and name not in known:
            full = f"{key}.{name}" if key else name
            problems.add(value.where, f"this key is unknown; {nearest(name, known)}", key=full, node=node)
    return {name: value for name, value in item.value.items() if known is None or name in known}


class _Reader:
    def __init__(
        self,
        source: str,
        sections: Mapping[str, Item],
        default: Mapping[str, Item],
        settings: OrchestratorSettings,
        problems: Problems,
    ) -> None:
        self._source = source
        self._sections = sections
        self._default = default
        self._settings = settings
        self._problems = problems
        self._is_set: Callable[[str], bool] = partial(_is_set, settings)

    def read(self) -> PlatformConfig:
        providers = self._providers()
        sinks = self._sinks()
        policies, defaults = self._policies()
        root = next((str(s.params["root"]) for s in sinks if s.sink == "store" and "root" in s.params), "")
        if root and not self._is_set("store_url"):
            policies["store_url"] = root
        graph = read_platform_graph(
            self._sections["dag"],
            self._default["dag"],
            bars=self._settings.bars if self._is_set("bars") else None,
            problems=self._problems,
            providers=[provider.name for provider in providers],
            sinks=[sink.name for sink in sinks],
            defaults=defaults,
        )
        return PlatformConfig(
            source=self._source,
            tenant=self._tenant(),
            providers=providers,
            graph=graph,
            sinks=sinks,
            settings=policies,
        )

    def _tenant(self) -> str:
        item = self._sections["tenant"]
        if self._is_set("tenant_id"):
            return self._settings.tenant_id
        if isinstance(item.value, list | dict) or item.value is None or _TENANT.fullmatch(item.text) is None:
            self._problems.add(item.where, "is no name of 1 to 64 letters, digits, _ and -", key="tenant")
        return item.text

    def _entries(self, section: str, known: tuple[str, ...]) -> dict[str, tuple[Item, dict[str, Item]]]:
        found = {}
        for name, item in fields(self._sections[section], self._problems, section).items():
            key = f"{section}.{name}"
            if NAME.fullmatch(name) is None:
                self._problems.add(item.where, f"this name is not allowed: {NAME_RULE}", key=key)
            found[name] = (item, fields(item, self._problems, key, known))
        return found

    def _providers(self) -> tuple[ProviderEntry, ...]:
        entries = self._entries("providers", ("provider", "enabled", "symbols", "params"))
        if ALL_SOURCES in entries:
            self._problems.add(
                entries[ALL_SOURCES][0].where,
                f"{ALL_SOURCES!r} means every provider and names none",
                key=f"providers.{ALL_SOURCES}",
            )
        chosen = self._settings.provider if self._is_set("provider") else None
        if chosen is not None and chosen not in entries:
            entries[chosen] = (Item({}, "ORCH_PROVIDER"), {})
        return tuple(self._provider(name, item, given, chosen) for name, (item, given) in entries.items())

    def _provider(self, name: str, item: Item, given: Mapping[str, Item], chosen: str | None) -> ProviderEntry:
        key = f"providers.{name}"
        enabled = given["enabled"].value if "enabled" in given else True
        if not isinstance(enabled, bool):
            self._problems.add(given["enabled"].where, "is neither true nor false", key=f"{key}.enabled")
            enabled = True
        if chosen is not None:
            enabled = name == chosen
        symbols: list[str] = []
        if "symbols" in given and given["symbols"].value not in (None, []):
            listed = text_list(given["symbols"])
            if listed is None:
                self._problems.add(given["symbols"].where, "is no list of symbols", key=f"{key}.symbols")
            symbols = [symbol.upper() for symbol in listed or ()]
        params, secrets = self._params(key, given.get("params"))
        kind = self._named(key, "provider", given.get("provider"), name)
        first = enabled and (chosen is not None or name == self._first_enabled())
        if first and self._is_set("symbols"):
            symbols = list(self._settings.symbols)
        if enabled:
            # What is not started may be of a provider that is not installed here.
            self._check_params(plugins.PROVIDERS, kind, item, key, given=frozenset({"symbols", "clock"}))
            params |= self._overrides(kind) if first else {}
        return ProviderEntry(
            name=name,
            provider=kind,
            enabled=enabled,
            symbols=tuple(dict.fromkeys(symbols)),
            params=params,
            secrets=secrets,
        )

    def _first_enabled(self) -> str | None:
        section = self._sections["providers"].value
        for name, item in section.items() if isinstance(section, dict) else ():
            enabled = item.value.get("enabled") if isinstance(item.value, dict) else None
            if enabled is None or enabled.value is True:
                return name
        return None

    def _overrides(self, provider: str) -> dict[str, Any]:
        set_ = {param: name for param, name in _PARAM_SETTINGS.items() if self._is_set(name)}
        if not set_ or provider not in plugins.available(plugins.PROVIDERS):
            return {}
        known = parameter_names(plugins.load(plugins.PROVIDERS, provider))
        return {param: getattr(self._settings, name) for param, name in set_.items() if param in known}

    def _sinks(self) -> tuple[SinkEntry, ...]:
        found = []
        for name, (item, given) in self._entries("sinks", ("sink", "params")).items():
            key = f"sinks.{name}"
            params, secrets = self._params(key, given.get("params"))
            kind = self._named(key, "sink", given.get("sink"), name)
            given_by_us = frozenset({"tenant", "clock"}) | (frozenset({"root"}) - params.keys())
            self._check_params(plugins.SINKS, kind, item, key, given=given_by_us)
            found.append(SinkEntry(name=name, sink=kind, params=params, secrets=secrets))
        return tuple(found)

    def _params(self, key: str, item: Item | None) -> tuple[dict[str, Any], tuple[str, ...]]:
        given = fields(item, self._problems, f"{key}.params")
        plain = {name: value.plain() for name, value in given.items()}
        return plain, tuple(sorted(name for name, value in given.items() if value.secret))

    def _named(self, key: str, what: str, item: Item | None, name: str) -> str:
        if item is None:
            return name
        if not isinstance(item.value, str) or not item.value:
            self._problems.add(item.where, f"names no {what}", key=f"{key}.{what}")
            return name
        return item.value

    def _check_params(self, group: str, kind: str, item: Item, key: str, *, given: frozenset[str]) -> None:
        # The params stay plain, so that they can be kept and compared; `given` are names that the platform fills in.
        try:
            made = plugins.load(group, kind)
        except RegistryError as exc:
            self._problems.add(item.where, exc.message, key=key)
            return
        entry = item.value if isinstance(item.value, dict) else {}
        params = fields(entry.get("params"), Problems(), "")
        plain, secrets = self._params(key, entry.get("params"))

        def report(name: str, message: str) -> None:
            where = params[name].where if name in params else item.where
            reporter(self._problems, where, prefix=f"{key}.params.")(name, message)

        fitting(made, plain, report=report, secrets=secrets, given=given)

    def _policies(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        # Returns settings of the service, and params of nodes that do not set them.
        known = ("lateness", "validation", *POLICIES)
        default = fields(self._default["policies"], self._problems, "policies", known)
        given = {**default, **fields(self._sections["policies"], self._problems, "policies", known)}
        found: dict[str, Any] = {}
        for name, policy in POLICIES.items():
            value = self._policy(f"policies.{name}", given[name], policy.read)
            if policy.setting not in self._settings.model_fields_set:
                found[policy.setting] = value
        lateness = self._policy("policies.lateness", given["lateness"], read_duration)
        if self._is_set("bars_lateness"):
            lateness = f"{int(self._settings.bars_lateness * 1e9)}ns"
        checks = {
            **fields(default["validation"], self._problems, "policies.validation", _VALIDATION),
            **fields(given["validation"], self._problems, "policies.validation", _VALIDATION),
        }
        spans = {name: self._policy(f"policies.validation.{name}", i, read_duration) for name, i in checks.items()}
        bars = {"lateness": lateness}
        return found, {"bars": bars, "resample_ohlc": bars, "validate": spans}

    def _policy(self, key: str, item: Item, read: Callable[[Item], Any]) -> Any:
        try:
            return read(item)
        except ConfigurationError as exc:
            self._problems.add(item.where, exc.message, key=key)
            return None
