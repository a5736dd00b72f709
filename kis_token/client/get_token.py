"""A function that returns a token to a program. If the stored token is fresh, the function makes one GET request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.client.user_variables import user_variables
from kis_token.clock import SystemClock
from kis_token.config import Settings
from kis_token.errors import KisTokenError
from kis_token.wiring import open_resolver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kis_token.token import Token


def get_token(env: Mapping[str, str] | None = None) -> Token:
    """Return the shared token. If no valid token is found, issue a new token. Raises KisTokenError.

    Send the token's ``value`` in calls of KIS. The settings are the variables of ``env`` or, without ``env``, of
    os.environ. If os.environ lacks the project's URL or key, the user's profile adds them, but not in GitHub Actions.
    Warnings and waits are logged to the logger ``kis_token``. If a program runs for longer than a token is valid, use
    KISClient.
    """
    settings = Settings.from_env(user_variables() if env is None else env)
    with open_resolver(settings, SystemClock().monotonic(), _tell) as resolver:
        try:
            resolution = resolver.resolve()
        except KisTokenError as error:
            _warn(error.warnings)
            raise
    _warn(resolution.warnings)
    return resolution.token


def _warn(warnings: tuple[str, ...]) -> None:
    if warnings:
        import logging

        for warning in warnings:
            logging.getLogger("kis_token").warning("%s", warning)


def _tell(line: str) -> None:
    import logging

    logging.getLogger("kis_token").info("%s", line)
