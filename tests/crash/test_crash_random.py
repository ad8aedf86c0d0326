"""Killed, and its power cut, at any moment."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from support.crash import Chain, death_steps, write_recording
from support.crash_child import Life


def test_a_chain_of_kills_at_random_moments_makes_progress_and_loses_nothing(tmp_path):
    """Every life takes up where the last one was stopped, and the end equals the uninterrupted run."""
    files = write_recording(tmp_path / "files", 5000)
    chain = Chain(life=Life(data_dir=str(tmp_path / "data"), files=files), power=True)
    for nth in (60, 90, 70):
        assert chain.die(nth=nth), "it was through before it could be killed"
    chain.cut_power(seed=1)
    assert chain.finish() == []
    assert_progress(chain)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(28))
def test_many_deaths_at_random_moments_lose_and_double_nothing(tmp_path, seed):
    """Kills and power cuts, strict and by chance, over made-up and recorded events."""
    die_at_random(tmp_path, seed, store_root="")


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(12))
def test_many_deaths_at_random_moments_with_a_database_lose_and_double_nothing(tmp_path, seed, dsn):
    """The same with what is stored in PostgreSQL."""
    die_at_random(tmp_path, seed, store_root=dsn)


def die_at_random(tmp_path, seed, *, store_root):
    chance = random.Random(seed)
    files = write_recording(tmp_path / "files", 10_000, seed=seed) if seed % 2 else []
    life = Life(data_dir=str(tmp_path / "data"), store_root=store_root, count=20_000, seed=seed, files=files)
    chain = Chain(life=life, power=seed % 4 >= 2)
    for nth in islice(death_steps(seed), 8):
        if not chain.die(nth=nth):
            break
        if chain.power and chance.random() < 0.7:
            chain.cut_power(seed=chance.choice([None, seed, seed + 100]))
    assert chain.finish() == [], f"after {chain.deaths} deaths"
    assert_progress(chain)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(4))
def test_consumers_in_a_process_of_their_own_survive_the_death_of_capture(tmp_path, seed):
    """The worker ends by itself, the next life waits for it, and nothing is lost between the two."""
    chain = Chain(life=Life(data_dir=str(tmp_path / "data"), count=20_000, seed=seed, consumers="process"))
    for nth in islice(death_steps(seed), 4):
        if not chain.die(nth=nth):
            break
    assert chain.finish() == [], f"after {chain.deaths} deaths"


def assert_progress(chain):
    ends = [log_end for log_end, _ in chain.stands]
    assert chain.deaths
    assert chain.stands[-1] > chain.stands[0], "no life got further than the one before"
    assert ends == sorted(ends)
