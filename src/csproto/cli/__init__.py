"""The command line. Exit codes: 0 done, 1 failed with one line on stderr, 2 wrong usage."""

import sys

from csproto.cli import manage, measure, models, serve, talk  # noqa: F401  # each adds its commands to the application
from csproto.cli.common import app, err
from csproto.errors import CsprotoError


def main() -> None:
    """Run a command. Our own errors and the database's are one line; any other is a bug report."""
    try:
        app()
    except CsprotoError as error:
        err.print(str(error), style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # Not at the top: the import takes a while, and --help does not need it.
        from sqlalchemy.exc import SQLAlchemyError

        if not isinstance(error, SQLAlchemyError):
            raise
        first = str(error).partition("\n")[0]
        err.print(
            f"The shop's database cannot be used: {first}. Try again later.",
            style="red",
            markup=False,
        )
        sys.exit(1)
