"""`python -m csproto.cli` is `csproto`."""

from csproto.cli import main

main()
