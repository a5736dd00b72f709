"""Profiles: the variables that they add, and the place of their key."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import SettingsError
from kis_token.local.profiles import Profile, completed, file_of, find_additions, read_profile, write_profile
from kis_token.settings.environment import needs_profile
from tests.memory_keyring import MemoryKeyring
from tests.support import SERVICE_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.local.profiles import Place

URL, OTHER_URL = "https://abcdefghijklmnopqrst.supabase.co", "https://tsrqponmlkjihgfedcba.supabase.co"
OTHER_KEY = "sb_secret_made-up-for-another-project_8sJk2"
ALL = {
    "SUPABASE_URL": URL,
    "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY,
    "KIS_ENVIRONMENT": "paper",
    "KIS_SERVICE_NAME": "kis-try",
}


@pytest.fixture
def keyring() -> Iterator[MemoryKeyring]:
    """The system's keyring."""
    with MemoryKeyring.in_use() as keyring:
        yield keyring


def keep(place: Place = "file", name: str = "default") -> None:
    """Write a profile."""
    write_profile(Profile(name, URL, "paper", "kis-try", place), SERVICE_KEY)


@pytest.mark.parametrize("place", ["file", "keyring"])
def test_profile_fills_in_what_is_missing(keyring: MemoryKeyring, place: Place) -> None:
    """Without variables, URL, key and slot come from the profile; the key is in the keyring or in the file."""
    keep(place)

    assert completed({}) == ALL
    assert keyring.keys == ({("kis-token", "default"): SERVICE_KEY} if place == "keyring" else {})
    file = file_of("default")
    assert file is not None
    assert (SERVICE_KEY in file.read_text()) == (place == "file")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
@pytest.mark.parametrize("place", ["file", "keyring"])
def test_no_other_user_can_read_it(keyring: MemoryKeyring, place: Place) -> None:
    """The file has mode 0600, and its folder 0700. The repr of a profile or of its additions shows no key."""
    assert keyring.keys == {}
    keep(place)
    file = file_of("default")
    assert file is not None

    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert SERVICE_KEY not in f"{read_profile('default')!r} {find_additions({})!r}"


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ({"SUPABASE_URL": URL}, {"SUPABASE_SERVICE_ROLE_KEY", "KIS_ENVIRONMENT", "KIS_SERVICE_NAME"}),
        ({"SUPABASE_URL": f"{URL}/rest/v1/"}, {"SUPABASE_SERVICE_ROLE_KEY", "KIS_ENVIRONMENT", "KIS_SERVICE_NAME"}),
        ({"SUPABASE_URL": OTHER_URL}, {"KIS_ENVIRONMENT", "KIS_SERVICE_NAME"}),
        ({"SUPABASE_SECRET_KEY": SERVICE_KEY}, {"SUPABASE_URL", "KIS_ENVIRONMENT", "KIS_SERVICE_NAME"}),
        ({"SUPABASE_SECRET_KEY": OTHER_KEY}, {"KIS_ENVIRONMENT", "KIS_SERVICE_NAME"}),
        ({"INPUT_SUPABASE_URL": OTHER_URL}, {"KIS_ENVIRONMENT", "KIS_SERVICE_NAME"}),
        ({"KIS_ENVIRONMENT": "production"}, {"SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY"}),
        ({"INPUT_ENVIRONMENT": "production"}, {"SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY"}),
        ({"KIS_SERVICE_NAME": "kis-2"}, {"SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "KIS_ENVIRONMENT"}),
        ({"SUPABASE_URL": " "}, set(ALL)),
    ],
    ids=["URL", "other form", "other URL", "key", "other key", "input", "environment", "option", "slot", "blank"],
)
def test_environment_wins(given: dict[str, str], added: set[str]) -> None:
    """A given variable is kept. A profile adds no key or URL of another project, and no slot of another environment."""
    keep()
    additions = find_additions(given)

    assert additions is not None
    assert set(additions.variables) == added
    assert {name: completed(given)[name] for name in given if given[name].strip()} == {
        name: value for name, value in given.items() if value.strip()
    }


@pytest.mark.parametrize(
    ("env", "needed"),
    [
        ({}, True),
        ({"SUPABASE_URL": URL}, True),
        ({"SUPABASE_URL": URL, "SUPABASE_SECRET_KEY": SERVICE_KEY}, False),
        ({"INPUT_SUPABASE_URL": URL, "INPUT_SUPABASE_KEY": SERVICE_KEY}, False),
        ({"SUPABASE_URL": URL, "SUPABASE_SECRET_KEY": SERVICE_KEY, "KIS_PROFILE": "a"}, True),
        ({"GITHUB_ACTIONS": "true"}, False),
        ({"GITHUB_ACTIONS": "true", "KIS_PROFILE": "a"}, False),
    ],
    ids=["nothing", "URL", "both", "inputs", "named", "in a job", "named in a job"],
)
def test_profile_is_for_incomplete_laptops(env: dict[str, str], *, needed: bool) -> None:
    """If the environment is complete, only a named profile is used. A job of GitHub Actions never uses a profile."""
    assert needs_profile(env) is needed


def test_profiles_have_names(keyring: MemoryKeyring) -> None:
    """KIS_PROFILE selects a profile; an unknown name is an error. Without a default profile, no variable is added."""
    assert completed({}) == {}
    keep("keyring", "savings")

    assert completed({"KIS_PROFILE": "savings"}) == ALL | {"KIS_PROFILE": "savings"}
    for name in ("unknown", "../default", "a/b"):
        with pytest.raises(SettingsError) as caught:
            completed({"KIS_PROFILE": name})
        assert caught.value.code == "profile-unknown"
    assert list(keyring.keys) == [("kis-token", "savings")]


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "[]",
        "{}",
        json.dumps({"supabase_url": URL, "environment": "paper", "service_name": "kis", "place": "file"}),
        json.dumps({"supabase_url": 1, "environment": "paper", "service_name": "kis", "place": "keyring"}),
        json.dumps({"supabase_url": URL, "environment": "both", "service_name": "kis", "place": "keyring"}),
    ],
    ids=["empty", "list", "object", "no key", "no text", "environment"],
)
def test_damaged_profile(damaged: str) -> None:
    """A damaged file is an error that names the file."""
    keep()
    file = file_of("default")
    assert file is not None
    file.write_text(damaged)

    with pytest.raises(SettingsError, match="cannot be read: ") as caught:
        completed({})
    assert (caught.value.code, str(file) in f"{caught.value}") == ("profile-unusable", True)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such modes")
def test_file_that_others_can_write() -> None:
    """A file that another user may have written is not used."""
    keep()
    file = file_of("default")
    assert file is not None
    file.chmod(0o666)

    with pytest.raises(SettingsError, match="profile-unusable"):
        completed({})
    file.unlink()


def test_keyring_that_does_not_answer(keyring: MemoryKeyring) -> None:
    """If the keyring has no key, or fails, that is an error, and the error repeats no text of the keyring."""
    keep("keyring")
    keyring.keys.clear()
    with pytest.raises(SettingsError, match="has no key"):
        completed({})
    keyring.fault = RuntimeError(f"cannot decrypt {OTHER_KEY}")
    with pytest.raises(SettingsError, match=r"does not give .*RuntimeError") as caught:
        completed({})
    with pytest.raises(SettingsError, match="does not store"):
        keep("keyring")

    assert OTHER_KEY not in f"{caught.value!r}"
    assert completed({"SUPABASE_URL": OTHER_URL})["SUPABASE_URL"] == OTHER_URL  # the keyring is not read
