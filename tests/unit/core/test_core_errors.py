from __future__ import annotations

import inspect

import pytest

from market_data_core import errors

ALL = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.MarketDataError) and cls.__module__ == errors.__name__
]
RETRYABLE = {"PacingViolation", "FarmTransient", "ConnectionFailed", "TemporaryUnavailable", "LogFull"}


@pytest.mark.parametrize("cls", ALL)
def test_retryable_says_whether_trying_again_helps(cls):
    """Exactly the passing troubles are retryable."""
    assert cls("x").retryable is (cls.__name__ in RETRYABLE)


@pytest.mark.parametrize("cls", ALL)
def test_error_carries_message_code_and_details(cls):
    """An error has a message, a stable code that defaults to its name, and details of its own."""
    details = {"symbol": "AAPL"}
    error = cls("broke", details=details)
    details["symbol"] = "MSFT"
    assert (str(error), error.message, error.code, error.details) == (
        "broke",
        "broke",
        cls.__name__,
        {"symbol": "AAPL"},
    )
    assert cls("broke", "custom").code == "custom"


@pytest.mark.parametrize("cls", ALL)
def test_only_who_was_told_knows_when_to_retry(cls):
    """Without word from the other side there is no time to retry after."""
    assert cls("x").retry_after_sec is None


def test_pacing_violation_says_when():
    """A pacing violation carries the wait the provider asked for."""
    assert errors.PacingViolation("too fast", retry_after_sec=2.5).retry_after_sec == 2.5


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        ("PacingViolation", "ProviderError"),
        ("FarmTransient", "ProviderError"),
        ("ConnectionFailed", "ProviderError"),
        ("PermissionsMissing", "ProviderError"),
        ("InvalidInstrument", "ProviderError"),
        ("SchemaValidationError", "ValidationError"),
        ("SourceError", "PipelineError"),
        ("TransformError", "PipelineError"),
        ("SinkError", "PipelineError"),
        ("BatcherError", "PipelineError"),
        ("WriterConflict", "SinkError"),
        ("LogFull", "LogError"),
        ("LogLocked", "LogError"),
    ],
)
def test_tree(child, parent):
    """Whoever catches a branch catches what hangs on it."""
    assert issubclass(getattr(errors, child), getattr(errors, parent))


def test_one_tree():
    """Every error of the platform can be caught by one name."""
    with pytest.raises(errors.MarketDataError):
        raise errors.BatcherError("batch 7 has no rows")
