"""The base class of every error that a user may see."""


class CsprotoError(Exception):
    """An error whose text says what happened, why, and what to do next.

    The command line prints it as one line, and panel and page show it in plain words.
    No user gets to see a traceback of it.
    """
