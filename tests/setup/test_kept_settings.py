"""The next day, in a new terminal: commands and library find URL, key and slot in the profile that init has kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from kis_token import KISAuth, KISClient, SupabaseCredentialManager, get_token
from kis_token.errors import SettingsError
from tests.command import clean
from tests.memory_keyring import MemoryKeyring
from tests.workflows.conftest import needs_scripts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.setup.conftest import Laptop

pytestmark = [needs_scripts, pytest.mark.usefixtures("plain_network")]


@pytest.fixture
def keyring() -> Iterator[MemoryKeyring]:
    """The system's keyring."""
    with MemoryKeyring.in_use() as keyring:
        yield keyring


@pytest.mark.parametrize("place", ["file", "keyring"])
def test_next_day(ready_laptop: Laptop, keyring: MemoryKeyring, place: str) -> None:
    """``init --keep`` stores the settings in a profile.

    Without variables, a new terminal gets the token, and ``check`` names the profile.
    """
    kept = ready_laptop.init("--with-secret", "--keep", place, **ready_laptop.keys)
    again = ready_laptop.run(
        "init", "--yes", "--with-secret", "--keep", place, "--directory", str(ready_laptop.repository)
    )
    got = ready_laptop.run("get", "--json")
    checked = ready_laptop.run("check")

    assert (kept.returncode, "new    profile: default is in " in kept.stdout) == (0, True), kept.stderr
    assert "ok     profile: default has URL, key and slot" in again.stdout
    assert json.loads(got.stdout)["source"] == "supabase"
    shown = "the keyring" if place == "keyring" else "a private file"
    assert (
        f"ok     settings: supabase-url, supabase-key, environment, service-name from the profile default ({shown})\n"
        in checked.stdout
    )
    assert bool(keyring.keys) == (place == "keyring")


def test_places_of_settings(ready_laptop: Laptop) -> None:
    """``check`` names each source of a setting: the command line, the environment or a default."""
    checked = ready_laptop.run("check", "--service", "kis-2", KIS_ENVIRONMENT="production", **ready_laptop.project)

    assert (
        "settings: supabase-url, supabase-key, environment from the environment; service-name from the command line\n"
        in checked.stdout
    )
    assert "environment, service-name from the default\n" in ready_laptop.run("check", **ready_laptop.project).stdout


def test_profile_by_name(ready_laptop: Laptop) -> None:
    """With ``--profile``, init stores the settings in another profile, and check uses that profile.

    Without ``--profile``, a new terminal has no settings.
    """
    ready_laptop.init("--with-secret", "--keep", "file", "--profile", "savings", **ready_laptop.keys)
    by_option = ready_laptop.run("check", "--profile", "savings")
    by_variable = ready_laptop.run("check", KIS_PROFILE="savings")
    other = ready_laptop.run("check", "--profile", "unknown")
    without = ready_laptop.run("check")

    assert by_option.returncode == by_variable.returncode == 0
    assert "from the profile savings (a private file)" in by_option.stdout
    assert (other.returncode, "[profile-unknown]" in other.stdout) == (1, True)
    assert (without.returncode, "[missing-supabase-url]" in without.stdout) == (1, True)


def test_never_in_a_job(ready_laptop: Laptop) -> None:
    """In GitHub Actions no profile is used, not even a named profile, and no profile is kept."""
    ready_laptop.init("--with-secret", "--keep", "file", **ready_laptop.keys)
    ended = ready_laptop.run("get", GITHUB_ACTIONS="true", KIS_PROFILE="default")
    kept = ready_laptop.init("--with-secret", "--keep", "file", "--profile", "job", GITHUB_ACTIONS="true")

    assert (ended.returncode, "[missing-supabase-url]" in ended.stderr) == (1, True)
    assert "profile" not in kept.stdout


def test_other_profile_stays(ready_laptop: Laptop) -> None:
    """A profile with other settings is not replaced with --yes."""
    ready_laptop.init("--with-secret", "--keep", "file", **ready_laptop.keys)
    paper = ready_laptop.sandbox.kis.accounts["paper"][0]
    keys = {"KIS_APP_KEY": paper.app_key, "KIS_APP_SECRET": paper.app_secret}
    url = {"KIS_BASE_URL": ready_laptop.sandbox.kis.paper_url}

    ended = ready_laptop.init("--with-secret", "--keep", "file", KIS_ENVIRONMENT="paper", **keys, **url)

    assert "kept   profile: default has other settings, and was not changed" in ended.stdout
    assert "production, slot kis" in ready_laptop.run("check").stdout


def test_dry_run_keeps_nothing(ready_laptop: Laptop) -> None:
    """A dry run names the profile that it would keep."""
    ended = ready_laptop.init("--with-secret", "--keep", "file", "--dry-run", **ready_laptop.keys)

    assert "would  profile: keep URL, key and slot as default in a private file" in ended.stdout
    assert not (ready_laptop.folder / "home" / ".config").exists()


def test_library_uses_the_profile(ready_laptop: Laptop) -> None:
    """Programs without variables use the profile.

    Given variables replace the profile, and a job does not use a profile.
    """
    ready_laptop.init("--with-secret", "--keep", "file", **ready_laptop.keys)

    with mock.patch.dict(os.environ, clean(ready_laptop.empty), clear=True):
        token = get_token()
        with KISClient() as client:
            assert client.access_token == token.value
        assert KISAuth().base_url == ready_laptop.sandbox.kis.production_url
        credentials = SupabaseCredentialManager().get_kis_credentials()
        assert credentials is not None
        assert credentials["app_key"] == ready_laptop.account.app_key
        with pytest.raises(SettingsError):
            get_token({})
        os.environ["GITHUB_ACTIONS"] = "true"
        with pytest.raises(SettingsError):
            get_token()
        assert not SupabaseCredentialManager().is_available()


LOADED = """
import contextlib, io, sys
from kis_token.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["get"]) == 0
print([name for name in sys.modules if "profiles" in name or "keyring" in name])
"""


def test_complete_environment_loads_no_profile(ready_laptop: Laptop) -> None:
    """If the environment has URL and key, ``kis-token get`` loads neither the profiles nor the keyring."""
    ready_laptop.init("--with-secret", "--keep", "file", **ready_laptop.keys)
    done = subprocess.run(
        [sys.executable, "-c", LOADED],
        env=clean(ready_laptop.empty | ready_laptop.project),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
