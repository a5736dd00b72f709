"""Pasted values: quotes are cut off, impossible values are reported, and no value is guessed."""

from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_token.config import KIS_HOSTS, Settings
from kis_token.errors import SettingsError
from kis_token.settings.environment import secrets_in
from kis_token.settings.pasted_values import (
    is_masked,
    is_one_word,
    is_placeholder,
    parse_encryption_key,
    pasted,
    pasted_words,
    unwrapped,
)
from kis_token.settings.supabase_project import parse_host_url, parse_project_url
from tests.support import ACCOUNT, ANON_KEY, SERVICE_KEY, make_settings

REF = "abcdefghijklmnopqrst"
URL = f"https://{REF}.supabase.co"
KEYS = {"KIS_APP_KEY": ACCOUNT.app_key, "KIS_APP_SECRET": ACCOUNT.app_secret}

#: Additions around a pasted value.
AROUND = {
    "double quotes": '"{}"',
    "single quotes": "'{}'",
    "backquotes": "`{}`",
    "typographic quotes": "\u201c{}\u201d",
    "typographic single quotes": "\u2018{}\u2019",
    "German quotes": "\u201e{}\u201c",
    "corner brackets": "\u300c{}\u300d",
    "quotes in quotes": "'\"{}\"'",
    "escaped quotes": '\\"{}\\"',
    "quotes and blanks": ' " {} " ',
    "Windows line end": "{}\r\n",
    "byte order mark": "\ufeff{}",
    "byte order mark in Latin-1": "\u00ef\u00bb\u00bf{}",
    "zero-width space": "\u200b{}\u200b",
    "no-break space": "\u00a0{}\u00a0",
    "ideographic space": "\u3000{}",
    "Hangul filler": "\u3164{}",
    "mark of direction": "\u200e{}\u202c",
    "a line break spelled out": "{}\\n",
}
#: Additions that are cut off only from keys and URLs.
PASTED = {
    "NAME=": "KIS_APP_KEY={}",
    "NAME= and quotes": 'KIS_APP_KEY="{}"',
    "export": "export SUPABASE_URL='{}'",
    "PowerShell": '$env:KIS_APP_SECRET = "{}"',
    "YAML": 'my_sec: "{}"',
    "JSON": '"app_key": "{}",',
    "JSON's last": '"app_key": "{}"',
    "a quoted assignment": '"KIS_APP_KEY={}"',
    "a comment in quotes": '"{} # paper account"',
    "JavaScript": 'const APP_KEY = "{}";',
    "a comment": "{} # paper account",
    "a comment after quotes": '"{}"  # paper account',
    "Bearer": "Bearer {}",
    "a header": "Authorization: Bearer {}",
    "apikey": "apikey: {}",
}


@pytest.mark.parametrize("name", [*AROUND, *PASTED])
@pytest.mark.parametrize("value", [ACCOUNT.app_key, ACCOUNT.app_secret, SERVICE_KEY, URL], ids=["k", "s", "sb", "url"])
def test_additions_around_a_value_are_cut_off(name: str, value: str) -> None:
    """With any of these additions around a key or a URL, the value is the text inside."""
    text = (AROUND | PASTED)[name].format(value)
    is_cut = pasted(text) == value
    assert is_cut


@pytest.mark.parametrize("name", [*AROUND, *PASTED])
def test_settings_from_dirty_values(name: str) -> None:
    """Additions around keys, URL and encryption key in a file do not change the settings."""
    around = (AROUND | PASTED)[name]
    encryption_key = base64.b64encode(bytes(range(32))).decode()
    given_values = KEYS | {
        "SUPABASE_URL": URL,
        "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY,
        "KIS_TOKEN_ENCRYPTION_KEY": encryption_key,
    }
    settings = make_settings(**{variable: around.format(value) for variable, value in given_values.items()})
    found = (settings.app_key, settings.app_secret, settings.supabase_url, settings.supabase_key)
    assert (found == (*KEYS.values(), URL, SERVICE_KEY), settings.encryption_keys == (bytes(range(32)),)) == (
        True,
        True,
    )
    assert settings.notes == ()


@pytest.mark.parametrize("name", AROUND)
def test_other_settings_lose_quotes_too(name: str) -> None:
    """If a program keeps the quotes of a file, the quotes are cut off from every setting, and not only from keys."""
    if name == "a line break spelled out":
        return
    values = {"KIS_ENVIRONMENT": "paper", "KIS_TOKEN_TIMEOUT": "90s", "KIS_TOKEN_CACHE": "off", "KIS_ACCOUNT_NO": "1-1"}
    settings = make_settings(**{variable: AROUND[name].format(value) for variable, value in values.items()})
    assert (settings.environment, settings.timeout.seconds, settings.cache_path) == ("paper", 90, None)
    assert settings.account_no == "1-1"


@pytest.mark.parametrize("text", ["null", "None", '"null"', "'None'", "undefined", "NULL", "nan", "<nil>", '""', "''"])
def test_words_for_nothing_are_nothing(text: str) -> None:
    """A word that programs write for a missing value counts as not given: if the variable is set, it is used."""
    settings = make_settings(INPUT_APP_KEY=text, INPUT_APP_SECRET=text)
    assert (settings.app_key, settings.app_secret) == (None, None)
    other = make_settings(INPUT_APP_KEY=text, INPUT_APP_SECRET=text, **KEYS)
    is_other = (other.app_key, other.app_secret) == tuple(KEYS.values())
    assert is_other
    assert faults(SUPABASE_URL=text) == ["missing-supabase-url"]


def faults(**variables: str) -> list[str]:
    """Return the codes of the faults, and assert that no text shows a value."""
    return [code for code, _ in told(**variables)]


def told(**variables: str) -> list[tuple[str, str]]:
    """Return the faults' codes and messages in an otherwise complete environment.

    Assert that no message shows a value.
    """
    complete = {"SUPABASE_URL": URL, "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY, "KIS_TOKEN_CACHE": "off"}
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(complete | variables)
    shown = "".join(f"{fault} {fault.hint}" for fault in caught.value.faults)
    is_shown = any(value in shown for name, value in variables.items() if name != "SUPABASE_URL" and len(value) > 15)
    assert not is_shown, "a secret is shown"
    return [(fault.code, f"{fault.args[0]}") for fault in caught.value.faults]


SWAPPED = {
    "both": {"KIS_APP_KEY": ACCOUNT.app_secret, "KIS_APP_SECRET": ACCOUNT.app_key},
    "in quotes": {"KIS_APP_KEY": f'"{ACCOUNT.app_secret}"', "KIS_APP_SECRET": f'"{ACCOUNT.app_key}"'},
    "the secret twice": {"KIS_APP_KEY": ACCOUNT.app_secret, "KIS_APP_SECRET": ACCOUNT.app_secret},
    "the key twice": {"KIS_APP_KEY": ACCOUNT.app_key, "KIS_APP_SECRET": ACCOUNT.app_key},
    "paper's key as the secret": KEYS | {"KIS_APP_SECRET": "PS" + "p" * 34},
}


@pytest.mark.parametrize("case", SWAPPED)
def test_swapped_keys_are_named(case: str) -> None:
    """An app key of 180 characters, or an app secret of 36 characters, is reported as swapped."""
    ((code, message),) = told(**SWAPPED[case])
    assert code == "swapped-app-key"
    assert "swapped?" in message


def test_one_value_in_both_places_is_named() -> None:
    """One value as app key and as app secret is reported, even if its length is not that of a key or secret."""
    assert told(KIS_APP_KEY="made-up", KIS_APP_SECRET="made-up")[0][1].endswith("is the same value as the app secret")


def test_another_length_alone_is_no_error() -> None:
    """KIS may change the lengths, so KIS decides about a key of another length."""
    settings = make_settings(KIS_APP_KEY=ACCOUNT.app_key[:-1], KIS_APP_SECRET=ACCOUNT.app_secret[:-1])
    assert settings.app_key is not None


STAND_INS = [
    "***", "********", "PS****7654", "PSab\u2022\u2022\u2022\u2022", "PSabcd...wxyz", "PSabcd\u2026", "<your key>",
    "your_app_key", "YOUR-APP-KEY", "your_app_key_here", "$KIS_APP_KEY", "${KIS_APP_KEY}", "$(kis)",
    "${{ secrets.KIS_APP_KEY }}", "{{KIS_APP_KEY}}", "%KIS_APP_KEY%", "[app-key]", "{app_key}", "KIS_APP_KEY",
    "changeme", "xxxx", "\u314f\u314f\uc571\ud0a4",
]  # fmt: skip


@pytest.mark.parametrize("value", STAND_INS)
def test_a_stand_in_for_a_key_is_named(value: str) -> None:
    """A masked value, an example's words and an unfilled variable are faults, and are not sent."""
    assert faults(**KEYS | {"KIS_APP_KEY": value}) == ["invalid-app-key"]
    assert faults(**KEYS | {"KIS_APP_SECRET": value}) == ["invalid-app-secret"]
    assert faults(SUPABASE_SERVICE_ROLE_KEY=value) == ["invalid-supabase-key"]


@pytest.mark.parametrize("value", ['"PSabc', "PSabc'", "PS`abc"])
def test_a_quote_that_stays_is_named(value: str) -> None:
    """A quote on one side only is a fault and is not cut off, because a part of the key may be missing."""
    assert faults(**KEYS | {"KIS_APP_KEY": value}) == ["invalid-app-key"]


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/", min_size=1, max_size=180))
def test_base64_stays_as_it_is(text: str) -> None:
    """No part of a key is cut off, even if its letters look like a variable's name before a "="."""
    for padded in (text, f"{text}=", f"{text}=="):
        is_same = pasted(padded) == padded
        assert is_same or unwrapped(text) == ""
    assert not is_masked(text)


@given(st.text())
def test_any_text_can_be_cleaned(text: str) -> None:
    """Cleaning ends, adds no character, and a second cleaning changes nothing."""
    for clean in (unwrapped, pasted):
        once = clean(text)
        assert once in text
        assert clean(once) == once


@given(st.text(alphabet=st.sampled_from("\"'`\\ \n=:#,;$<>nullBearer kEY\u201c\ufeff")))
def test_text_of_removed_characters_can_be_cleaned(text: str) -> None:
    """A text that has only characters to be removed can also be cleaned."""
    test_any_text_can_be_cleaned.hypothesis.inner_test(text)  # type: ignore[attr-defined]  # hypothesis's own
    is_placeholder(text)
    parse_project_url(text)


ADDRESSES = [
    f"http://{REF}.supabase.co", f"{REF}.supabase.co", f"//{REF}.supabase.co"[2:] + "/", REF, REF.upper(),
    f"{URL}/rest/v1/", f"{URL}/rest/v1", f"{URL}/auth/v1?apikey=x", f"{URL}/#/project", f"{URL}:5432", f"{URL}m",
    f"https:/{REF}.supabase.co", f"https://{URL}", f"https://db.{REF}.supabase.co", f"db.{REF}.supabase.co:5432",
    f"https://{REF}.functions.supabase.co/hello", f"https://{REF}.storage.supabase.co/storage/v1/s3",
    f"wss://{REF}.supabase.co/realtime/v1", f"https://supabase.com/dashboard/project/{REF}",
    f"https://supabase.com/dashboard/project/{REF}/settings/api-keys?x=1",
    f"supabase.com/dashboard/project/{REF}/editor", f"https://app.supabase.com/project/{REF}/settings/api", f"https://app.supabase.io/project/{REF}",
    f"postgresql://postgres:made-up@db.{REF}.supabase.co:5432/postgres",
    f"postgres://postgres:m@de/up@db.{REF}.supabase.co:6543/postgres?sslmode=require",
    f"postgresql://postgres.{REF}:[YOUR-PASSWORD]@aws-0-ap-northeast-2.pooler.supabase.com:6543/postgres",
]  # fmt: skip


@pytest.mark.parametrize("text", ADDRESSES)
def test_other_addresses_of_a_project_are_mended(text: str) -> None:
    """If an address contains the project's name, the project's URL is used, and one note reports it."""
    settings = make_settings(SUPABASE_URL=text)
    assert settings.supabase_url == URL
    (note,) = settings.notes
    assert URL in note
    assert "made-up" not in note


@pytest.mark.parametrize("text", [URL, f"{URL}/", f"HTTPS://{REF.upper()}.Supabase.CO", f"{URL}.", f'"{URL}"'])
def test_spellings_of_the_url_need_no_note(text: str) -> None:
    """Capital letters, and a slash or a dot at the end, do not change the URL."""
    settings = make_settings(SUPABASE_URL=text)
    assert (settings.supabase_url, settings.notes) == (URL, ())


WRONG_URLS = {
    "https://example.supabase.co/rest/v1": "the URL without this text is https://example.supabase.co",
    "https://api.example.com/rest/v1/": "the URL without this text is https://api.example.com",
    "http://localhost:54321/rest/v1": "the URL without this text is http://localhost:54321",
    "example.supabase.co": "has no https:// before the host",
    "http://example.supabase.co": "begins with http://",
    "https://your-project-id.supabase.co": "is a placeholder",
    "https://<project>.supabase.co": "is a placeholder",
    "https://[project-ref].supabase.co": "is a placeholder",
    "https://xxxxxxxxxxxxxxxxxxxx.supabase.co": "is a placeholder",
    "https://*.supabase.co": "is a placeholder",
    "${SUPABASE_URL}": "is a placeholder",
    "https://supabase.com/dashboard/projects": "the dashboard's address",
    "postgresql://u:p@localhost/postgres": "a connection string of the database",
    f"https://{REF}.supabase.co@evil.example": "is not a URL that can be used",
    f"https://evil.example/@{REF}.supabase.co": "the URL without this text is https://evil.example",
}


@pytest.mark.parametrize("text", WRONG_URLS)
def test_a_url_that_could_mean_several_things_is_told(text: str) -> None:
    """The message describes the value and, if possible, has the URL to give instead."""
    ((code, message),) = told(SUPABASE_URL=text)
    assert (code, WRONG_URLS[text] in message) == ("invalid-supabase-url", True)


def test_a_key_in_the_place_of_the_url() -> None:
    """If URL and key are swapped, the report does not show the key."""
    ((code, message),) = told(SUPABASE_URL=SERVICE_KEY, SUPABASE_SERVICE_ROLE_KEY=jwt(role="service_role"))
    assert (code, "swapped?" in message, SERVICE_KEY in message) == ("invalid-supabase-url", True, False)


def jwt(**claims: str) -> str:
    """A key of Supabase's older form, a JWT."""
    return f"eyJhbGciOiJIUzI1NiJ9.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


WRONG_KEYS = {
    "access token": ("sbp_0123456789abcdef0123456789abcdef01234567", "invalid-supabase-key", "personal access token"),
    "masked": ("sb_secret_abcde\u00b7\u00b7\u00b7\u00b7\u00b7\u00b7\u00b7", "invalid-supabase-key", "masked"),
    "masked JWT": ("eyJhbGciOiJIUzI1NiIsInR5cCI6...", "invalid-supabase-key", "masked"),
    "the guide's": ("your_service_role_key_here", "invalid-supabase-key", "placeholder"),
    "URL": (URL, "invalid-supabase-key", "is a URL"),
    "connection string": (f"postgresql://u:p@db.{REF}.supabase.co/postgres", "invalid-supabase-key", "is a URL"),
    "database password": ("n0t-a-key-at-all", "invalid-supabase-key", "neither a secret key (sb_secret_) nor a JWT"),
    "JWT secret": (base64.b64encode(bytes(range(64))).decode(), "invalid-supabase-key", "neither a secret key"),
    "publishable": (ANON_KEY, "anon-supabase-key", "public key"),
    "publishable in quotes": (f'"{ANON_KEY}"', "anon-supabase-key", "public key"),
    "legacy anon": (jwt(role="anon", ref=REF), "anon-supabase-key", "public key"),
    "another project's": (jwt(role="service_role", ref=REF[::-1]), "supabase-key-of-another-project", REF[::-1]),
    "another's reader": (f"{ANON_KEY} {jwt(role='r', ref=REF[::-1])}", "supabase-key-of-another-project", REF),
}


@pytest.mark.parametrize("case", WRONG_KEYS)
def test_another_key_than_the_project_s_is_named(case: str) -> None:
    """A wrong credential of the project, or a key of another project, is a fault before any request."""
    value, code, words = WRONG_KEYS[case]
    ((found, message),) = told(SUPABASE_SERVICE_ROLE_KEY=value)
    assert (found, words in message) == (code, True)


RIGHT_KEYS = {
    "JWT": jwt(role="service_role", ref=REF),
    "JWT of one's own": jwt(role="service_role"),
    "secret": SERVICE_KEY,
}


@pytest.mark.parametrize("case", RIGHT_KEYS)
def test_right_keys_of_a_project(case: str) -> None:
    """Supabase decides about a key of this project, and about a key without a project's name."""
    key = RIGHT_KEYS[case]
    settings = make_settings(SUPABASE_URL=URL, SUPABASE_SERVICE_ROLE_KEY=key)
    assert (settings.supabase_key == key, settings.notes) == (True, ())


def test_a_store_of_one_s_own_may_have_any_key() -> None:
    """The kinds of keys, and the meaning of twenty letters, are checked only for supabase.co."""
    other = jwt(role="service_role", ref=REF[::-1])
    for url in ("https://supabase.example.com", "http://127.0.0.1:54321", "https://brand.supabase.co"):
        for key in ("a-key-of-our-gateway", other):
            is_kept = make_settings(SUPABASE_URL=url, SUPABASE_SERVICE_ROLE_KEY=key).supabase_key == key
            assert is_kept


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/oauth2/tokenP", "'{}'"])
def test_addresses_of_kis(form: str) -> None:
    """KIS's host is known without scheme or port, or with a path; the other environment's host stays an error."""
    host = KIS_HOSTS["production"]
    for text in (host, host.removeprefix("https://"), host.removesuffix(":9443"), host.upper()):
        assert make_settings(KIS_BASE_URL=form.format(text)).base_url == host
    assert faults(KIS_BASE_URL=form.format(KIS_HOSTS["paper"])) == ["invalid-base-url"]
    assert parse_host_url("https://openapi.koreainvestment.com.evil.example", {host}) != host


def test_value_is_masked_as_given_and_as_used() -> None:
    """A secret with additions is masked both as it is given and without the additions.

    A password or key in a wrong URL is masked, too.
    """
    env = {
        "INPUT_APP_KEY": f'KIS_APP_KEY="{ACCOUNT.app_key}" # mine',
        "KIS_APP_SECRET": f"\u201c{ACCOUNT.app_secret}\u201d",
    }
    found = secrets_in(env)
    assert {ACCOUNT.app_key in found, ACCOUNT.app_secret in found, env["KIS_APP_SECRET"] in found} == {True}
    string = f"postgresql://postgres:made-up-password-0123@db.{REF}.supabase.co:5432/postgres"
    assert "made-up-password-0123" in secrets_in({"SUPABASE_URL": string})
    assert SERVICE_KEY in secrets_in({"INPUT_SUPABASE_URL": f'"{SERVICE_KEY}"'})
    assert secrets_in({"SUPABASE_URL": URL}) == ()


@pytest.mark.parametrize("piece", ['"', " #", ",", "\\n", "A=", " ", "'\u200b", "Bearer "])
def test_a_whole_file_takes_no_time(piece: str) -> None:
    """A value as long as an environment allows is left to the length check, in almost no time."""
    began = time.process_time()
    for text in (piece * 60_000, "x" + piece * 60_000 + "y", piece * 2000):
        pasted(text)
        unwrapped(text)
    assert time.process_time() - began < 5


def test_a_word_has_no_quotes() -> None:
    """Neither a key nor a URL has a quote in it."""
    assert [is_one_word(text) for text in ("PSabc", 'PS"abc', "PS abc", "PS\u200babc", "x" * 8193)] == [
        True,
        *[False] * 4,
    ]


#: Encryption keys whose base64 looks like a variable's name with "=".
LIKE_A_NAME = (
    "_03niUrLOT4HTlIAxsdJrdrX8bMfcT_SQvT5_o2Fgp8=",
    "KeyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-SEc=",
    "kis_token_secret_url_app_supabase_key_00000=",
)


@pytest.mark.parametrize("between", ["\n", "\r\n", " ", "\n\n"])
@pytest.mark.parametrize("first", LIKE_A_NAME)
def test_no_encryption_key_is_taken_for_a_name(first: str, between: str) -> None:
    """If an encryption key looks like a variable's name, the setting still has all of its keys."""
    second = "8jU0zIqepddVRzXpd7X5royIy7R-LsLITZCpko7Ct50="

    assert pasted_words(f"{first}{between}{second}") == [first, second]
    assert pasted_words(f"KIS_TOKEN_ENCRYPTION_KEY={first}{between}{second}") == [first, second]
    assert pasted_words(first) == [first]


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=3))
def test_any_encryption_keys_are_read(keys: list[bytes]) -> None:
    """All keys of the setting are read, in their order, whatever the base64 of a key looks like."""
    text = "\n".join(base64.urlsafe_b64encode(key).decode() for key in keys)

    assert [parse_encryption_key(word) for word in pasted_words(text)] == keys
