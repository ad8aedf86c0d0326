"""Every operation of the OpenAPI document, asked with what fits it and what does not, answers as the document says."""

from __future__ import annotations

import warnings
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from market_data_core.web.auth import FIRST_KEY_FILE
from support.service import RunningService

with warnings.catch_warnings():
    # It speaks of its own dependencies where it is imported.
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 12


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Not limited, so that what is behind the limits is reached."""
    data = tmp_path_factory.mktemp("fuzz") / "data"
    with RunningService(data, PROVIDER_RATE="100", RATE_LIMIT_ENABLED="false", DRAIN_SEC="2") as running:
        running.wait_healthy()
        yield running


def problems_of(operation, headers, modes):
    """Ask one operation with drawn requests; return what was wrong, each kind once."""
    found = {}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=modes))
    def ask(case):
        answer = case.call(headers=headers, timeout=20)
        try:
            case.validate_response(answer, checks=CHECKS, headers=headers)
        except FailureGroup as group:
            for failure in group.exceptions:
                said = f"{case.as_curl_command()}\n{failure}\n{answer.text[:500]}"
                found.setdefault((type(failure).__name__, answer.status_code), said)

    # What takes nothing cannot be given anything wrong.
    with suppress(Unsatisfiable):
        ask()
    return [f"{operation.label}: {kind} {status}\n{text}" for (kind, status), text in found.items()]


def test_no_request_is_answered_otherwise_than_documented(service):
    """As an admin: no 5xx, no undocumented status, type of content, header or body."""
    document = service.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=service.url)
    headers = {"X-API-Key": (service.data_dir / FIRST_KEY_FILE).read_text().strip()}
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 19
    problems = []
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            problems += problems_of(operation, headers, mode)
    assert not problems, "\n\n".join(problems)
    # Whatever was asked, it is well.
    assert service.get("/livez").status_code == 200
    assert "Traceback" not in service.output()
