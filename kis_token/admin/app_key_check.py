"""Judges an account's app key and secret before they are stored: first by their form, then by KIS itself."""

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
    """Raise SettingsError if the two cannot be an app key and an app secret of KIS. Makes no request.

    The values are judged as they are stored, which is without quotes and other texts that are copied along. An empty
    value is skipped, so each answer of a user can be judged alone. ``environment`` appears in the messages only: the
    keys of real and paper accounts have the same form.

    The codes are ``swapped-app-key``, ``invalid-app-key`` and ``invalid-app-secret``. Unlike in the settings, a length
    that differs from KIS's is an error too.
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
    """Ask KIS whether it accepts the two, by one POST /oauth2/Approval. Issues no token, and KIS sends no message.

    ``base_url`` is the host of ``environment`` by default. The call ends after 15 s, or 3 s before ``deadline``.

    Raises IssuerRefused if KIS refuses them; its message names both environments, because KIS also refuses keys of the
    other one. Raises IssuerOutage if KIS does not answer, and IssuerRateLimited: both leave open whether the keys are
    right.
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
