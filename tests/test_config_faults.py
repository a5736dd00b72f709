"""Settings: every fault has its code, all faults are reported at once, and no text has a secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_token.config import KIS_HOSTS, Settings
from kis_token.errors import SettingsError
from kis_token.remedies import REMEDIES
from tests.config_keys import KEYS, OTHER_KEY, READER_JWT, SEALING_KEY, supabase_jwt
from tests.support import ACCOUNT, ANON_KEY, SERVICE_KEY, make_settings

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = (SERVICE_KEY, ANON_KEY, ACCOUNT.app_key, ACCOUNT.app_secret, SEALING_KEY, OTHER_KEY)


def codes_of(env: dict[str, str]) -> list[str]:
    """Return the codes of an environment's faults, and assert that no fault's text contains a secret."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(env)
    texts = [f"{caught.value} {caught.value!r}", *(f"{fault} {fault.hint}" for fault in caught.value.faults)]
    assert not any(secret in text for secret in SECRETS for text in texts), "a secret is shown"
    return [fault.code for fault in caught.value.faults]


def faults_of(**variables: str) -> list[str]:
    """Return the codes of the faults of a complete environment with changed variables."""
    complete = {"SUPABASE_URL": "https://example.supabase.co", "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY}
    return codes_of(complete | {"KIS_TOKEN_CACHE": "off"} | variables)


@pytest.mark.parametrize("host", ["foo..supabase.co", ".supabase.co", "x" * 64 + ".supabase.co"])
def test_host_that_no_connection_can_be_made_to(host: str) -> None:
    """A host name with an empty or too long part is a fault of the settings."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(
            {"SUPABASE_URL": f"https://{host}", "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_0123456789abcdef"}
        )
    assert [fault.code for fault in caught.value.faults] == ["invalid-supabase-url"]


def test_empty_environment_lacks_url_and_key() -> None:
    """In an empty environment, only the URL and the key are missing."""
    assert codes_of({}) == ["missing-supabase-url", "missing-supabase-key"]


FAULTS: dict[str, tuple[dict[str, str], str]] = {
    "blank url": ({"SUPABASE_URL": " \t\n"}, "missing-supabase-url"),
    "words": ({"SUPABASE_URL": "my project"}, "invalid-supabase-url"),
    "no scheme": ({"SUPABASE_URL": "example.supabase.co"}, "invalid-supabase-url"),
    "plain http": ({"SUPABASE_URL": "http://example.supabase.co"}, "invalid-supabase-url"),
    "plain http to a look-alike": ({"SUPABASE_URL": "http://localhost.example.com"}, "invalid-supabase-url"),
    "a path": ({"SUPABASE_URL": "https://example.supabase.co/rest/v1"}, "invalid-supabase-url"),
    "a query": ({"SUPABASE_URL": "https://example.supabase.co?a=b"}, "invalid-supabase-url"),
    "a fragment": ({"SUPABASE_URL": "https://example.supabase.co#a"}, "invalid-supabase-url"),
    "a password": ({"SUPABASE_URL": "https://a:b@example.supabase.co"}, "invalid-supabase-url"),
    "an empty user": ({"SUPABASE_URL": "https://@example.supabase.co"}, "invalid-supabase-url"),
    "port 0": ({"SUPABASE_URL": "https://example.supabase.co:0"}, "invalid-supabase-url"),
    "no port number": ({"SUPABASE_URL": "https://example.supabase.co:https"}, "invalid-supabase-url"),
    "port too large": ({"SUPABASE_URL": "https://example.supabase.co:65536"}, "invalid-supabase-url"),
    "half an IPv6 address": ({"SUPABASE_URL": "https://[::1"}, "invalid-supabase-url"),
    "no host": ({"SUPABASE_URL": "https://"}, "invalid-supabase-url"),
    "not ASCII": ({"SUPABASE_URL": "https://예시.supabase.co"}, "invalid-supabase-url"),
    "blank key": ({"SUPABASE_SERVICE_ROLE_KEY": "  "}, "missing-supabase-key"),
    "two lines": ({"SUPABASE_SERVICE_ROLE_KEY": f"{SERVICE_KEY}\n{SERVICE_KEY}"}, "invalid-supabase-key"),
    "a blank in the key": ({"SUPABASE_SERVICE_ROLE_KEY": f"{SERVICE_KEY} x"}, "invalid-supabase-key"),
    "a curly quote in the key": ({"SUPABASE_SERVICE_ROLE_KEY": f"{SERVICE_KEY}”"}, "invalid-supabase-key"),
    "publishable key": ({"SUPABASE_SERVICE_ROLE_KEY": ANON_KEY}, "anon-supabase-key"),
    "anon JWT": ({"SUPABASE_SERVICE_ROLE_KEY": supabase_jwt({"role": "anon"})}, "anon-supabase-key"),
    "public key and a word": ({"SUPABASE_SERVICE_ROLE_KEY": f"{ANON_KEY}\n{SERVICE_KEY}"}, "invalid-supabase-key"),
    "secret key and a JWT": ({"SUPABASE_SERVICE_ROLE_KEY": f"{SERVICE_KEY}\n{READER_JWT}"}, "invalid-supabase-key"),
    "a reader's three words": (
        {"SUPABASE_SERVICE_ROLE_KEY": f"{ANON_KEY} {READER_JWT} {READER_JWT}"},
        "invalid-supabase-key",
    ),
    "public key twice": ({"SUPABASE_SERVICE_ROLE_KEY": f"{ANON_KEY}\n{ANON_KEY}"}, "anon-supabase-key"),
    "user JWT": ({"SUPABASE_SERVICE_ROLE_KEY": supabase_jwt({"role": "authenticated"})}, "anon-supabase-key"),
    "app key alone": ({"KIS_APP_KEY": ACCOUNT.app_key}, "incomplete-app-key"),
    "app secret alone": ({"KIS_APP_SECRET": ACCOUNT.app_secret}, "incomplete-app-key"),
    "a blank in the app key": (KEYS | {"KIS_APP_KEY": f"{ACCOUNT.app_key} x"}, "invalid-app-key"),
    "two lines of secret": (KEYS | {"KIS_APP_SECRET": f"{ACCOUNT.app_secret}\nx"}, "invalid-app-secret"),
    "environment": ({"KIS_ENVIRONMENT": "vts"}, "invalid-environment"),
    "environment in capitals": ({"KIS_ENVIRONMENT": "PAPER"}, "invalid-environment"),
    "mode": ({"INPUT_MODE": "refresh"}, "invalid-mode"),
    "service with a blank": ({"KIS_SERVICE_NAME": "kis real"}, "invalid-service-name"),
    "service with a colon": ({"KIS_SERVICE_NAME": "kis:real"}, "invalid-service-name"),
    "service with a dot first": ({"KIS_SERVICE_NAME": ".kis"}, "invalid-service-name"),
    "service with a slash": ({"KIS_SERVICE_NAME": "../kis"}, "invalid-service-name"),
    "long service": ({"KIS_SERVICE_NAME": "k" * 64}, "invalid-service-name"),
    "host": ({"KIS_BASE_URL": "ftp://example.com"}, "invalid-base-url"),
    "plain host": ({"KIS_BASE_URL": "http://openapi.koreainvestment.com:9443"}, "invalid-base-url"),
    "sealing key of words": ({"KIS_TOKEN_ENCRYPTION_KEY": "correct horse battery"}, "invalid-encryption-key"),
    "short sealing key": ({"KIS_TOKEN_ENCRYPTION_KEY": SEALING_KEY[4:]}, "invalid-encryption-key"),
    "one bad of two": ({"KIS_TOKEN_ENCRYPTION_KEY": f"{SEALING_KEY}\nx"}, "invalid-encryption-key"),
    "sealing key not ASCII": ({"KIS_TOKEN_ENCRYPTION_KEY": "é" * 44}, "invalid-encryption-key"),
    "unknown client": ({"INPUT_TOKEN_FILES": "kis-auth,pykis"}, "invalid-token-files"),
    "client with the secret in its file": ({"INPUT_TOKEN_FILES": "mojito2"}, "invalid-token-files"),
    "no id for python-kis": ({"INPUT_TOKEN_FILES": "python-kis"}, "missing-hts-id"),
    "an id that leads elsewhere": ({"INPUT_TOKEN_FILES": "python-kis", "KIS_HTS_ID": "../x"}, "invalid-hts-id"),
    "policy": ({"KIS_TOKEN_ON_STORE_OUTAGE": "retry"}, "invalid-on-store-outage"),
    "boolean": ({"KIS_TOKEN_ALLOW_EXPIRED": "maybe"}, "invalid-boolean"),
    "long min-validity": ({"KIS_TOKEN_MIN_VALIDITY": "12h1s"}, "invalid-duration"),
    "long timeout": ({"KIS_TOKEN_TIMEOUT": "91d"}, "invalid-duration"),
    "absurd timeout": ({"KIS_TOKEN_TIMEOUT": "999999999d" * 50}, "invalid-duration"),
    "no timeout": ({"KIS_TOKEN_TIMEOUT": "0s"}, "invalid-duration"),
    "no refresh-after": ({"KIS_TOKEN_REFRESH_AFTER": "0h"}, "invalid-duration"),
    "a bare number": ({"KIS_TOKEN_TIMEOUT": "180"}, "invalid-duration"),
    "below zero": ({"KIS_TOKEN_TIMEOUT": "-1s"}, "invalid-duration"),
    "other digits": ({"KIS_TOKEN_TIMEOUT": "\N{ARABIC-INDIC DIGIT ONE}s"}, "invalid-duration"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_fault_has_its_code(case: str) -> None:
    """Each configuration error is one fault with a stable code, and its text does not show the value."""
    variables, code = FAULTS[case]
    assert faults_of(**variables) == [code]
    assert code in REMEDIES


def test_all_faults_are_told_at_once() -> None:
    """One run reports all faults, and the error has the code and text of the first fault."""
    env = {
        "KIS_ENVIRONMENT": "vts",
        "KIS_APP_KEY": ACCOUNT.app_key,
        "KIS_TOKEN_TIMEOUT": "soon",
        "KIS_TOKEN_MIN_VALIDITY": "later",
        "INPUT_VERIFY": "maybe",
    }
    assert codes_of(env) == [
        "invalid-environment",
        "incomplete-app-key",
        "missing-supabase-url",
        "missing-supabase-key",
        "invalid-duration",
        "invalid-duration",
        "invalid-boolean",
    ]


@given(st.dictionaries(st.sampled_from(["SUPABASE_URL", "KIS_BASE_URL", "SUPABASE_SERVICE_ROLE_KEY"]), st.text()))
def test_any_text_is_settings_or_settings_error(variables: dict[str, str]) -> None:
    """No text in a URL or a key raises anything but SettingsError."""
    try:
        make_settings(**variables)
    except SettingsError:
        return


PAPER_HOST = KIS_HOSTS["paper"]


def test_host_of_the_other_environment_is_a_fault() -> None:
    """Real keys are not sent to the paper host, and paper keys not to the real host."""
    for wrong in ({"INPUT_BASE_URL": PAPER_HOST}, {"KIS_BASE_URL": f"{PAPER_HOST}/"}):
        assert faults_of(**wrong) == ["invalid-base-url"]
    assert make_settings(INPUT_BASE_URL=PAPER_HOST, INPUT_ENVIRONMENT="paper").base_url == PAPER_HOST


def test_exports_for_the_other_account_are_ignored() -> None:
    """A step ignores host and keys that an earlier step exported for the other environment."""
    exported = KEYS | {"KIS_BASE_URL": KIS_HOSTS["production"], "GITHUB_ACTIONS": "true"}
    paper = make_settings(**exported, INPUT_ENVIRONMENT="paper")
    assert (paper.base_url, paper.app_key, paper.app_secret) == (PAPER_HOST, None, None)
    given = make_settings(**exported, INPUT_ENVIRONMENT="paper", INPUT_APP_KEY="PSpaper", INPUT_APP_SECRET="cGFwZXI=")
    assert (given.app_key, given.app_secret) == ("PSpaper", "cGFwZXI=")
    same = make_settings(**exported)
    assert (same.base_url, same.app_key) == (KIS_HOSTS["production"], ACCOUNT.app_key)


@pytest.mark.parametrize("path", ["/", ".", "~nobody-of-this-machine/cache.json"])
def test_a_cache_path_names_a_file(path: str) -> None:
    """A cache path that names a folder, or the home of an unknown user, is a configuration error."""
    assert faults_of(KIS_TOKEN_CACHE=path) == ["invalid-cache-path"]


def event_file(folder: Path, head: object, base: object = "someone/bot") -> str:
    """A pull request's event, as GitHub writes it for the job."""
    path = folder / "event.json"
    path.write_text(json.dumps({"pull_request": {"head": {"repo": head}, "base": {"repo": {"full_name": base}}}}))
    return str(path)


def test_pull_request_of_a_fork_is_told_that_secrets_are_withheld(tmp_path: Path) -> None:
    """An empty key in a pull request from another repository is reported as withheld by GitHub."""
    event = event_file(tmp_path, {"full_name": "fork/bot"})
    env = {"SUPABASE_SERVICE_ROLE_KEY": "", "GITHUB_EVENT_PATH": event}
    assert faults_of(GITHUB_EVENT_NAME="pull_request", **env) == ["secrets-withheld"]
    assert faults_of(GITHUB_EVENT_NAME="pull_request_review", **env) == ["secrets-withheld"]


def test_dependabot_is_told_that_secrets_are_withheld() -> None:
    """An empty key in a run of Dependabot, on any event, is reported as withheld."""
    assert faults_of(SUPABASE_SERVICE_ROLE_KEY="", GITHUB_ACTOR="dependabot[bot]") == ["secrets-withheld"]


@pytest.mark.parametrize("event_name", ["push", "schedule", "pull_request_target"])
def test_other_events_do_get_secrets(tmp_path: Path, event_name: str) -> None:
    """On events with secrets, an empty key is reported as missing."""
    event = event_file(tmp_path, {"full_name": "fork/bot"})
    env = {"SUPABASE_SERVICE_ROLE_KEY": "", "GITHUB_EVENT_NAME": event_name, "GITHUB_EVENT_PATH": event}
    assert faults_of(**env) == ["missing-supabase-key"]


def test_pull_request_of_the_repository_itself_gets_secrets(tmp_path: Path) -> None:
    """In a pull request between branches, an empty key is reported as missing."""
    event = event_file(tmp_path, {"full_name": "someone/bot"})
    env = {"SUPABASE_SERVICE_ROLE_KEY": "", "GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": event}
    assert faults_of(**env) == ["missing-supabase-key"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pull_request": null}', "\ud800"], ids=repr)
def test_unreadable_event_proves_nothing(tmp_path: Path, content: str) -> None:
    """With a broken or missing event file, an empty key is reported as missing."""
    event = tmp_path / "event.json"
    event.write_bytes(content.encode(errors="surrogatepass"))
    for path in (str(event), str(tmp_path / "none.json"), str(tmp_path), ""):
        env = {"SUPABASE_SERVICE_ROLE_KEY": "", "GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": path}
        assert faults_of(**env) == ["missing-supabase-key"]


def test_client_that_is_never_written_is_rejected_with_the_reason() -> None:
    """The client mojito2 is an error with the reason, and the error does not repeat the given text."""
    for client in ("mojito", "mojito2"):
        with pytest.raises(SettingsError, match="holds the app secret"):
            make_settings(INPUT_TOKEN_FILES=client)
    with pytest.raises(SettingsError) as caught:
        make_settings(INPUT_TOKEN_FILES=SERVICE_KEY)
    shown = SERVICE_KEY.lower() in f"{caught.value}".lower()
    assert not shown, "what was given is shown"
