"""The root of every error a user may see: its text says what happened, why, and what to do next."""


class CsprotoError(Exception):
    """Printed as one line by the command line and shown in plain words by panel and page; never with a traceback."""
