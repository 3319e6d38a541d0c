"""Asks children for squares, over pipes, and they ask children of their own. children.py GO [DEPTH].

At depth 0 three children with two each: asyncio's subprocesses, waited for in threads; the children use
subprocess. Half of the 200 numbers are asked for before the file GO is there. Prints "ready" when it waits
for GO, then the sum, and the statuses of its children. Knows nothing of livecr.
"""

import asyncio
import os
import subprocess
import sys

go, depth = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0


def leaf() -> None:
    for line in sys.stdin:
        print(int(line) ** 2, flush=True)


def middle() -> None:
    command = [sys.executable, __file__, go, "2"]
    children = [
        subprocess.Popen(command, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for number, line in enumerate(sys.stdin):
        child = children[number % 2]
        assert child.stdin and child.stdout
        child.stdin.write(line)
        print(child.stdout.readline().strip(), flush=True)
    for child in children:
        assert child.stdin
        child.stdin.close()
    sys.exit(3 + sum(child.wait() for child in children))


async def top() -> None:
    pipe = asyncio.subprocess.PIPE
    children = [
        await asyncio.create_subprocess_exec(sys.executable, __file__, go, "1", stdin=pipe, stdout=pipe)
        for _ in range(3)
    ]
    total = 0
    for number in range(200):
        if number == 100:
            print("ready", flush=True)
            while not os.path.exists(go):
                await asyncio.sleep(0.02)
        child = children[number % 3]
        assert child.stdin and child.stdout
        child.stdin.write(b"%d\n" % number)
        total += int(await child.stdout.readline())
    for child in children:
        assert child.stdin
        child.stdin.close()
    print(total, [await child.wait() for child in children], flush=True)


if depth == 0:
    asyncio.run(top())
elif depth == 1:
    middle()
else:
    leaf()
