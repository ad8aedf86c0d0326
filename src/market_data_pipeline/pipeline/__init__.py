"""Pipelines for users: a source, operators and a sink, from Python."""

from market_data_pipeline.pipeline.batcher import Batcher
from market_data_pipeline.pipeline.chain import Failure
from market_data_pipeline.pipeline.context import PipelineContext
from market_data_pipeline.pipeline.delivery import RetryPolicy
from market_data_pipeline.pipeline.factory import Pipeline, build_pipeline, create_pipeline
from market_data_pipeline.pipeline.result import PipelineResult
from market_data_pipeline.pipeline.spec import PipelineSpec
from market_data_pipeline.pipeline.stored import StoredPipeline
from market_data_pipeline.pipeline.streaming import StreamingPipeline
from market_data_pipeline.sinks import MemorySink, NullSink

__all__ = [
    "Batcher",
    "Failure",
    "MemorySink",
    "NullSink",
    "Pipeline",
    "PipelineContext",
    "PipelineResult",
    "PipelineSpec",
    "RetryPolicy",
    "StoredPipeline",
    "StreamingPipeline",
    "build_pipeline",
    "create_pipeline",
]
