"""Every line that is logged while a request is served carries the request's id."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest
from kit_world import ADMIN, container_in, running

from market_data_orchestrator.logs import JsonFormatter, TextFormatter


@pytest.fixture
def logged():
    """What is logged, in both forms."""
    streams = [(io.StringIO(), JsonFormatter()), (io.StringIO(), TextFormatter())]
    handlers = []
    for stream, formatter in streams:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        handlers.append(handler)
    logger = logging.getLogger("market_data_orchestrator")
    before = logger.level
    logger.setLevel(logging.INFO)
    for handler in handlers:
        logger.addHandler(handler)
    yield tuple(stream for stream, _ in streams)
    logger.setLevel(before)
    for handler in handlers:
        logger.removeHandler(handler)


async def test_lines_of_a_request_carry_its_id(tmp_path, logged):
    """Those written in its threads too; others carry none."""
    container = container_in(tmp_path)
    async with running(container) as client:
        headers = {"X-API-Key": ADMIN, "X-Request-ID": "desk-7"}
        assert (await client.post("/control/reload", headers=headers)).status_code == 200
    lines = [json.loads(line) for line in logged[0].getvalue().splitlines()]
    assert all(line.keys() == {"timestamp", "level", "logger", "message", "extra"} for line in lines)
    of_request = [line["message"] for line in lines if line["extra"].get("request_id") == "desk-7"]
    assert any(message.startswith("reload by configured-key: ok") for message in of_request)
    assert any(message.startswith("configuration ") for message in of_request)
    texts = logged[1].getvalue().splitlines()
    assert len(texts) == len(lines)
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[[A-Z]+\] [\w.]+: .", text) for text in texts)
    assert [t.endswith(" request_id=desk-7") for t in texts] == [bool(x["extra"].get("request_id")) for x in lines]


def test_the_shapes_of_lines():
    """What others parse: JSON with its five keys, text as it always was."""
    record = logging.LogRecord("some.logger", logging.INFO, __file__, 1, "said %s", ("so",), None)
    record.created = 1_760_711_400.0
    record.table = "bars"
    assert TextFormatter().format(record) == "2025-10-17 14:30:00 [INFO] some.logger: said so"
    assert json.loads(JsonFormatter().format(record)) == {
        "timestamp": "2025-10-17T14:30:00+00:00",
        "level": "INFO",
        "logger": "some.logger",
        "message": "said so",
        "extra": {"table": "bars"},
    }
