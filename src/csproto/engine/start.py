"""Watches a server that is starting: what it does now, and whether it still does anything.

How long a start takes depends on the model and the network: half a minute, or an hour
with a download. So a start is given up only when nothing has happened for a while.
"""

import time
from pathlib import Path

import psutil

STEP = 2**24  # bytes that the processes read or write; less can be mere waiting
TAIL = 16_384  # bytes of the log that are looked at


class Watch:
    """Watches the processes and the log of a server.

    pid: the process that was started; its children count too.
    log: the file with their output.
    """

    def __init__(self, pid: int, log: Path) -> None:
        self._pid, self._log = pid, log
        self._at = time.monotonic()
        self._seen: tuple[int, int] = (-1, -1)

    def silent(self) -> float:
        """Return for how many seconds the log has not grown and no data was read or written."""
        now = (self._log.stat().st_size if self._log.exists() else 0, _moved(self._pid) // STEP)
        if now != self._seen:
            self._seen, self._at = now, time.monotonic()
        return time.monotonic() - self._at


def tail(log: Path, lines: int) -> list[str]:
    """Return the last lines of a log; a progress bar counts as one line, as last drawn."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - max(TAIL, 400 * lines)))
        text = file.read().decode("utf-8", "replace")
    drawn = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return [line for line in drawn if line.strip()][-lines:]


def _moved(pid: int) -> int:
    """Return how many bytes a process and its children have read and written so far."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0
    for process in processes:
        try:
            io = process.io_counters()
        except (psutil.Error, OSError):
            continue
        # The first two count what is copied by calls, such as a download; the others count
        # what comes from a disk, such as weights that are mapped into memory.
        total += io.read_chars + io.write_chars + io.read_bytes + io.write_bytes
    return total
