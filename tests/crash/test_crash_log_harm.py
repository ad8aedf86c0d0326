"""A log that is gone, older than the lake, torn or damaged, with the lake kept."""

from __future__ import annotations

import shutil

import pytest

from market_data_core.steps import Step
from market_data_pipeline.log.frames import RecordType
from market_data_pipeline.log.segments import walk
from support.crash import Chain, segments, write_recording
from support.crash_child import Life


@pytest.fixture(params=["replay", pytest.param("synthetic", marks=pytest.mark.chaos)])
def chain(tmp_path, request):
    files = write_recording(tmp_path / "files", 3500, late_share=0.05) if request.param == "replay" else []
    return Chain(life=Life(data_dir=str(tmp_path / "data"), count=7000, files=files, retention_s=3600.0))


@pytest.mark.parametrize("nth", [9, *(pytest.param(n, marks=pytest.mark.chaos) for n in range(5, 13) if n != 9)])
def test_a_deleted_log_loses_and_doubles_nothing(chain, nth):
    """The sources give again what is not stored everywhere, and tables take only what they lack; late events too."""
    assert chain.die(Step.TABLE_COMMITTED, nth=nth)
    shutil.rmtree(chain.log)
    assert chain.finish(same_log=False) == []


@pytest.mark.parametrize("nth", [9, *(pytest.param(n, marks=pytest.mark.chaos) for n in range(5, 13) if n != 9)])
@pytest.mark.parametrize(
    "place", ["middle", "segment head", *(pytest.param(p, marks=pytest.mark.chaos) for p in ("early", "late"))]
)
def test_a_damaged_header_loses_and_doubles_nothing(chain, place, nth):
    """Where not even the source of what is damaged can be read, the log is cut and its sources give the rest again."""
    assert chain.die(Step.DATA_FILE_WRITTEN, nth=nth)
    path = max(segments(chain.log), key=lambda p: p.stat().st_size)
    found = [f for f in walk(path, check=False) if isinstance(f, tuple)]
    ends = [end for end, record in found if record.type is RecordType.EVENTS]
    quarter = {"early": 1, "middle": 2, "late": 3}
    at = 0 if place == "segment head" else ends[len(ends) * quarter[place] // 4 - 1]
    content = bytearray(path.read_bytes())
    content[at + 8] ^= 0xFF
    path.write_bytes(content)
    assert chain.finish(same_log=False) == []


def test_a_log_restored_from_an_older_copy_loses_and_doubles_nothing(chain, tmp_path):
    """What the old copy holds is known to be stored; what it lacks is given again."""
    assert chain.die(Step.TABLE_COMMITTED, nth=5)
    shutil.copytree(chain.log, tmp_path / "older")
    assert chain.die(Step.TABLE_COMMITTED, nth=5)
    shutil.rmtree(chain.log)
    shutil.copytree(tmp_path / "older", chain.log)
    assert chain.finish(same_log=False) == []


@pytest.mark.parametrize("tail", ["cut", "garbage"])
def test_a_torn_tail_loses_and_doubles_nothing(chain, tail):
    """A last record that is not whole, or followed by what is none, is cut off and given again."""
    assert chain.die(Step.LOG_SYNC_AFTER, nth=10)
    newest = segments(chain.log)[-1]
    content = newest.read_bytes()
    newest.write_bytes(content[:-7] if tail == "cut" else content + bytes(range(200)))
    assert chain.finish(same_log=False) == []


def test_corrupt_records_in_the_middle_lose_and_double_nothing(chain):
    """Damaged events in every segment: what is still needed from there on is given again."""
    assert chain.die(Step.DATA_FILE_WRITTEN, nth=9)
    for path in segments(chain.log):
        found = [f for f in walk(path, check=False) if isinstance(f, tuple)]
        ends = [end for end, record in found if record.type is RecordType.EVENTS]
        content = bytearray(path.read_bytes())
        for end in ends[len(ends) // 2 :][:1]:
            content[end - 1] ^= 0xFF
        path.write_bytes(content)
    assert chain.finish(same_log=False) == []
