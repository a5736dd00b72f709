"""The step for the account's app key and secret: find them in Supabase, or check and store new ones."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from kis_token.admin.app_key_check import check_form, verify
from kis_token.admin.set_keys import set_app_key
from kis_token.core.app_key_expiry import default_last_day, end_of, last_day_of, parse_last_day
from kis_token.core.slot import given_app_key, stored_app_key
from kis_token.errors import IssuerOutage, IssuerRateLimited, KisTokenError, SettingsError, StoreMisconfigured
from kis_token.local.private_files import read_own
from kis_token.settings.pasted_values import is_placeholder, pasted
from kis_token.setup.dialogue import Question, Unfit
from kis_token.store.sealing import make_vault
from kis_token.token import AppKey

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from kis_token.config import Environment, Settings
    from kis_token.setup.options import Setup
    from kis_token.store.supabase import SupabaseStore

#: The names of app key and secret in kis_devlp.yaml, the settings file of KIS's official samples, for each environment.
_SAMPLE_NAMES: dict[Environment, tuple[str, str]] = {
    "production": ("my_app", "my_sec"),
    "paper": ("paper_app", "paper_sec"),
}
_LARGEST_SAMPLE = 65536


def ensure_app_key(setup: Setup, settings: Settings, store: SupabaseStore) -> None:
    """Store app key and secret if the slot lacks them. Ask before a different stored key is replaced.

    With ``--yes``, if no key is given, raises KisTokenError ``missing-app-key``. Also raises the errors of the store.
    """
    dialogue, vault = setup.dialogue, make_vault(settings.encryption_keys)
    given, stored = given_app_key(settings), None
    try:
        stored = stored_app_key(store.read(settings.service_name), settings, vault)
    except StoreMisconfigured as error:
        # Only the app key or only the app secret is stored, or the stored key and secret are swapped.
        dialogue.warn(f"warning: {error.brief}")
    place = f"{settings.service_name} ({settings.environment})"
    if stored is not None and given in (None, stored):
        dialogue.report("ok", "app key", f"stored for {place}")
        return
    if stored is not None and not dialogue.confirm(f"Supabase has another app key for {place}. Replace it?"):
        dialogue.report("kept", "app key", f"Supabase has another app key for {place}; kis-token set-keys replaces it")
        return
    if given is None and dialogue.is_absent:
        raise KisTokenError("missing-app-key", "No app key and secret are given")
    if setup.options.is_dry:
        dialogue.report(
            "would", "app key", f"{'be' if given else 'be asked for,'} checked at KIS, and stored for {place}"
        )
        return
    if given is not None:
        _judge(given, settings, setup)
    app_key = given or _ask(setup, settings)
    end = end_of(_ask_for_last_day(setup))
    setup.remember(app_key=app_key.key, app_secret=app_key.secret)
    set_app_key(setup.settings(), store, vault, expires_at=end, clock=setup.clock)
    form = "sealed" if settings.encryption_keys else "plain"
    dialogue.report("new", "app key", f"stored {form} for {place}; last day {last_day_of(end)} in Korea")


def _ask(setup: Setup, settings: Settings) -> AppKey:
    """Ask for app key and secret until KIS accepts them."""
    sample = find_sample(setup, settings.environment)
    enter = f" (Enter for the app key in {sample[0]})" if sample is not None else " (or the path of a kis_devlp.yaml)"
    while True:
        app_key = _ask_once(setup, settings, Question(f"KIS app key{enter}", is_secret=True), sample)
        try:
            _judge(app_key, settings, setup)
        except KisTokenError as error:
            setup.dialogue.warn(f"error: {error}")
        else:
            return app_key


def _ask_once(setup: Setup, settings: Settings, question: Question, sample: tuple[Path, AppKey] | None) -> AppKey:
    environment = settings.environment

    def check_key(answer: str) -> str | AppKey:
        text = pasted(answer)
        if not text and sample is not None:
            return sample[1]
        if text.endswith((".yaml", ".yml")):
            return read_sample(setup.path(text), environment)
        if not text:
            raise KisTokenError("missing-app-key", "No app key and secret are given")
        check_form(text, "", environment=environment)
        return text

    key = setup.dialogue.ask(question, check_key)
    if isinstance(key, AppKey):
        return key

    def check_secret(answer: str) -> str:
        text = pasted(answer)
        if not text:
            raise KisTokenError("missing-app-key", "No app key and secret are given")
        check_form(key, text, environment=environment)
        return text

    return AppKey(key, setup.dialogue.ask(Question("KIS app secret", is_secret=True), check_secret))


def _judge(app_key: AppKey, settings: Settings, setup: Setup) -> None:
    """Check the form of the keys, and ask KIS whether it accepts the keys. Raises KisTokenError.

    If KIS does not answer, asks the user whether to store the keys unchecked.
    """
    check_form(app_key.key, app_key.secret, environment=settings.environment)
    try:
        verify(app_key.key, app_key.secret, environment=settings.environment, base_url=settings.base_url)
    except (IssuerOutage, IssuerRateLimited) as error:
        setup.dialogue.warn(f"warning: {error.brief}")
        if not setup.dialogue.confirm("KIS did not check the keys. Store them unchecked?"):
            raise


def _ask_for_last_day(setup: Setup) -> date:
    """Ask the user for the last day on which KIS accepts the keys.

    The default is a year from today, as if KIS had issued the keys today.
    """
    now = setup.clock.now()
    default = default_last_day(now)
    if setup.dialogue.is_absent:
        return default

    def check(answer: str) -> date:
        day = parse_last_day(answer.strip(), now) if answer.strip() else default
        if day is None:
            raise Unfit("Enter a day that has not passed, as YYYY-MM-DD.")
        return day

    return setup.dialogue.ask(Question(f"Last day of these keys at KIS, in Korea (Enter for {default})"), check)


def find_sample(setup: Setup, environment: Environment) -> tuple[Path, AppKey] | None:
    """Return the path and the keys of a kis_devlp.yaml of KIS's samples, or None if no such file has keys."""
    for path in (setup.options.directory / "kis_devlp.yaml", setup.path("~/KIS/config/kis_devlp.yaml")):
        with suppress(KisTokenError):
            return path, read_sample(path, environment)
    return None


def read_sample(path: Path, environment: Environment) -> AppKey:
    """Return the keys of ``environment`` from a file kis_devlp.yaml. Raises KisTokenError ``missing-app-key``."""
    try:
        text = read_own(path, _LARGEST_SAMPLE)
    except (OSError, UnicodeError):
        raise KisTokenError("missing-app-key", f"The file {path.name} cannot be read") from None
    found = dict(re.findall(r"^\s*(\w+)[ \t]*:[ \t]*(.*)$", text, re.MULTILINE))
    key, secret = (pasted(found.get(name, "")) for name in _SAMPLE_NAMES[environment])
    try:
        check_form(key, secret, environment=environment)
    except SettingsError:
        key = ""
    if not key or not secret or is_placeholder(key):
        raise KisTokenError("missing-app-key", f"The file {path.name} has no keys for {environment}")
    return AppKey(key, secret)
