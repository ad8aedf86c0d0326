"""The reference lists as guarded what is guarded."""

from __future__ import annotations

import importlib.util
import sys

import httpx
import pytest
from docs_pages import ROOT

from market_data_orchestrator.app import create_app
from market_data_orchestrator.service import Service
from market_data_orchestrator.settings import OrchestratorSettings


@pytest.fixture(scope="module")
def access():
    spec = importlib.util.spec_from_file_location("reference_access", ROOT / "scripts" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module.ACCESS
    del sys.modules[spec.name]


async def test_whoever_has_no_key_is_refused_where_the_reference_says_so(access):
    """Every route of the interface's description but the open ones answers 401, and each is listed with its role."""
    app = create_app(Service(OrchestratorSettings.model_construct()))
    paths = app.openapi()["paths"]
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answers = {
            path: (await client.request(method, path)).status_code
            for path, operations in paths.items()
            for method in operations
        }
    assert {path for path, status in answers.items() if status == 401} == {
        p for p in access if not p.startswith("/ws/")
    }
