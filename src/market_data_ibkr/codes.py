"""What the gateway's codes mean for us, in one table."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from market_data_core.errors import InvalidInstrument, PacingViolation, PermissionsMissing, ProviderError

IDENTICAL_WAIT_S: Final = 15.0
"""How long the same historical request may not be repeated; also how long to wait after a pacing violation."""


class Reaction(StrEnum):
    """What is done about a code."""

    LINK_LOST = "link_lost"
    LINK_BACK_EMPTY = "link_back_empty"
    LINK_BACK = "link_back"
    FARM_DOWN = "farm_down"
    FARM_UP = "farm_up"
    ADVISORY = "advisory"
    RACE = "race"
    RESUBSCRIBE = "resubscribe"
    RETRY_LATER = "retry_later"
    TICK_LIMIT = "tick_limit"
    CLIENT_ID = "client_id"
    REFUSED = "refused"


REACTIONS: Final[dict[int, Reaction]] = {
    1100: Reaction.LINK_LOST,
    2110: Reaction.LINK_LOST,
    1101: Reaction.LINK_BACK_EMPTY,
    1102: Reaction.LINK_BACK,
    # Farms of historical data (2105) and of definitions (2157) carry no stream: their requests fail by themselves.
    2103: Reaction.FARM_DOWN,
    2104: Reaction.FARM_UP,
    # Ticks follow these: delayed instead of live, or a part of what was asked for.
    10090: Reaction.ADVISORY,
    10091: Reaction.ADVISORY,
    10167: Reaction.ADVISORY,
    # The answer to a cancel that crossed with the end of what it cancelled.
    300: Reaction.RACE,
    310: Reaction.RACE,
    366: Reaction.RACE,
    316: Reaction.RESUBSCRIBE,
    10182: Reaction.RESUBSCRIBE,
    10225: Reaction.RESUBSCRIBE,
    317: Reaction.ADVISORY,
    # Somebody else is logged in as the same user, or too much was asked at once; it passes.
    420: Reaction.RETRY_LATER,
    10197: Reaction.RETRY_LATER,
    10190: Reaction.TICK_LIMIT,
    326: Reaction.CLIENT_ID,
}

_ADVISORIES: Final = range(2100, 2200)
_NOT_ENTITLED: Final = frozenset({354, 10089, 10168, 10186})
_UNKNOWN_CONTRACT: Final = 200
_HISTORY: Final = 162
_TOO_FAST: Final = frozenset({100, 420})


def reaction(code: int) -> Reaction:
    """Return what is done about a code; one that is not in the table refuses the request it comes with."""
    return REACTIONS.get(code, Reaction.ADVISORY if code in _ADVISORIES else Reaction.REFUSED)


def is_no_data(code: int, text: str) -> bool:
    """Return whether a code says only that there is nothing in the time asked for."""
    return code == _HISTORY and "no data" in text.lower()


def error_for(code: int, text: str, what: str) -> ProviderError:
    """Return the error that a code is for whoever asked.

    Args:
        code: The gateway's.
        text: What it said.
        what: What was asked for.
    """
    message = f"{what}: the gateway answered {code}: {text}"
    name = f"IBKR_{code}"
    if code in _NOT_ENTITLED:
        return PermissionsMissing(message, name)
    if code == _UNKNOWN_CONTRACT:
        return InvalidInstrument(message, name)
    if code in _TOO_FAST or (code == _HISTORY and "pacing" in text.lower()):
        return PacingViolation(message, name, retry_after_sec=IDENTICAL_WAIT_S)
    return ProviderError(message, name)
