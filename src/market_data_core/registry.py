"""What providers and sinks say of themselves.

A specification names a class and what it can do; nothing is imported until it is asked for.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RegistryModel(BaseModel):
    """Base of the values of this module: frozen, and strict about names, since people write them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Capability(RegistryModel):
    """One thing a provider can do.

    Attributes:
        name: Such as ``stream_quotes``.
        params: Limits and options of it by name.
    """

    name: str = Field(min_length=1)
    params: dict[str, str] = Field(default_factory=dict)


class ProviderSpec(RegistryModel):
    """Where a provider's class is and what it can do.

    Attributes:
        name: The name it is registered under.
        module: Import path of its module.
        entry: Name of the class in the module.
        capabilities: What it can do.
    """

    name: str = Field(min_length=1)
    module: str = Field(min_length=1)
    entry: str = Field(min_length=1)
    capabilities: list[Capability] = Field(default_factory=list)


class SinkSpec(RegistryModel):
    """Where a sink's class is and what it takes.

    Attributes:
        name: The name it is registered under.
        module: Import path of its module.
        entry: Name of the class in the module.
        kind: The kind of data it takes, such as ``bars``.
    """

    name: str = Field(min_length=1)
    module: str = Field(min_length=1)
    entry: str = Field(min_length=1)
    kind: str = Field(min_length=1)
