"""Named profiles, which keep settings on a laptop: the project's URL and key, and the slot.

A profile is a private file of the user. The project's secret key is in this file or in the system's keyring. If the key
is in the keyring, the file has no secret. A profile adds variables that are missing, and never replaces a variable. A
job of GitHub Actions never uses a profile: in a job, a missing secret is an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from kis_token.config import ENVIRONMENTS, SERVICE_NAME
from kis_token.errors import SettingsError
from kis_token.local.private_files import read_own, write_private
from kis_token.process.caller_identity import user_config_folder
from kis_token.settings.environment import PROFILE, SECRETS
from kis_token.settings.pasted_values import pasted, pasted_words
from kis_token.settings.supabase_project import parse_project_url

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kis_token.config import Environment

Place = Literal["keyring", "file"]

#: The profile that is used if KIS_PROFILE is not set.
DEFAULT = "default"
_LARGEST_FILE = 65536


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile. If the key is in the keyring, ``key_in_file`` is None. The repr shows no key."""

    name: str
    supabase_url: str
    environment: Environment
    service_name: str
    place: Place
    key_in_file: str | None = field(default=None, repr=False)

    @property
    def supabase_key(self) -> str:
        """The project's secret key. The user may have to unlock the keyring.

        Raises SettingsError ``profile-unusable``.
        """
        if self.key_in_file is not None:
            return self.key_in_file
        from kis_token.local.keyring_keys import read_key  # needs the extra

        return read_key(self.name)


@dataclass(frozen=True, slots=True)
class Additions:
    """A profile, and the variables that the profile adds. The repr does not show the variables."""

    profile: Profile
    variables: Mapping[str, str] = field(repr=False)


def file_of(name: str) -> Path | None:
    """Return the file of a profile, or None if the user has no home folder or no profile can have this name."""
    folder = user_config_folder()
    is_name = SERVICE_NAME.fullmatch(name) is not None
    return folder / "profiles" / f"{name}.json" if folder is not None and is_name else None


def read_profile(name: str) -> Profile | None:
    """Return the profile with this name, or None if it does not exist.

    Raises SettingsError ``profile-unusable`` if the profile's file is damaged.
    """
    file = file_of(name)
    if file is None:
        return None
    try:
        found = json.loads(read_own(file, _LARGEST_FILE))
        key, place, environment = found.get("supabase_key"), found["place"], found["environment"]
        texts = (found["supabase_url"], found["service_name"], key if place == "file" else "")
        if place not in ("keyring", "file") or environment not in ENVIRONMENTS or not all(map(_is_text, texts)):
            raise ValueError  # noqa: TRY301 - the `except` below handles all faults of a profile's file
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SettingsError([("profile-unusable", f"The profile {name} cannot be read: {file}")]) from None
    return Profile(
        name,
        found["supabase_url"],
        cast("Environment", environment),
        found["service_name"],
        place,
        key if place == "file" else None,
    )


def write_profile(profile: Profile, key: str) -> Path:
    """Write a profile, store the key in the place that the profile names, and return the profile's file.

    Raises SettingsError ``profile-unusable``.
    """
    file = file_of(profile.name)
    if file is None:
        said = "The profile cannot be written: this user has no home folder, or the profile's name is not valid"
        raise SettingsError([("profile-unusable", said)])
    members = {
        "supabase_url": profile.supabase_url,
        "environment": profile.environment,
        "service_name": profile.service_name,
        "place": profile.place,
    }
    if profile.place == "keyring":
        from kis_token.local.keyring_keys import write_key  # needs the extra

        write_key(profile.name, key)
    else:
        members["supabase_key"] = key
    try:
        write_private(file, (json.dumps(members, indent=2) + "\n").encode())
    except OSError as error:
        said = f"The profile {profile.name} cannot be written ({error.strerror}): {file}"
        raise SettingsError([("profile-unusable", said)]) from None
    return file


def find_additions(env: Mapping[str, str]) -> Additions | None:
    """Return the variables that a profile adds to ``env``, or None if the profile does not exist.

    The caller has already checked `needs_profile`. URL and key must belong to one project. If ``env`` has a URL and no
    key, the profile adds its key only if the profile has the same URL. If ``env`` has a key and no URL, the profile
    adds its URL only if the profile has the same key. If ``env`` lacks the setting ``environment``, the profile adds
    its environment. If ``env`` lacks both ``environment`` and ``service-name``, the profile also adds its slot.

    If no profile has the name in KIS_PROFILE, raises SettingsError ``profile-unknown``. If the profile cannot be read,
    raises SettingsError ``profile-unusable``.
    """
    named = env.get(PROFILE, "").strip()
    profile = read_profile(named or DEFAULT)
    if profile is None:
        if named:
            raise SettingsError([("profile-unknown", "There is no profile with the name in KIS_PROFILE")])
        return None
    added = {}
    url = _given(env, "supabase-url", "SUPABASE_URL")
    key = _given(env, "supabase-key", *SECRETS["supabase-key"])
    if not key and (not url or parse_project_url(pasted(url)) == profile.supabase_url):
        added["SUPABASE_SERVICE_ROLE_KEY"] = profile.supabase_key
    if not url and (not key or pasted_words(key) == profile.supabase_key.split()):
        added["SUPABASE_URL"] = profile.supabase_url
    if not _given(env, "environment", "KIS_ENVIRONMENT"):
        added["KIS_ENVIRONMENT"] = profile.environment
        if not _given(env, "service-name", "KIS_SERVICE_NAME"):
            added["KIS_SERVICE_NAME"] = profile.service_name
    return Additions(profile, added)


def completed(env: Mapping[str, str]) -> Mapping[str, str]:
    """Return ``env`` with the variables that its profile adds. Raises SettingsError."""
    additions = find_additions(env)
    return env if additions is None else {**env, **additions.variables}


def _given(env: Mapping[str, str], setting: str, *variables: str) -> str:
    names = ("INPUT_" + setting.upper().replace("-", "_"), *variables)
    return next(filter(None, (env.get(name, "").strip() for name in names)), "")


def _is_text(value: object) -> bool:
    return isinstance(value, str)
