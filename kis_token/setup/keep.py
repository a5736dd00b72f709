"""The last step: keep URL, key and slot on this machine, so that they need not be set in each new terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kis_token.errors import SettingsError
from kis_token.local.keyring_keys import is_available
from kis_token.local.profiles import DEFAULT, Profile, read_profile, write_profile
from kis_token.settings.environment import PROFILE
from kis_token.setup.dialogue import Question, Unfit

if TYPE_CHECKING:
    from kis_token.config import Settings
    from kis_token.local.profiles import Place
    from kis_token.setup.options import Setup

#: The user's choice: a place for the settings, or no place.
Choice = Literal["keyring", "file", "no"]


def keep_settings(setup: Setup, settings: Settings) -> None:
    """Keep the settings as a profile, in the place that the option ``keep`` or the user names.

    Asks before a profile with other settings is replaced. If the profile cannot be read or written, raises
    SettingsError ``profile-unusable``. If the keyring fails, first asks the user whether to use a private file instead.
    """
    report, keep = setup.dialogue.report, setup.options.keep
    if setup.env.get("GITHUB_ACTIONS") or (keep is None and setup.dialogue.is_absent):
        return
    name = setup.env.get(PROFILE, "").strip() or DEFAULT
    there = read_profile(name)
    if there is not None and _is_same(there, settings):
        report("ok", "profile", f"{name} has URL, key and slot")
        return
    if there is not None and not setup.dialogue.confirm(f"The profile {name} has other settings. Replace it?"):
        report("kept", "profile", f"{name} has other settings, and was not changed")
        return
    choice = keep or _ask_for_place(setup)
    if choice == "no":
        report("note", "profile", "nothing is kept: set the variables in each terminal")
    elif setup.options.is_dry:
        report("would", "profile", f"keep URL, key and slot as {name} in {_shown(choice)}")
    else:
        _write(setup, settings, name, choice)


def _write(setup: Setup, settings: Settings, name: str, place: Place) -> None:
    profile = Profile(name, settings.supabase_url, settings.environment, settings.service_name, place)
    try:
        file = write_profile(profile, settings.supabase_key)
    except SettingsError as error:
        if setup.dialogue.is_absent or place == "file":
            raise
        setup.dialogue.warn(f"warning: {error.brief}")
        if setup.dialogue.confirm("Keep the key in a private file instead?", default=True):
            _write(setup, settings, name, "file")
        return
    where = f"{file}, and the key in the keyring" if place == "keyring" else f"{file}, which only you can read"
    setup.dialogue.report("new", "profile", f"{name} is in {where}")
    if settings.encryption_keys:
        setup.dialogue.tell("KIS_TOKEN_ENCRYPTION_KEY is not kept. Set it in each terminal.")


def _is_same(there: Profile, settings: Settings) -> bool:
    mine = (settings.supabase_url, settings.environment, settings.service_name)
    try:
        is_same_key = there.supabase_key == settings.supabase_key
    except SettingsError:  # the keyring no longer has the key
        is_same_key = False
    return is_same_key and mine == (there.supabase_url, there.environment, there.service_name)


def _ask_for_place(setup: Setup) -> Choice:
    """Ask where to keep the settings. Offer the keyring only if this machine has one."""
    answers: dict[str, Choice] = {"f": "file", "file": "file", "n": "no", "no": "no"}
    offer, default = "f for a private file, n for no", "f"
    if is_available():
        answers |= {"k": "keyring", "keyring": "keyring"}
        offer, default = f"k for the system's keyring, {offer}", "k"

    def check(answer: str) -> Choice:
        choice = answers.get(answer.strip().lower() or default)
        if choice is None:
            raise Unfit(f"Answer with {offer}.")
        return choice

    prompt = f"Keep URL, key and slot on this machine for later commands? {offer} [{default}]"
    return setup.dialogue.ask(Question(prompt), check)


def _shown(place: Place) -> str:
    return "the keyring" if place == "keyring" else "a private file"
