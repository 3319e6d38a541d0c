"""A server on asyncio: counts its clients, and has a periodic task and a deadline of its own.

server.py PORT DEADLINE_MS. Answers each line with a JSON object. Knows nothing of livecr.
"""

import asyncio
import json
import sys
import time

port, deadline_ns = int(sys.argv[1]), int(sys.argv[2]) * 1_000_000
began_ns = time.monotonic_ns()
told = {"clients": 0, "ticks": 0, "deadline_took_ns": 0}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    told["clients"] += 1
    while line := await reader.readline():
        answer = told | {"line": line.decode().strip(), "age_ns": time.monotonic_ns() - began_ns}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
    writer.close()


async def tick() -> None:
    while True:
        await asyncio.sleep(0.02)
        told["ticks"] += 1


async def deadline() -> None:
    await asyncio.sleep(deadline_ns / 1e9)
    told["deadline_took_ns"] = time.monotonic_ns() - began_ns


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        await asyncio.gather(server.serve_forever(), tick(), deadline())


asyncio.run(main())
