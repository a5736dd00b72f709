"""The token files of other KIS clients, each in the client's own form.

Each file has the name, the members and the times that its client reads. docs/clients.md names the clients' releases. No
file contains the app secret. The app key appears only inside the token's claims.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from pathlib import Path

from kis_token.errors import EnvironmentFault, KisTokenError
from kis_token.local.private_files import read_own, write_private
from kis_token.token import KST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from kis_token.config import Settings
    from kis_token.token import AppKey, Token

#: The number of bytes above which a file of koreainvestment-cli is not read.
LARGEST_FILE = 1024 * 1024

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


def export(
    token: Token, app_key: AppKey | None, settings: Settings, env: Mapping[str, str], now: datetime
) -> list[Path]:
    """Write the files of ``settings.token_files``, and return their paths.

    ``env`` names the clients' folders (HOME or USERPROFILE, XDG_CACHE_HOME, KIS_CLI_HOME). ``now`` is the machine's
    time, because KIS's own samples have a file for each local day. Raises EnvironmentFault ``export-failed`` if a file
    cannot be read or written. If a file's name needs the app key and no app key is known, raises KisTokenError
    ``missing-app-key`` before any file is written.
    """
    asked = _Asked(token, app_key, settings, env, now)
    files = [(client, *file) for client in settings.token_files for file in _FORMS[client](asked)]
    for client, path, text in files:
        with _failing(client, "written"):
            write_private(path, text.encode())
    return [path for _, path, _ in files]


@dataclass(frozen=True, slots=True)
class _Asked:
    """The arguments of `export`, from which each client's files are made."""

    token: Token
    app_key: AppKey | None
    settings: Settings
    env: Mapping[str, str] = field(repr=False)
    now: datetime

    @property
    def is_paper(self) -> bool:
        return self.settings.environment == "paper"

    @property
    def home(self) -> Path:
        """The home folder, from the same variable from which Python and Node take it."""
        variable = "USERPROFILE" if os.name == "nt" else "HOME"
        home = self.env.get(variable)
        if not home:
            raise EnvironmentFault("export-failed", f"{variable} is not set, so the clients' folders are not known")
        return Path(home)


def _kis_auth(asked: _Asked) -> list[tuple[Path, str]]:
    """Make the files of KIS's own samples: one file for each local day, with the token's expiry time in local time.

    KIS's samples compare the expiry time in the file with local time without a zone. When clocks are set back, local
    time has the same hour twice. If the clocks are set back within an hour after the token's expiry time, the time in
    the file is an hour before the token's expiry time. If the file had the exact expiry time, KIS's samples would
    use the expired token when local time has the same hour a second time.
    """
    expires_at = asked.token.expires_at
    valid = min(_local(expires_at), _local(expires_at + _HOUR) - _HOUR)
    text = f"token: {asked.token.value}\nvalid-date: {valid:%Y-%m-%d %H:%M:%S}\n"
    today = _local(asked.now).date()
    days = [today, today + _DAY] if valid.date() > today else [today]
    return [(asked.home / "KIS" / "config" / f"KIS{day:%Y%m%d}", text) for day in days]


def _python_kis(asked: _Asked) -> list[tuple[Path, str]]:
    """Make the token file of python-kis, in the form of KIS's answer.

    If ``keep_token`` is set, python-kis reads the token file of its account.
    """
    if asked.app_key is None:
        raise KisTokenError(
            "missing-app-key", "python-kis's token file is named after app key and secret, which are unknown"
        )
    hts_id, token = asked.settings.hts_id, asked.token
    name = f"pykis{hts_id}{asked.app_key.key}{asked.app_key.secret}token"
    digest = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
    members = {
        "access_token": token.value,
        "access_token_token_expired": f"{token.expires_at.astimezone(KST):%Y-%m-%d %H:%M:%S}",
        "token_type": "Bearer",
        "expires_in": int((token.expires_at - token.issued_at).total_seconds()),
    }
    domain = "virtual" if asked.is_paper else "real"
    return [(asked.home / ".pykis" / "cache" / f"token_{domain}_{hts_id}_{digest}.json", json.dumps(members))]


def _kis_trader(asked: _Asked) -> list[tuple[Path, str]]:
    """Make the file of kis-trader. The file is named after the app key's fingerprint, which equals `AppKey.key_id`."""
    key_id = asked.app_key.key_id if asked.app_key is not None else asked.token.app_key_id
    if key_id is None:
        raise KisTokenError("missing-app-key", "kis-trader's token file is named after the app key, which is unknown")
    caches = Path(asked.env.get("XDG_CACHE_HOME", ""))
    folder = caches if caches.is_absolute() else asked.home / ".cache"
    members = {"access_token": asked.token.value, "expires_at": int(asked.token.expires_at.timestamp())}
    name = f"{'paper' if asked.is_paper else 'real'}-{key_id}.json"
    return [(folder / "kis-trader" / "tokens" / name, json.dumps(members))]


def _koreainvestment_cli(asked: _Asked) -> list[tuple[Path, str]]:
    """Make the file of koreainvestment-cli, which has all profiles. Other profiles are kept.

    A broken file is replaced.
    """
    folder = asked.env.get("KIS_CLI_HOME")
    path = (Path(folder) if folder else asked.home / ".kis-cli") / "tokens.json"
    entries: object = None
    with _failing("koreainvestment-cli", "read"), suppress(FileNotFoundError, ValueError, RecursionError):
        entries = json.loads(read_own(path, LARGEST_FILE))
    profile = "paper" if asked.is_paper else "prod"
    entry = {
        "accessToken": asked.token.value,
        "expiresAt": f"{asked.token.expires_at.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%S}.000Z",
        "profile": profile,
    }
    return [(path, json.dumps({**(entries if isinstance(entries, dict) else {}), profile: entry}, indent=2))]


@contextmanager
def _failing(client: str, done: str) -> Iterator[None]:
    """Convert an OSError of the block into EnvironmentFault.

    The error's text does not have the file's name, because the name is derived from keys.
    """
    try:
        yield
    except OSError as error:
        kind = type(error).__name__
        raise EnvironmentFault("export-failed", f"The token file of {client} cannot be {done} ({kind})") from error


def _local(moment: datetime) -> datetime:
    """Return ``moment`` in local time, without a zone."""
    return moment.astimezone().replace(tzinfo=None)


_FORMS: dict[str, Callable[[_Asked], list[tuple[Path, str]]]] = {
    "kis-auth": _kis_auth,
    "python-kis": _python_kis,
    "kis-trader": _kis_trader,
    "koreainvestment-cli": _koreainvestment_cli,
}
