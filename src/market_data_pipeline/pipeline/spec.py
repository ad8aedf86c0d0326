"""What a pipeline is made of, as a value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from market_data_core import plugins
from market_data_core.errors import ConfigurationError

OPERATORS: Final = ("bars", "dedupe", "validate")
"""Operators that have a name."""
OWN_SINKS: Final = ("memory", "null", "store")
"""Sinks that have a name without being installed; others are entry points."""

_NAME: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class PipelineSpec:
    """A pipeline's parts, by name or as objects. Without objects it goes to JSON and back.

    Attributes:
        tenant_id: Whose data; letters, digits, ``_``, ``.`` and ``-``.
        pipeline_id: Names the pipeline; of the same letters.
        source: An entry point of ``market_data.providers`` such as ``synthetic`` and ``replay``, or an object.
        source_params: What the named source is made with.
        symbols: Which instruments, upper-cased; None for the source's own choice.
        operator: ``bars``, ``dedupe``, ``validate``, an object, several objects, or None for nothing.
        operator_params: What the named operator is made with: fields of `BarsConfig`, arguments of `Dedupe` or
            `Validate`.
        sink: ``store`` is durable; ``null``, ``memory``, an entry point of ``market_data.sinks`` that has ``write``,
            or an object.
        sink_params: What the named sink is made with.
        duration_sec: How long events are taken in, seconds; None for as long as there are any.
        batch_size: Most values in a batch for the sink. The store decides for itself.
        flush_ms: How long the first value of a batch waits for others, milliseconds; for the store, rows for a commit.
        data_dir: Where the sink ``store`` keeps log, snapshots and lake.

    Raises:
        ConfigurationError: A field is wrong; the message names it and says what is allowed.
    """

    tenant_id: str
    pipeline_id: str
    source: Any = "synthetic"
    source_params: Mapping[str, Any] = field(default_factory=dict)
    symbols: Sequence[str] | None = None
    operator: Any = "bars"
    operator_params: Mapping[str, Any] = field(default_factory=dict)
    sink: Any = "store"
    sink_params: Mapping[str, Any] = field(default_factory=dict)
    duration_sec: float | None = None
    batch_size: int = 500
    flush_ms: float = 1000
    data_dir: Path = Path("data")

    def __post_init__(self) -> None:
        for name in ("tenant_id", "pipeline_id"):
            value = getattr(self, name)
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                raise _wrong(name, value, "1 to 64 letters, digits, _, . and -")
        _check_number("duration_sec", self.duration_sec, above=0)
        _check_number("batch_size", self.batch_size, least=1, whole=True)
        _check_number("flush_ms", self.flush_ms, least=0)
        if not isinstance(self.data_dir, str | Path) or not str(self.data_dir):
            raise _wrong("data_dir", self.data_dir, "a folder")
        self._put("data_dir", Path(self.data_dir))
        self._put("symbols", _symbols(self.symbols))
        self._check_named("source", list(plugins.available(plugins.PROVIDERS)))
        self._check_named("operator", [*OPERATORS, "None"])
        self._check_named("sink", sorted({*OWN_SINKS, *plugins.available(plugins.SINKS)}))

    def _put(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # frozen from here on

    def _check_named(self, name: str, known: list[str]) -> None:
        part, params = getattr(self, name), getattr(self, f"{name}_params")
        if not isinstance(params, Mapping):
            raise _wrong(f"{name}_params", params, "a mapping of names to values")
        if isinstance(part, str):
            if part not in known:
                raise _wrong(name, part, f"an object, or one of {', '.join(known)}")
            self._put(f"{name}_params", {str(key): _plain(value) for key, value in params.items()})
        elif params:
            raise ConfigurationError(
                f"{name}_params: {', '.join(params)} given for {name} {part!r}, which has no name to be made by"
            )

    def to_json(self) -> str:
        """Return the specification as JSON.

        Raises:
            ConfigurationError: A part is an object, or a parameter no plain value; names the field.
        """
        content: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            content[f.name] = str(value) if isinstance(value, Path) else value
            try:
                json.dumps(content[f.name], allow_nan=False)
            except (TypeError, ValueError) as exc:
                raise ConfigurationError(f"{f.name}: {value!r} cannot be written as JSON: {exc}") from exc
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> PipelineSpec:
        """Return the specification of `to_json`; fields left out have their defaults.

        Raises:
            ConfigurationError: It is no JSON object, or a field is unknown, missing or wrong.
        """
        try:
            content = json.loads(text)
        except ValueError as exc:
            raise ConfigurationError(f"pipeline specification is no JSON: {exc}") from exc
        if not isinstance(content, dict):
            raise ConfigurationError(f"pipeline specification is no JSON object but {type(content).__name__}")
        known = {f.name for f in fields(cls)}
        for name in content.keys() - known:
            raise ConfigurationError(f"{name}: no field of a pipeline; there are: {', '.join(sorted(known))}")
        for name in ("tenant_id", "pipeline_id"):
            if name not in content:
                raise ConfigurationError(f"{name}: missing in the pipeline specification")
        return cls(**content)


def _wrong(name: str, value: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {value!r} is not allowed; it is {allowed}")


def _check_number(
    name: str, value: Any, *, least: float | None = None, above: float | None = None, whole: bool = False
) -> None:
    if value is None and name == "duration_sec":
        return
    kinds = int if whole else int | float
    text = f"{'a whole' if whole else 'a'} number {f'from {least} up' if least is not None else f'above {above}'}"
    if isinstance(value, bool) or not isinstance(value, kinds) or not value < float("inf"):
        raise _wrong(name, value, text)
    if (least is not None and value < least) or (above is not None and value <= above):
        raise _wrong(name, value, text)


def _symbols(symbols: Any) -> tuple[str, ...] | None:
    if symbols is None:
        return None
    if isinstance(symbols, str) or not isinstance(symbols, Sequence):
        raise _wrong("symbols", symbols, "a list of tickers, or None")
    named = tuple(s.strip().upper() if isinstance(s, str) else "" for s in symbols)
    if not named or not all(named):
        raise _wrong("symbols", list(symbols), "a list of at least one ticker, or None")
    return named


# As JSON gives it back, so that a specification equals its copy.
def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value
