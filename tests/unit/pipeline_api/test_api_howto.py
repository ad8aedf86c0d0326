from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "howto" / "pipelines-in-python.md"
BLOCKS = re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", [code for _, code in BLOCKS], ids=[title for title, _ in BLOCKS])
def test_the_page_runs_as_it_stands(code, tmp_path, monkeypatch):
    """A reader who copies the block gets what the page says."""
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "howto"})


def test_every_block_of_the_page_is_run():
    """No block escapes the test above."""
    assert len(BLOCKS) == PAGE.read_text().count("```python")
