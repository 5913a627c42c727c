"""Runs a module as a process that is killed when its parent dies, even while it is stopped.

A stopped server cannot watch for its parent, as `csproto.engine.launch` does. Children
that multiprocessing starts import this file again, so they die with their parents in the
same way. The file is run by its path, in any environment. Linux only:
`prctl(PR_SET_PDEATHSIG)`.
"""

import ctypes
import runpy
import signal
import sys

ctypes.CDLL(None).prctl(1, signal.SIGKILL)

if __name__ == "__main__":
    runpy.run_module(sys.argv.pop(1), run_name="__main__")
