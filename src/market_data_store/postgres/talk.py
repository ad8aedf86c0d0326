"""What is said to the server in one go, apart from who waits for the answers: a thread or an event loop."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString, TypeVar

import psycopg

from market_data_store.postgres.connect import Connection

AsyncConnection = psycopg.AsyncConnection[tuple[object, ...]]

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Execute:
    """A statement and its values."""

    statement: LiteralString | bytes
    values: Sequence[Any] | Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CopyIn:
    """A ``COPY ... FROM STDIN`` and what is copied."""

    statement: bytes
    pieces: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered: rows, and how many it touched."""

    rows: list[Any] = field(default_factory=list)
    count: int = 0


Talk = Generator[Execute | CopyIn, Answer, _R]
"""Says one thing after the other, is sent each answer or thrown psycopg's error, and returns what came of it."""


def talk(connection: Connection, said: Talk[_R]) -> _R:
    """Say it all on a connection, and return what came of it."""
    try:
        step = next(said)
        while True:
            try:
                answer = _answer(connection, step)
            except psycopg.Error as exc:
                step = said.throw(exc)
            else:
                step = said.send(answer)
    except StopIteration as end:
        result: _R = end.value
        return result


def _answer(connection: Connection, step: Execute | CopyIn) -> Answer:
    with connection.cursor(binary=True) as cursor:
        if isinstance(step, CopyIn):
            with cursor.copy(step.statement) as copy:
                for piece in step.pieces:
                    copy.write(piece)
            return Answer()
        cursor.execute(step.statement, step.values)
        return Answer(cursor.fetchall() if cursor.description else [], cursor.rowcount)


async def talk_async(connection: AsyncConnection, said: Talk[_R]) -> _R:
    """Say it all on a connection of an event loop, and return what came of it."""
    try:
        step = next(said)
        while True:
            try:
                answer = await _answer_async(connection, step)
            except psycopg.Error as exc:
                step = said.throw(exc)
            else:
                step = said.send(answer)
    except StopIteration as end:
        result: _R = end.value
        return result


async def _answer_async(connection: AsyncConnection, step: Execute | CopyIn) -> Answer:
    async with connection.cursor(binary=True) as cursor:
        if isinstance(step, CopyIn):
            async with cursor.copy(step.statement) as copy:
                for piece in step.pieces:
                    await copy.write(piece)
            return Answer()
        await cursor.execute(step.statement, step.values)
        return Answer(await cursor.fetchall() if cursor.description else [], cursor.rowcount)
