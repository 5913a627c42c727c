"""The process a `Server` starts: SGLang's own launcher, unmodified, with what it needs around it.

Two things must hold in every process of the server, children included, which import this module again when they are spawned: torchvision has to be
importable beside a CPU build of torch, and the keys must not stand in the process list. The third holds here only: the server dies with its owner.
"""

import os
import signal
import sys
import threading
import time

from csproto.engine.cpu import make_torchvision_importable

make_torchvision_importable()


def main() -> None:
    """Run `sglang.launch_server` with the arguments given, and with the keys from the environment."""
    if owner := os.environ.pop("CSPROTO_OWNER", ""):
        threading.Thread(target=_die_with_owner, args=(int(owner),), daemon=True).start()
    arguments = sys.argv[1:]
    for name, flag in (("CSPROTO_SERVER_API_KEY", "--api-key"), ("CSPROTO_SERVER_ADMIN_KEY", "--admin-api-key")):
        if key := os.environ.pop(name, ""):
            arguments.append(f"{flag}={key}")  # a key may begin with a hyphen

    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    try:
        run_server(prepare_server_args(arguments))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


def _die_with_owner(owner: int) -> None:
    """Kill the whole process group once the owner is gone, however it went: SIGKILL leaves it no time to say so."""
    while os.getppid() == owner:
        time.sleep(0.5)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()
