"""Several providers as one, within their budgets, and pipelines side by side."""

from market_data_pipeline.breaker import CircuitBreaker, CircuitBreakerOpen, CircuitState
from market_data_pipeline.orchestration.buses import feedback_bus
from market_data_pipeline.orchestration.feedback import FeedbackBus, MemoryBus, Subscription
from market_data_pipeline.orchestration.members import SourceHealth
from market_data_pipeline.orchestration.rates import ALL_SCOPES, Budget, RateCoordinator
from market_data_pipeline.orchestration.registry import SourceRegistry
from market_data_pipeline.orchestration.router import SourceRouter
from market_data_pipeline.orchestration.runtime import PipelineRuntime, PipelineStatus
from market_data_pipeline.orchestration.settings import (
    PacingFigures,
    PipelineRuntimeSettings,
    PipelineSettings,
    ProviderSettings,
)
from market_data_pipeline.orchestration.unified import UnifiedRuntime
from market_data_pipeline.writing.policy import Backoff

__all__ = [
    "ALL_SCOPES",
    "Backoff",
    "Budget",
    "CircuitBreaker",
    "CircuitBreakerOpen",
    "CircuitState",
    "FeedbackBus",
    "MemoryBus",
    "PacingFigures",
    "PipelineRuntime",
    "PipelineRuntimeSettings",
    "PipelineSettings",
    "PipelineStatus",
    "ProviderSettings",
    "RateCoordinator",
    "SourceHealth",
    "SourceRegistry",
    "SourceRouter",
    "Subscription",
    "UnifiedRuntime",
    "feedback_bus",
]
