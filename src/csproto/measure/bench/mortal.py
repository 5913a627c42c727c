"""Run a module as a process that is killed when its parent dies, even while it is stopped; run by path, in any environment.

The servers that do not answer right now are stopped, so they cannot watch for their owner as `csproto.engine.launch` does. Children started by
multiprocessing import this file again and are bound to their parents in the same way. Linux only: `prctl(PR_SET_PDEATHSIG)`.
"""

import ctypes
import runpy
import signal
import sys

ctypes.CDLL(None).prctl(1, signal.SIGKILL)

if __name__ == "__main__":
    runpy.run_module(sys.argv.pop(1), run_name="__main__")
