"""The settings by what they are about."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

import market_data_orchestrator.config as config_module
from market_data_core.errors import ConfigurationError
from market_data_orchestrator.models import security
from market_data_orchestrator.models.groups import SettingsGroup
from market_data_orchestrator.services.federation_directory import StaticDirectory
from market_data_orchestrator.settings import OrchestratorSettings, load_settings

GROUPS = ("runtime", "feedback", "security", "provider_group", "infrastructure")


@pytest.fixture
def settings():
    return OrchestratorSettings(_env_file=None, api_key="sesame-77", symbols=["spy"], feedback_url="redis://h/1")


def test_every_setting_is_in_exactly_one_group(settings):
    """The groups leave nothing out and share nothing."""
    named = []
    for group in GROUPS:
        fields = type(getattr(settings, group)).model_fields
        named += [field.alias or name for name, field in fields.items()]
    assert sorted(named) == sorted(OrchestratorSettings.model_fields)


def test_groups_say_what_the_settings_say(settings):
    """Each value of a group is that of its setting, and cannot be changed."""
    for group in GROUPS:
        view = getattr(settings, group)
        assert isinstance(view, SettingsGroup)
        for name, field in type(view).model_fields.items():
            given = getattr(settings, field.alias or name)
            assert getattr(view, name) == (tuple(given) if isinstance(given, list) else given)
    assert (settings.feedback.url, settings.provider_group.symbols) == ("redis://h/1", ("SPY",))
    with pytest.raises(ValidationError):
        settings.feedback.url = "memory://"
    assert "sesame" not in repr(settings.security)


def test_the_names_users_know_can_be_imported():
    """Where they looked for them before."""
    assert config_module.OrchestratorSettings is OrchestratorSettings
    assert security.SecuritySettings.__name__ == "SecuritySettings"
    assert security.Role("admin").covers(security.Role.VIEWER)
    assert StaticDirectory.__name__ == "StaticDirectory"


@pytest.mark.parametrize("value", ["static", "redis://localhost:6379/2", "rediss://u:p@host/0"])
def test_the_directory_is_static_or_redis(value):
    """These are taken."""
    assert OrchestratorSettings(_env_file=None, federation_directory=value).federation_directory == value


@pytest.mark.parametrize("value", ["", "etcd://x", "redis://", "STATIC"])
def test_no_other_directory_is_taken(value):
    """Anything else is refused by its variable's name."""
    with pytest.raises(ConfigurationError, match="ORCH_FEDERATION_DIRECTORY"):
        load_settings(federation_directory=value)
