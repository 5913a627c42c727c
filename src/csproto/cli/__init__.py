"""The command line. Exit codes: 0 done, 1 failed with one line on stderr, 2 wrong usage."""

import sys

from csproto.cli import manage, measure, talk  # noqa: F401  # each adds its commands to the application
from csproto.cli.common import app, err
from csproto.errors import CsprotoError


def main() -> None:
    """Run a command; every error of ours is one clear line, every other one a bug report."""
    try:
        app()
    except CsprotoError as error:
        err.print(str(error), style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
