"""The page as the environment variables of its process want it."""

from fastapi import FastAPI
from uvicorn.importer import ImportFromStringError, import_from_string

from csproto import settings
from csproto.desk.assistant import Assistant
from csproto.web import LOOPBACK
from csproto.web.app import create_app
from csproto.web.site import SignIn, demo_sign_in

STAFF_TOKEN = 16  # characters that the token of the staff has at least
SECRET_CHARS = 32  # the fewest


def configured_app(assistant: Assistant, host: str = LOOPBACK[0]) -> FastAPI:
    """Make the page of a desk. Raises SettingInvalid.

    host: where it listens. On this machine alone, it answers only to this machine's
        names, unless the settings have others.
    """
    names = settings.HOSTS.listed()
    hosts = names or (LOOPBACK if host in LOOPBACK else ["*"])
    return create_app(
        assistant,
        sign_in=_sign_in(),
        hosts=None if "*" in hosts else hosts,
        secure=settings.SECURE_COOKIES.on(),
        public_docs=settings.PUBLIC_DOCS.on(),
        metrics_token=settings.METRICS_TOKEN.text(),
        staff_token=_staff_token(),
        cookie_secrets=_cookie_secrets(),
    )


def _cookie_secrets() -> list[str]:
    """Return the secrets of the cookies. Raises SettingInvalid for one that can be guessed."""
    secrets = settings.COOKIE_SECRETS.listed()
    if any(len(secret) < SECRET_CHARS for secret in secrets):
        raise settings.SettingInvalid(
            f"A secret in {settings.COOKIE_SECRETS.name} has fewer than {SECRET_CHARS} "
            "characters, so it could be guessed. `openssl rand -hex 32` makes a good one."
        )
    return secrets


def _staff_token() -> str:
    """Return the token of the staff. Raises SettingInvalid for one that can be guessed."""
    token = settings.STAFF_TOKEN.text()
    if token and len(token) < STAFF_TOKEN:
        raise settings.SettingInvalid(
            f"{settings.STAFF_TOKEN.name} has {len(token)} characters, which can be guessed. "
            f"Make one of {STAFF_TOKEN} or more, with `openssl rand -hex 16` for example."
        )
    return token


def _sign_in() -> SignIn:
    """Return the function that the settings name. Raises SettingInvalid."""
    name = settings.SIGN_IN.text()
    if not name:
        return demo_sign_in
    try:
        found: SignIn = import_from_string(name)
    except ImportFromStringError as error:
        raise settings.SettingInvalid(
            f"{settings.SIGN_IN.name} is {name!r}, which cannot be imported: {error} "
            "Name a function as `module:function`, on the Python path."
        ) from error
    return found
