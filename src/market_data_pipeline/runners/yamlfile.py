"""YAML files read into models, with every mistake named by file, line and key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from market_data_core.errors import ConfigurationError

M = TypeVar("M", bound=BaseModel)

_MAX_PROBLEMS = 50


def parse_model(model: type[M], text: str, *, name: str) -> M:
    """Return the model that a YAML document describes; an empty document describes the model's defaults.

    Args:
        model: What it describes.
        text: The document.
        name: What messages call the file.

    Raises:
        ConfigurationError: It is not YAML, or not such a model. The message says everything that is wrong, each thing
            with its place; `details` has the same as ``errors``, a list of ``{where, field, detail}``. No values are
            shown: they may be secrets.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise wrong([{"where": f"{name}:{line}", "field": "", "detail": f"not YAML: {exc.problem}"}]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise wrong([{"where": name, "field": "", "detail": f"not YAML ({type(exc).__name__})"}]) from None
    twice = [
        {"where": f"{name}:{line}", "field": key, "detail": "is given twice"} for key, line in _given_twice(root, "")
    ]
    if twice:
        raise wrong(twice)
    try:
        return model.model_validate({} if value is None else value)
    except ValidationError as exc:
        found = exc.errors(include_input=False, include_url=False)[:_MAX_PROBLEMS]
        raise wrong(
            [
                {
                    "where": f"{name}:{_line_of(root, e['loc'])}",
                    "field": ".".join(str(part) for part in e["loc"]),
                    "detail": e["msg"],
                }
                for e in found
            ]
        ) from None


def wrong(errors: Sequence[dict[str, str]]) -> ConfigurationError:
    """Return the error that says all of these mistakes."""
    said = "; ".join(f"{e['where']}: {e['field']}: {e['detail']}".replace(": : ", ": ") for e in errors)
    return ConfigurationError(said, details={"errors": list(errors)})


# Where a key is missing, the line is that of the mapping that should have it.
def _line_of(root: yaml.Node | None, loc: Sequence[int | str]) -> int:
    node, line = root, 1 if root is None else root.start_mark.line + 1
    for part in loc:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            entry = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if entry is None:
                return line
            line, node = entry[0].start_mark.line + 1, entry[1]
        else:
            return line
    return line


# PyYAML takes the last of two; whoever wrote both means one of them, and not always that one.
def _given_twice(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            if name in seen:
                yield name, key.start_mark.line + 1
            seen.add(name)
            yield from _given_twice(value, f"{name}.")
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield from _given_twice(value, f"{prefix}{place}.")
