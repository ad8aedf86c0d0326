"""WebSocket clients that read everything: ``python -m benchmarks.live_clients URL COUNT``.

Prints a line once all are connected, then every quarter second how many messages they have had together.
"""

from __future__ import annotations

import asyncio
import sys

import websockets


async def _read(url: str, counts: list[int], connected: asyncio.Semaphore) -> None:
    async with websockets.connect(url, max_size=None, compression=None) as socket:
        counts[0] += 1
        connected.release()
        async for _ in socket:
            counts[1] += 1


async def _run(url: str, count: int) -> None:
    counts = [0, 0]  # connected, messages
    connected = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(_read(url, counts, connected))
        for _ in range(count):
            await connected.acquire()
        while True:
            print(counts[1], flush=True)
            await asyncio.sleep(0.25)


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], int(sys.argv[2])))
