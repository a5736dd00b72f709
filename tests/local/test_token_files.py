"""The token files of other clients: their names, their content, and values that they never contain.

The tests in clients/ run the real clients with these files; clients/test_kis_auth.py tests kis-auth's file with
several clocks.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from kis_token.config import TOKEN_FILE_CLIENTS
from kis_token.errors import KisTokenError
from kis_token.local.token_files import LARGEST_FILE, export
from kis_token.token import build_token
from tests.support import APP_KEY, make_settings, make_token

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kis_token.token import AppKey, Token

pytestmark = pytest.mark.skipif(os.name == "nt", reason="home is found by another variable there")

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=timezone.utc)
OPAQUE = "opaque.token-of-a-test_0123456789"
HTS_ID = "someone"


def noon_token() -> Token:
    """A token without claims that is valid for three hours after noon."""
    end = NOON + timedelta(hours=3)
    return build_token(OPAQUE, expiries=[end], issued_at=end - timedelta(hours=24))


def write(
    home: Path,
    clients: str,
    token: Token | None = None,
    app_key: AppKey | None = APP_KEY,
    *,
    environment: str = "production",
    env: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write the files of some clients."""
    settings = make_settings(INPUT_TOKEN_FILES=clients, KIS_ENVIRONMENT=environment, KIS_HTS_ID=HTS_ID)
    return export(token or noon_token(), app_key, settings, {"HOME": str(home), **(env or {})}, NOON)


def failure(*arguments: object, **changes: object) -> KisTokenError:
    """The error of a failed write."""
    with pytest.raises(KisTokenError) as caught:
        write(*arguments, **changes)  # type: ignore[arg-type]  # the tests pass write's arguments
    return caught.value


@pytest.mark.parametrize(("environment", "domain"), [("production", "real"), ("paper", "virtual")])
def test_python_kis(tmp_path: Path, environment: str, domain: str) -> None:
    """The file's name is derived from id, key and secret; the file has KIS's answer, with the end in Korea time."""
    (path,) = write(tmp_path, "python-kis", environment=environment)

    digest = hashlib.sha1(f"pykis{HTS_ID}{APP_KEY.key}{APP_KEY.secret}token".encode()).hexdigest()  # noqa: S324 - theirs
    assert path == tmp_path / ".pykis" / "cache" / f"token_{domain}_{HTS_ID}_{digest}.json"
    assert json.loads(path.read_text()) == {
        "access_token": OPAQUE,
        "access_token_token_expired": "2026-03-03 00:00:00",
        "token_type": "Bearer",
        "expires_in": 86400,
    }


@pytest.mark.parametrize(("environment", "domain"), [("production", "real"), ("paper", "paper")])
def test_kis_trader(tmp_path: Path, environment: str, domain: str) -> None:
    """The file's name has the app key's hash; the file has the token and its end in epoch seconds."""
    (path,) = write(tmp_path, "kis-trader", environment=environment)

    digest = hashlib.sha256(APP_KEY.key.encode()).hexdigest()[:16]
    assert path == tmp_path / ".cache" / "kis-trader" / "tokens" / f"{domain}-{digest}.json"
    assert json.loads(path.read_text()) == {"access_token": OPAQUE, "expires_at": int(NOON.timestamp()) + 3 * 3600}


@pytest.mark.parametrize(("environment", "profile"), [("production", "prod"), ("paper", "paper")])
def test_koreainvestment_cli(tmp_path: Path, environment: str, profile: str) -> None:
    """The entry has the client's own name for the environment, and its end is in UTC."""
    (path,) = write(tmp_path, "koreainvestment-cli", environment=environment)

    assert path == tmp_path / ".kis-cli" / "tokens.json"
    entry = {"accessToken": OPAQUE, "expiresAt": "2026-03-02T15:00:00.000Z", "profile": profile}
    assert json.loads(path.read_text()) == {profile: entry}


def test_other_profiles_are_kept(tmp_path: Path) -> None:
    """In koreainvestment-cli's file, only the entry of this environment is replaced."""
    path = tmp_path / ".kis-cli" / "tokens.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"isa": {"accessToken": "x"}, "prod": {"accessToken": "old"}, "toss:default": {}}))

    write(tmp_path, "koreainvestment-cli")

    entries = json.loads(path.read_text())
    assert {name: entry.get("profile") for name, entry in entries.items()} == {
        "isa": None,
        "prod": "prod",
        "toss:default": None,
    }
    assert entries["isa"] == {"accessToken": "x"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=repr)
def test_broken_file_of_profiles_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    """A broken file counts as empty, because the client also treats it as empty."""
    path = tmp_path / ".kis-cli" / "tokens.json"
    path.parent.mkdir()
    path.write_bytes(content)
    assert list(json.loads(write(tmp_path, "koreainvestment-cli")[0].read_text())) == ["prod"]


def test_file_of_profiles_that_cannot_be_read_is_not_lost(tmp_path: Path) -> None:
    """A link, or a file that is too large, is an error and is not replaced, because it may have other entries."""
    path, target = tmp_path / ".kis-cli" / "tokens.json", tmp_path / "target"
    path.parent.mkdir()
    target.write_text('{"isa": {}}')
    path.symlink_to(target)
    assert failure(tmp_path, "koreainvestment-cli").code == "export-failed"
    assert path.is_symlink()
    path.unlink()
    path.write_bytes(b" " * (LARGEST_FILE + 1))
    assert failure(tmp_path, "koreainvestment-cli").code == "export-failed"
    assert path.stat().st_size == LARGEST_FILE + 1


def test_clients_folders_may_be_elsewhere(tmp_path: Path) -> None:
    """The export uses the clients' variables. Like the clients, it ignores empty values and a relative cache."""
    elsewhere = {"XDG_CACHE_HOME": str(tmp_path / "caches"), "KIS_CLI_HOME": str(tmp_path / "cli")}
    trader, cli = write(tmp_path, "kis-trader koreainvestment-cli", env=elsewhere)
    assert trader.is_relative_to(tmp_path / "caches" / "kis-trader" / "tokens")
    assert cli == tmp_path / "cli" / "tokens.json"
    unusable = {"XDG_CACHE_HOME": "caches", "KIS_CLI_HOME": ""}
    trader, cli = write(tmp_path, "kis-trader koreainvestment-cli", env=unusable)
    assert trader.is_relative_to(tmp_path / ".cache")
    assert cli == tmp_path / ".kis-cli" / "tokens.json"


def test_files_are_private_and_hold_neither_key_nor_secret(tmp_path: Path) -> None:
    """Files are 0600 in folders 0700 for any umask. Files and file names do not contain the account's keys."""
    before = os.umask(0)
    try:
        paths = write(tmp_path, ",".join(TOKEN_FILE_CLIENTS))
    finally:
        os.umask(before)

    assert len(paths) == len(TOKEN_FILE_CLIENTS)
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700}
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    for path in paths:
        said = f"{path}\n{path.read_text()}"
        shown = any(secret in said for secret in (APP_KEY.key, APP_KEY.secret))
        assert not shown, f"{path.name} holds a key"


def test_link_in_a_files_place_is_replaced(tmp_path: Path) -> None:
    """A link in the file's place is replaced, and the link's target stays unchanged."""
    target = tmp_path / "target"
    target.write_text("theirs")
    (path,) = write(tmp_path, "kis-trader")
    path.unlink()
    path.symlink_to(target)
    write(tmp_path, "kis-trader")
    assert not path.is_symlink()
    assert target.read_text() == "theirs"


def test_kis_trader_needs_no_key_where_the_token_says_whose_it_is(tmp_path: Path) -> None:
    """kis-trader's file name needs only the app key's fingerprint, which the token contains, and not the app key."""
    jwt = make_token(now=NOON)
    assert write(tmp_path, "kis-trader", jwt, None) == write(tmp_path, "kis-trader", jwt, APP_KEY)


@pytest.mark.parametrize("client", ["python-kis", "kis-trader"])
def test_unknown_key_is_an_error_before_anything_is_written(tmp_path: Path, client: str) -> None:
    """If the name of one file needs the app key and the key is unknown, no file is written."""
    assert failure(tmp_path, f"kis-auth {client}", app_key=None).code == "missing-app-key"
    assert list(tmp_path.iterdir()) == []


def test_file_that_cannot_be_written_is_an_error_without_its_name(tmp_path: Path) -> None:
    """The error names the client and not the file, because python-kis's file names are derived from an id."""
    (tmp_path / ".pykis").touch()
    error = failure(tmp_path, "python-kis")
    assert error.code == "export-failed"
    assert "python-kis" in error.args[0]
    assert HTS_ID not in error.args[0]


def test_home_has_to_be_known(tmp_path: Path) -> None:
    """Without HOME the export fails."""
    assert failure(tmp_path, "kis-auth", env={"HOME": ""}).code == "export-failed"
