"""Pipelines: sources, the log, operators and the consumers that run them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from market_data_core import __version__

if TYPE_CHECKING:
    from market_data_pipeline.pipeline import (
        Batcher,
        MemorySink,
        NullSink,
        PipelineContext,
        PipelineResult,
        PipelineSpec,
        RetryPolicy,
        StreamingPipeline,
        build_pipeline,
        create_pipeline,
    )

__all__ = [
    "Batcher",
    "MemorySink",
    "NullSink",
    "PipelineContext",
    "PipelineResult",
    "PipelineSpec",
    "RetryPolicy",
    "StreamingPipeline",
    "__version__",
    "build_pipeline",
    "create_pipeline",
]


# The engine and what it needs are loaded when the first of these is asked for: a worker or a source needs none of it.
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.pipeline"), name)
