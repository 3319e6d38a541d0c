"""A transaction of SQLite, begun and not yet committed: its locks are those of fcntl(2).

transaction.py DATABASE JOURNAL_MODE. Prints "ready" in the middle of it; SIGUSR1: goes on, commits, prints
"done". Knows nothing of livecr.
"""

import signal
import sqlite3
import sys

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
database.execute("PRAGMA cache_size = 10")  # so that what is changed has to go to the file before the end
database.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY, square INTEGER, text TEXT)")
database.execute("INSERT INTO numbers VALUES (0, 0, 'before')")
database.execute("BEGIN IMMEDIATE")


def insert(numbers: range) -> None:
    rows = ((n, n * n, "x" * 200) for n in numbers)
    database.executemany("INSERT INTO numbers VALUES (?, ?, ?)", rows)


insert(range(1, 1000))
print("ready", flush=True)
signal.sigwait({signal.SIGUSR1})
insert(range(1000, 2000))
database.execute("COMMIT")
assert database.execute("SELECT count(*), sum(square) FROM numbers").fetchone() == (
    2000,
    sum(n * n for n in range(2000)),
)
print("done", flush=True)
