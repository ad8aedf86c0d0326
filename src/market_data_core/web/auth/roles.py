"""Roles, and callers who have one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from market_data_core.errors import ConfigurationError


class Role(StrEnum):
    """What a caller may do; each role may do all that those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """May this role do what needs `needed`?"""
        order = tuple(Role)
        return order.index(self) >= order.index(needed)

    @classmethod
    def named(cls, name: str) -> Role:
        """Return the role of that name, or raise ConfigurationError naming the roles there are."""
        try:
            return cls(name)
        except ValueError:
            raise ConfigurationError(f"{name!r} is no role; there are: {', '.join(cls)}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller who has shown who they are.

    Attributes:
        name: Names the caller in audit and limits; never a secret.
        role: What they may do.
    """

    name: str
    role: Role
