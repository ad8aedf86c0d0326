"""The page on compatibility says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from market_data_core.settings import WebSocketSettings
from market_data_core.web.ratelimit import RateLimits, control_rules
from market_data_orchestrator.settings import OrchestratorSettings

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "reference"


def rows(heading):
    """The rows of the table below a heading, without its head; code marks are taken off."""
    text = (FOLDER / "compatibility.md").read_text("utf-8")
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def example():
    lines = (FOLDER / "published.env").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line)


def default_of(variable):
    """What holds where the variable is not set, as it would be written."""
    if variable == "WS_MAX_MESSAGES_PER_SECOND":
        return f"{WebSocketSettings().max_messages_per_s:g}"
    field = OrchestratorSettings.model_fields[variable.removeprefix("ORCH_").lower()]
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value)


@pytest.mark.parametrize("row", [r for r in rows("Defaults that differ") if r[0] != "REGISTRY_URL"], ids=lambda r: r[0])
def test_each_default_is_that_of_the_code(row):
    """And every row says why it differs."""
    variable, published, ours, why = row
    assert default_of(variable) == ("" if ours == "empty" else ours)
    assert published
    assert why.endswith(".")


def test_no_registry_is_called_unasked():
    """No package carries the address of a registry."""
    assert ["REGISTRY_URL", "empty"] in [[r[0], r[2]] for r in rows("Defaults that differ")]
    sources = (FOLDER.parents[1] / "src").rglob("*.py")
    naming = [
        p for p in sources if re.search(r"registry_url\w*\s*[:=].*https?://", p.read_text("utf-8"), re.IGNORECASE)
    ]
    assert naming == []


def test_the_example_is_listed_whole():
    """Every variable of the published example, with what it says there and what holds without it."""
    listed = {variable: (said, ours) for variable, said, ours in rows("The published example")}
    assert {variable: said for variable, (said, _) in listed.items()} == example()
    for variable, (_, ours) in listed.items():
        assert default_of(variable) == ("" if ours == "empty" else ours), variable


def test_the_example_is_understood(tmp_path, monkeypatch):
    """Every name of it is a setting, and every value is taken from a file as it stands."""
    for variable in example():
        monkeypatch.delenv(variable, raising=False)
    settings = OrchestratorSettings(_env_file=FOLDER / "published.env")
    assert settings.model_fields_set == {variable.removeprefix("ORCH_").lower() for variable in example()}
    assert settings.federation_peers == ["http://orchestrator-us:8080", "http://orchestrator-eu:8080"]


async def test_limits_are_per_action_and_actor():
    """One operator cannot lock out another."""
    limits = RateLimits("", control_rules(["pause"], max_per_minute=1))
    decisions = [await limits.hit("pause", actor) for actor in ("ann", "bob", "ann")]
    assert [d.allowed for d in decisions] == [True, True, False]
