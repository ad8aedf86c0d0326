"""Configuration text as values that know where they stand.

YAML is read as its version 1.2 has it: only ``true`` and ``false`` are booleans, so that the tickers ON, NO and Y are
text. Tags and merge keys are not read. ``${NAME}`` in a value stands for a variable of the environment, ``${NAME:-x}``
for x where it is not set or empty, and ``$${`` for ``${`` itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from market_data_pipeline.dag.problems import Problems, is_secret_name

Scalar = str | int | float | bool | None
_MOST_ITEMS: Final = 100_000  # aliases of aliases grow without bound
_MOST_DEPTH: Final = 50
_INT: Final = re.compile(r"[-+]?[0-9]{1,30}|0x[0-9a-fA-F]{1,24}|0o[0-7]{1,30}")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_VARIABLE: Final = re.compile(r"\$(\$)?\{([^{}]*)\}")
_QUOTED: Final = re.compile(r"'[^']+'|\"[^\"]+\"")
_NAME: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Item:
    """A value and where it stands.

    Attributes:
        value: A scalar, a list of items, or items by key.
        where: ``file:line`` of its key, or of itself in a list.
        text: A scalar as it was written.
        secret: True if it, or anything in it, came from the environment.
    """

    value: Scalar | list[Item] | dict[str, Item]
    where: str
    text: str = ""
    secret: bool = False

    def plain(self) -> Any:
        """Return the value without its places."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return [item.plain() for item in self.value] if isinstance(self.value, list) else self.value


def read_yaml(text: str, *, file: str, problems: Problems, env: Mapping[str, str]) -> Item | None:
    """Read one YAML document.

    Args:
        text: What to read.
        file: Its name in places.
        problems: Where everything that is wrong goes.
        env: Variables that ``${NAME}`` may name.

    Returns:
        Its value; None where it cannot be read at all.
    """
    try:
        node = _Loader(text).get_single_node()
        if node is None:
            return Item(None, f"{file}:1")
        return _Reader(file, problems, env).item(node, f"{file}:{node.start_mark.line + 1}", "")
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        problems.add(f"{file}:{mark.line + 1 if mark else 1}", _explained(exc))
    except yaml.YAMLError:
        problems.add(file, "holds a character that YAML does not allow")
    except RecursionError:
        problems.add(file, "is nested too deep")
    return None


def read_value(value: Any, *, where: str, problems: Problems, env: Mapping[str, str]) -> Item | None:
    """Read a Python value of dicts, lists and scalars; places are paths such as ``dag.nodes.ticks``."""
    return _Values(problems, env).item(value, where, "")


def read_text(content: bytes, *, file: str, problems: Problems) -> str | None:
    """Return a file's content as text; None, with a problem, where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(ord("\n")) + 1
        problems.add(f"{file}:{line}", "is not UTF-8")
        return None


class _Loader(yaml.SafeLoader):
    """Leaves scalars as they are written; what they mean is decided here."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own way


def _explained(exc: yaml.MarkedYAMLError) -> str:
    # PyYAML quotes what it found, and that may be part of a secret: its snippet is not shown, nor any quoted text.
    if isinstance(exc, yaml.composer.ComposerError):
        if exc.context and "single document" in exc.context:
            return "holds more than one document"
        return "an alias or anchor is wrong; a value that begins with * or & needs quotes"
    problem = _QUOTED.sub(
        lambda m: m[0] if len(m[0]) == 3 or m[0][1] == "<" else "a value", exc.problem or "unreadable"
    )
    return f"is no YAML: {problem}; a value with special characters needs quotes"


class _Substitutes:
    def __init__(self, problems: Problems, env: Mapping[str, str]) -> None:
        self.problems = problems
        self._env = env

    def text(self, text: str, where: str, key: str) -> tuple[str, bool] | None:
        # Returns the text with its variables filled in, and whether there were any; None where one is missing, so
        # that one mistake is one error.
        before = len(self.problems)
        used: list[str] = []

        def fill(match: re.Match[str]) -> str:
            if match[1]:
                return "${" + match[2] + "}"
            named = _NAME.fullmatch(match[2])
            if named is None:
                self.problems.add(where, "${...} holds no name of a variable; $${ stands for ${ itself", key=key)
                return ""
            value = self._env.get(named[1], "") or named[2]
            if value is None:
                self.problems.add(where, f"the environment has no {named[1]}, or it is empty", key=key)
                return ""
            used.append(value)
            return value

        filled = _VARIABLE.sub(fill, text)
        self.problems.hide(used)
        if used:
            self.problems.hide([filled])
        return (filled, bool(used)) if len(self.problems) == before else None


class _Reader(_Substitutes):
    # Turns composed YAML into items; `_open` finds values that contain themselves.
    def __init__(self, file: str, problems: Problems, env: Mapping[str, str]) -> None:
        super().__init__(problems, env)
        self._file = file
        self._open: list[int] = []
        self._count = 0

    def item(self, node: yaml.Node, where: str, key: str) -> Item | None:
        self._count += 1
        if id(node) in self._open or len(self._open) > _MOST_DEPTH or self._count > _MOST_ITEMS:
            self.problems.add(where, "is nested too deep, or in itself, or has too many values", key=key)
            return None
        self._open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
                return self._mapping(node, where, key)
            if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
                found = [self.item(n, self._place(n), key) for n in node.value]
                kept = [item for item in found if item is not None]
                return Item(kept, where, secret=any(item.secret for item in kept))
            if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
                return self._scalar(node, where, key)
        finally:
            self._open.pop()
        self.problems.add(where, "has a tag, which is not read; a value that begins with ! needs quotes", key=key)
        return None

    def _place(self, node: yaml.Node) -> str:
        return f"{self._file}:{node.start_mark.line + 1}"

    def _mapping(self, node: yaml.MappingNode, where: str, key: str) -> Item:
        found: dict[str, Item] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                self.problems.add(place, "a key is no plain text", key=key)
                continue
            name = key_node.value
            if name in found:
                self.problems.add(place, f"is there twice, first at {found[name].where}", key=_joined(key, name))
                continue
            item = self.item(value_node, place, _joined(key, name))
            if item is not None:
                found[name] = item
                if is_secret_name(name):
                    self.problems.hide([item.plain()])
        return Item(found, where, secret=any(item.secret for item in found.values()))

    def _scalar(self, node: yaml.ScalarNode, where: str, key: str) -> Item | None:
        found = self.text(node.value, where, key)
        if found is None:
            return None
        filled, secret = found
        value = _resolved(filled) if node.style is None else filled
        return Item(value, where, filled, secret)


class _Values(_Substitutes):
    def item(self, value: Any, where: str, key: str, depth: int = 0) -> Item | None:
        if depth > _MOST_DEPTH:
            self.problems.add(where, "is nested too deep, or in itself", key=key)
            return None
        if isinstance(value, Mapping):
            found: dict[str, Item] = {}
            for name, inner in value.items():
                item = self.item(inner, f"{where}.{name}", _joined(key, str(name)), depth + 1)
                if item is not None:
                    found[str(name)] = item
                    if is_secret_name(str(name)):
                        self.problems.hide([item.plain()])
            return Item(found, where, secret=any(item.secret for item in found.values()))
        if isinstance(value, list | tuple):
            each = [self.item(v, f"{where}[{i}]", key, depth + 1) for i, v in enumerate(value)]
            kept = [item for item in each if item is not None]
            return Item(kept, where, secret=any(item.secret for item in kept))
        if isinstance(value, str):
            text = self.text(value, where, key)
            return None if text is None else Item(text[0], where, *text)
        if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            return Item(value, where, str(value))
        self.problems.add(where, f"is of type {type(value).__name__}; allowed are text, numbers, lists and dicts")
        return None


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _resolved(text: str) -> Scalar:
    # The core schema of YAML 1.2; what it does not know is text.
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text[0] in "tT"
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text
