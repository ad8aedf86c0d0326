"""What is wrong with a configuration: everything at once, each with its place, and no secret in any of it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from market_data_core.addresses import without_password
from market_data_core.errors import ConfigurationError

MASK: Final = "***"
"""What is shown in place of a secret."""

_PASSWORD: Final = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
_SECRET_NAME: Final = re.compile(r"key|secret|token|password", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: ``file:line``, or the path in a Python value.
        node: The node it is about; empty for none.
        key: The parameter or key; empty for none.
        message: What is wrong and what is allowed.
    """

    where: str
    node: str = ""
    key: str = ""
    message: str

    def __str__(self) -> str:
        parts = [self.where, f"node {self.node!r}" if self.node else "", self.key, self.message]
        return ": ".join(part for part in parts if part)


class Problems:
    """Collects problems; secrets it is told of are masked in every message."""

    def __init__(self) -> None:
        self.found: list[Problem] = []
        self._secrets: set[str] = set()

    def __len__(self) -> int:
        return len(self.found)

    def hide(self, values: Iterable[Any]) -> None:
        """Mask these values, and all that lies in them, from now on."""
        for value in values:
            for leaf in _leaves(value):
                # A message may carry a value as Python writes it.
                self._secrets.update({str(leaf), repr(leaf)[1:-1] if isinstance(leaf, str) else repr(leaf)})
        self._secrets.discard("")

    def add(self, where: str, message: str, *, node: str = "", key: str = "") -> None:
        """Note a problem."""
        problem = Problem(where=where, node=node, key=key, message=self._masked(message))
        if problem not in self.found:
            self.found.append(problem)

    def _masked(self, message: str) -> str:
        message = _without_password(message)
        # The longest first, so that a secret within another does not leave the other's rest behind.
        for secret in sorted(self._secrets, key=len, reverse=True):
            pattern = re.escape(secret)
            # One or two characters are in every message: they are masked where they stand alone.
            pattern = pattern if len(secret) > 2 else rf"(?<!\w){pattern}(?!\w)"
            message = re.sub(pattern, lambda _: MASK, message, flags=re.IGNORECASE)
        return message

    def check(self, what: str) -> None:
        """Raise if there is any problem.

        Args:
            what: Names what was read, for the message.

        Raises:
            ConfigurationError: There is; ``details["errors"]`` lists them all with where, node, key and message.
        """
        if not self.found:
            return
        found = sorted(self.found, key=_line)
        lines = [str(problem) for problem in found]
        text = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} errors in {what}:", *lines])
        raise ConfigurationError(text, details={"errors": [asdict(problem) for problem in found]})


def _line(problem: Problem) -> tuple[str, int]:
    # As one reads a file from the top; places in Python values have no lines and stay as they were found.
    file, _, line = problem.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else ("", 0)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    # True, False and None tell nothing, and would be masked in every other sentence.
    elif value is not None and not isinstance(value, bool):
        yield value


def is_secret_name(name: str) -> bool:
    """Say whether values under this name are secrets: it contains key, secret, token or password."""
    return _SECRET_NAME.search(name) is not None


def masked(params: Mapping[str, Any], secrets: Iterable[str] = ()) -> dict[str, Any]:
    """Return a copy with `MASK` in place of what is secret, by its name at any depth or by being in `secrets`."""
    hidden = set(secrets)
    return {name: MASK if name in hidden else _masked_value(name, value) for name, value in params.items()}


def secret_values(params: Mapping[str, Any], secrets: Iterable[str] = ()) -> Iterator[Any]:
    """Give the values that `masked` masks."""
    hidden = set(secrets)
    for name, value in params.items():
        if name in hidden or is_secret_name(name):
            yield value
        elif isinstance(value, Mapping):
            yield from secret_values(value)
        elif isinstance(value, list | tuple):
            yield from secret_values({str(i): v for i, v in enumerate(value)})


def _masked_value(name: str, value: Any) -> Any:
    if value is not None and is_secret_name(name):
        return MASK
    if isinstance(value, Mapping):
        return masked(value)
    if isinstance(value, str):
        return without_password(value)
    return [_masked_value("", v) for v in value] if isinstance(value, list | tuple) else value


def _without_password(text: str) -> str:
    # An address may carry one: scheme://user:password@host.
    return _PASSWORD.sub(rf"\1{MASK}@", text)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names what `name` may have meant, or all there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are: {', '.join(names)}" if names else "there are none"
