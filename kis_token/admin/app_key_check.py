"""Check the form of an account's app key and secret, and ask KIS whether it accepts them, before they are stored."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from kis_token.config import KIS_HOSTS
from kis_token.deadline import no_deadline
from kis_token.errors import IssuerRefused, SettingsError
from kis_token.kis.api import KISIssuer
from kis_token.settings.pasted_values import find_key_fault, find_length_faults, pasted
from kis_token.token import AppKey

if TYPE_CHECKING:
    from kis_token.config import Environment
    from kis_token.deadline import Deadline

#: The accounts of each environment, as KIS's site names them.
_ACCOUNTS: dict[Environment, str] = {"production": "real accounts (실전)", "paper": "paper accounts (모의)"}


def check_form(app_key: str, app_secret: str, *, environment: Environment) -> None:
    """Raise SettingsError if ``app_key`` and ``app_secret`` cannot be a key and a secret of KIS. Makes no request.

    `pasted` first cuts off quotes and other texts that users often copy with a key. `set_app_key` stores only the part
    of a key that `pasted` returns. An empty value is not checked, so a caller can check the key before the user has
    entered the secret. ``environment`` appears in the messages only: the keys of real and paper accounts have the same
    form.

    The error codes are ``swapped-app-key``, ``invalid-app-key`` and ``invalid-app-secret``. If the length of a key or
    secret differs from the length that KIS uses, this function raises an error, but `Settings` only has a warning.
    """
    key, secret = pasted(app_key), pasted(app_secret)
    names = (f"the app key for {environment}", f"the app secret for {environment}")
    fault = find_key_fault(key, secret, names)
    faults = find_length_faults(key, secret, names) if fault is None else [fault]
    if faults:
        raise SettingsError(faults)


def verify(
    app_key: str,
    app_secret: str,
    *,
    environment: Environment,
    base_url: str | None = None,
    deadline: Deadline | None = None,
) -> None:
    """Ask KIS by one POST /oauth2/Approval whether it accepts key and secret. KIS issues no token and sends no message.

    ``base_url`` is the host of ``environment`` by default. The call takes 15 s or less, and ends 3 s before
    ``deadline`` or earlier.

    Raises IssuerRefused if KIS does not accept the keys. The error's message names both environments, because KIS also
    refuses keys of the other environment. Raises IssuerOutage if KIS does not answer, and IssuerRateLimited if KIS
    limits the calls. IssuerOutage and IssuerRateLimited do not show whether the keys are right.
    """
    left = no_deadline if deadline is None else deadline.left
    with closing(KISIssuer(base_url or KIS_HOSTS[environment], environment, left)) as kis:
        try:
            kis.approval_key(AppKey(pasted(app_key), pasted(app_secret)))
        except IssuerRefused as error:
            kis_code = error.kis_code
        else:
            return
    other: Environment = "paper" if environment == "production" else "production"
    raise IssuerRefused(
        kis_code,
        whose=f" at its host for {_ACCOUNTS[environment]}",
        remark=f": keys of {_ACCOUNTS[other]} are for the environment {other}",
    )
