"""Lets a server die with the process that started it."""

import os
import signal
import threading
import time

OWNER = "CSPROTO_OWNER"  # the environment variable with the number of that process


def die_with_owner() -> None:
    """Kill this process's whole group when its owner is gone, if it has one.

    It is watched, because an owner that is killed by SIGKILL cannot stop the server.
    """
    if owner := os.environ.pop(OWNER, ""):
        threading.Thread(target=_watch, args=(int(owner),), daemon=True).start()


def _watch(owner: int) -> None:
    while os.getppid() == owner:
        time.sleep(0.5)
    os.killpg(os.getpgid(0), signal.SIGKILL)
