"""The process that a `Server` starts: SGLang's own launcher, unmodified, and what it needs.

- torchvision can be imported beside a CPU build of torch.
- The keys are not in the process list.
- Where the CPU plug-in serves, it gets the flags that suit it.
- The server dies with its owner.

The first two must hold in every process of the server. Child processes import this
module again when they are spawned. The others are needed only here.
"""

import os
import sys

from csproto.engine.cpu import is_cpu_only, make_torchvision_importable
from csproto.engine.owner import die_with_owner

make_torchvision_importable()

KEYS = {
    "CSPROTO_SERVER_API_KEY": "--api-key",
    "CSPROTO_SERVER_ADMIN_KEY": "--admin-api-key",
}
# The KV pool is filled with zeros at the start, so it is no larger than needed. With
# --sleep-on-idle, an idle server leaves the cores to others.
CPU_FLAGS = ("--device", "cpu", "--max-total-tokens", "32768", "--sleep-on-idle")


def main() -> None:
    """Run `sglang.launch_server` with the arguments given and the keys from the environment."""
    die_with_owner()
    # The plug-in asks the same function. A flag of the user's comes later, so it wins.
    arguments = [*(CPU_FLAGS if is_cpu_only() else ()), *sys.argv[1:]]
    for name, flag in KEYS.items():
        if key := os.environ.pop(name, ""):
            arguments.append(f"{flag}={key}")  # one word, because a key may begin with a hyphen

    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    try:
        run_server(prepare_server_args(arguments))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":
    main()
