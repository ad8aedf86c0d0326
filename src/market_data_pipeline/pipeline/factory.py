"""From a specification to a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from market_data_core import plugins
from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError, RegistryError
from market_data_core.protocols import BatchSource, Sink
from market_data_pipeline.operators import Dedupe, Validate
from market_data_pipeline.pipeline.batcher import Batcher
from market_data_pipeline.pipeline.chain import Steps
from market_data_pipeline.pipeline.context import PipelineContext
from market_data_pipeline.pipeline.spec import PipelineSpec
from market_data_pipeline.pipeline.stored import StoredPipeline, StoredSettings
from market_data_pipeline.pipeline.streaming import StreamingPipeline
from market_data_pipeline.pipelines import BarsConfig, bars
from market_data_pipeline.sinks import MemorySink, NullSink

Pipeline = StoredPipeline | StreamingPipeline
"""What `create_pipeline` returns: both have ``run``, ``start``, ``wait``, ``stop``, ``events``, ``ledger``, ``result``
and ``is_running``."""

_PARTS: Final = ("source", "operator", "sink")


def create_pipeline(
    *,
    tenant_id: str,
    pipeline_id: str,
    source: Any = "synthetic",
    symbols: Any = None,
    operator: Any = "bars",
    sink: Any = "store",
    duration_sec: float | None = None,
    batch_size: int = 500,
    flush_ms: float = 1000,
    data_dir: str | Path = Path("data"),
    clock: Clock | None = None,
    **params: Any,
) -> Pipeline:
    """Make a pipeline; `await run()` runs it.

    What a named part is made with is given as ``source_<name>``, ``operator_<name>`` and ``sink_<name>``:
    ``source_rate=1000``, ``source_paths=[...]``, ``operator_interval="1s"``.

    Args:
        tenant_id: Whose data.
        pipeline_id: Names the pipeline.
        source: ``synthetic``, ``replay``, another installed provider, or an object.
        symbols: Which instruments; None for the source's own choice.
        operator: ``bars``, ``dedupe``, ``validate``, an object (`Transform` or engine operator), a list, or None.
        sink: ``store``, which is durable, ``null``, ``memory``, another installed sink, or an object. The store takes
            ``bars``, ``validate`` and None as operators, and keeps raw events with each of them.
        duration_sec: How long events are taken in; None for as long as there are any.
        batch_size: Most values in a batch for the sink; the store decides for itself.
        flush_ms: How long a batch waits to be full, milliseconds.
        data_dir: Where the sink ``store`` keeps everything.
        clock: Times durations and batches, and the synthetic source outside the store.
        params: As above.

    Raises:
        ConfigurationError: An argument is unknown or wrong; names it and what is allowed.
    """
    parts: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    for name, value in params.items():
        part, _, rest = name.partition("_")
        if part not in parts or not rest:
            own = [p for p in inspect.signature(create_pipeline).parameters if p != "params"]
            raise ConfigurationError(
                f"{name}: no parameter of create_pipeline; there are {', '.join(own)}, and source_*, operator_* and "
                "sink_* for what these parts are made with"
            )
        parts[part][rest] = value
    spec = PipelineSpec(
        tenant_id=tenant_id,
        pipeline_id=pipeline_id,
        source=source,
        source_params=parts["source"],
        symbols=symbols,
        operator=operator,
        operator_params=parts["operator"],
        sink=sink,
        sink_params=parts["sink"],
        duration_sec=duration_sec,
        batch_size=batch_size,
        flush_ms=flush_ms,
        data_dir=Path(data_dir),
    )
    return build_pipeline(spec, clock=clock)


def build_pipeline(spec: PipelineSpec, *, clock: Clock | None = None) -> Pipeline:
    """Make the pipeline that a specification describes.

    Raises:
        ConfigurationError: A part does not take what it is given; names the field and what is allowed.
    """
    ctx = PipelineContext(tenant_id=spec.tenant_id, pipeline_id=spec.pipeline_id, clock=clock or SystemClock())
    if isinstance(spec.sink, str) and spec.sink == "store":
        return _stored(spec, ctx)
    return _streaming(spec, ctx, _source(spec, clock), _sink(spec))


def _streaming(spec: PipelineSpec, ctx: PipelineContext, source: Any, sink: Sink[Any]) -> StreamingPipeline:
    return StreamingPipeline(
        source=source,
        operator=_steps(spec),
        batcher=Batcher(max_rows=spec.batch_size, max_ms=spec.flush_ms),
        sink=sink,
        ctx=ctx,
        duration_sec=spec.duration_sec,
    )


def _stored(spec: PipelineSpec, ctx: PipelineContext) -> StoredPipeline:
    if spec.sink_params:
        raise ConfigurationError(f"sink_params: {', '.join(spec.sink_params)}; the store is placed by data_dir alone")
    if spec.operator not in ("bars", "validate", None):
        raise ConfigurationError(
            f"operator: {spec.operator!r} cannot be run with sink 'store'; it takes bars, validate and None "
            "(bars without doubled trades: operator_dedupe=True). Other sinks take any operator"
        )
    made = (_bars_config(spec),) if spec.operator == "bars" else ()
    if spec.operator == "validate" and spec.operator_params:
        raise ConfigurationError(
            f"operator_params: {', '.join(spec.operator_params)}; with sink 'store', validate takes none"
        )
    # Read on the event loop of capture, by the system's clock: the caller's belongs to the caller's loop.
    source = _source(spec, None)
    if not isinstance(source, BatchSource):
        raise ConfigurationError(f"source: {source!r} gives no batches (BatchSource), which the sink 'store' needs")
    return StoredPipeline(
        source=source,
        settings=StoredSettings(data_dir=spec.data_dir, bars=made, flush_ms=spec.flush_ms),
        ctx=ctx,
        duration_sec=spec.duration_sec,
        view=lambda: _streaming(spec, ctx, _source(spec, ctx.clock), NullSink()),
    )


def _source(spec: PipelineSpec, clock: Clock | None) -> Any:
    if not isinstance(spec.source, str):
        if spec.symbols is not None:
            raise ConfigurationError(f"symbols: {', '.join(spec.symbols)}; a source that is an object has its own")
        return spec.source
    given = dict(spec.source_params)
    made = _load("source", plugins.PROVIDERS, spec.source)
    if spec.symbols is not None:
        given["symbols"] = spec.symbols
    if clock is not None and "clock" in inspect.signature(made).parameters:
        given.setdefault("clock", clock)
    return _made("source", spec.source, made, given)


def _sink(spec: PipelineSpec) -> Sink[Any]:
    if not isinstance(spec.sink, str):
        sink: Sink[Any] = spec.sink
        return sink
    own: dict[str, type] = {"null": NullSink, "memory": MemorySink}
    made = own.get(spec.sink) or _load("sink", plugins.SINKS, spec.sink)
    if not all(hasattr(made, method) for method in ("write", "flush", "close")):
        raise ConfigurationError(f"sink: {spec.sink!r} has no write(), flush() and close()")
    found: Sink[Any] = _made("sink", spec.sink, made, spec.sink_params)
    return found


def _steps(spec: PipelineSpec) -> Steps:
    operator = spec.operator
    if operator == "bars":
        consumer = bars(_bars_config(spec), history=None)
        return Steps(operators=tuple(consumer.operators()), kinds=consumer.kinds, out_kinds=frozenset(consumer.routes))
    if operator == "validate":
        return Steps(operators=(_made("operator", operator, Validate, spec.operator_params),))
    if operator == "dedupe":
        return Steps(operators=(Validate(), _made("operator", operator, Dedupe, spec.operator_params)))
    if operator is None:
        return Steps()
    return Steps.of(list(operator) if isinstance(operator, list | tuple) else [operator])


def _bars_config(spec: PipelineSpec) -> BarsConfig:
    config: BarsConfig = _made("operator", "bars", BarsConfig, spec.operator_params)
    # Says now what is wrong with interval, price type or alignment, not in the middle of a run.
    bars(config, history=None).operators()
    return config


def _load(part: str, group: str, name: str) -> type:
    try:
        return plugins.load(group, name)
    except RegistryError as exc:
        raise ConfigurationError(f"{part}: {exc}") from exc


def _made(part: str, name: str, made: Callable[..., Any], params: Mapping[str, Any]) -> Any:
    signature = inspect.signature(made)
    takes = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    unknown = [] if open_ended else [p for p in params if p not in takes]
    if unknown:
        written = ", ".join(f"{part}_{p}" for p in takes if p != "symbols")
        raise ConfigurationError(
            f"{part}_{unknown[0]}: {part} {name!r} takes no {unknown[0]}; it takes {written or 'nothing'}"
        )
    try:
        return made(**params)
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"{part}: {name!r} cannot be made with {dict(params)!r}: {exc}") from exc
