"""What ran last: the configuration in force, kept beside the data, without secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from market_data_core import disk
from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_pipeline.dag import Blueprint

FILE: Final = "platform.json"


def record(data_dir: Path, blueprint: Blueprint) -> None:
    """Keep what runs, atomically and durably; `data_dir` exists.

    Raises:
        TemporaryUnavailable: The disk does not take it.
    """
    try:
        disk.write_atomic(data_dir / FILE, json.dumps(blueprint.to_dict(), allow_nan=False).encode())
    except OSError as exc:
        raise TemporaryUnavailable(f"{data_dir / FILE} cannot be written: {exc}") from exc


def recorded(data_dir: Path) -> Blueprint | None:
    """Return what ran last; None where nothing has run yet.

    Raises:
        ConfigurationError: The record is damaged; names the file.
    """
    path = data_dir / FILE
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{path} cannot be read: {exc}; it is written anew at the next start") from exc
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} is no record of a configuration; it is written anew at the next start")
    return Blueprint.from_dict(values)
