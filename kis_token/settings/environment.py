"""Read the caller's inputs and variables as texts, choices and durations, and report all faults together."""

from __future__ import annotations

from datetime import timedelta

from kis_token.settings.pasted_values import parse_duration, pasted, pasted_words, unwrapped
from kis_token.settings.supabase_project import is_secret_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    _Choice = TypeVar("_Choice", bound=str)

#: The inputs with secrets, and for each input the variable of the same meaning.
SECRETS = {
    "supabase-key": ("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SECRET_KEY"),
    "app-key": ("KIS_APP_KEY",),
    "app-secret": ("KIS_APP_SECRET",),
    "encryption-key": ("KIS_TOKEN_ENCRYPTION_KEY",),
}
#: The variable that names a profile on the user's machine.
PROFILE = "KIS_PROFILE"
_PASTED = {*SECRETS, "supabase-url", "base-url"}

LONGEST_DURATION = timedelta(days=90)
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

#: The variables from which `label` makes the name of a caller.
_NAMES = {
    "GITHUB_REPOSITORY", "GITHUB_RUN_ID", "GITHUB_JOB", "HOSTNAME", "COMPUTERNAME", "USER", "USERNAME",
}  # fmt: skip


def secrets_in(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the secrets in ``env`` that the log must mask. The function also accepts invalid settings.

    The result has each secret as it was given. If the function `pasted` cleans a secret, the result also has the
    cleaned secret.
    """
    found = []
    for setting, variables in SECRETS.items():
        for text in (env.get(name, "") for name in (_input(setting), *variables)):
            words = text.split()
            found += [*words, *(word for word in pasted_words(text) if word not in words)]
    found += filter(None, [env.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")])
    for text in (env.get(name, "") for name in (_input("supabase-url"), "SUPABASE_URL")):
        # The user may have pasted a key, or a connection string with the database's password, instead of the URL.
        user, at, _ = text.partition("://")[2].rpartition("@")
        found += [text, user.partition(":")[2]] if at else filter(is_secret_key, pasted_words(text))
    return tuple(found)


def needs_profile(env: Mapping[str, str]) -> bool:
    """Whether a profile may add settings: URL or key is missing, or a profile is named.

    Always False in GitHub Actions.
    """
    if env.get("GITHUB_ACTIONS"):
        return False
    has_url = any(env.get(name, "").strip() for name in (_input("supabase-url"), "SUPABASE_URL"))
    has_key = any(env.get(name, "").strip() for name in (_input("supabase-key"), *SECRETS["supabase-key"]))
    return bool(env.get(PROFILE, "").strip()) or not (has_url and has_key)


def _input(setting: str) -> str:
    return "INPUT_" + setting.upper().replace("-", "_")


class EnvironmentReader:
    """Reads one environment, and collects the faults and the notes about corrected values."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._faults: list[tuple[str, str]] = []
        self._notes: list[str] = []
        self._is_elsewhere = False

    def _text(self, name: str, *variables: str) -> str:
        if self._is_elsewhere and name in ("base-url", "app-key", "app-secret"):
            variables = ()
        clean = pasted if name in _PASTED else unwrapped
        texts = (clean(self._env.get(key, "")) for key in (_input(name), *variables))
        return next(filter(None, texts), "")

    def _fault(self, code: str, message: str) -> None:
        self._faults.append((code, message))

    def _choice(self, name: str, variable: str | None, choices: tuple[_Choice, ...]) -> _Choice:
        text = self._text(name, *([variable] if variable else [])) or choices[0]
        if text not in choices:
            self._fault(f"invalid-{name}", f"{_called(name, variable)} must be one of {', '.join(choices)}")
        return next((choice for choice in choices if choice == text), choices[0])

    def _boolean(self, name: str, variable: str | None) -> bool:
        text = self._text(name, *([variable] if variable else [])).lower() or "false"
        if text not in _BOOLEANS:
            self._fault("invalid-boolean", f"{_called(name, variable)} is neither true nor false")
        return _BOOLEANS.get(text, False)

    def _duration(self, name: str, variable: str, default: str, most: timedelta = LONGEST_DURATION) -> timedelta:
        duration = parse_duration((self._text(name, variable) or default).lower())
        if duration is None:
            self._fault("invalid-duration", f"{_called(name, variable)} is not a duration")
        elif duration > most:
            self._fault("invalid-duration", f"{_called(name, variable)} is more than {most // timedelta(hours=1)}h")
        elif not duration and name != "min-validity":
            self._fault("invalid-duration", f"{_called(name, variable)} is zero")
        return duration or timedelta()


def _called(name: str, variable: str | None) -> str:
    return f"{name} (or {variable})" if variable else name


def label(env: Mapping[str, str]) -> str:
    """Return the caller's name for the log of leases."""
    # If a variable is not UTF-8, Python reads it with lone surrogates, and such a text cannot be sent.
    names = {name: value.encode(errors="replace").decode() for name, value in env.items() if name in _NAMES}
    if names.get("GITHUB_REPOSITORY"):
        job = f"{names['GITHUB_REPOSITORY']} run {names.get('GITHUB_RUN_ID', '?')} {names.get('GITHUB_JOB', '')}"
        return job.strip()
    host = names.get("HOSTNAME") or names.get("COMPUTERNAME") or "a machine"
    return f"{names.get('USER') or names.get('USERNAME') or 'a user'} on {host}"
