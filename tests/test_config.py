"""Settings: every fault with its code, all at once, and no secret in any text."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_token.config import KIS_HOSTS, Settings, secrets_in
from kis_token.errors import REMEDIES, SettingsError
from tests.support import ACCOUNT, ANON_KEY, SERVICE_KEY, make_settings

SEALING_KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.urlsafe_b64encode(bytes(range(224, 256))).decode()
KEYS = {"KIS_APP_KEY": ACCOUNT.app_key, "KIS_APP_SECRET": ACCOUNT.app_secret}
SECRETS = (SERVICE_KEY, ANON_KEY, ACCOUNT.app_key, ACCOUNT.app_secret, SEALING_KEY, OTHER_KEY)


def codes_of(env: dict[str, str]) -> list[str]:
    """The codes of the faults of an environment, whose texts hold no secret."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(env)
    texts = [f"{caught.value} {caught.value!r}", *(f"{fault} {fault.hint}" for fault in caught.value.faults)]
    assert not any(secret in text for secret in SECRETS for text in texts), "a secret is shown"
    return [fault.code for fault in caught.value.faults]


def faults_of(**variables: str) -> list[str]:
    """The codes of the faults of an otherwise complete environment."""
    complete = {"SUPABASE_URL": "https://example.supabase.co", "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY}
    return codes_of(complete | {"KIS_TOKEN_CACHE": "off"} | variables)


def supabase_jwt(payload: object) -> str:
    """One of Supabase's older keys."""
    return f"eyJhbGciOiJIUzI1NiJ9.{base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip('=')}.c2ln"


READER_JWT = supabase_jwt({"role": "kis_token_reader"})


@pytest.mark.parametrize("gateway", [ANON_KEY, supabase_jwt({"role": "anon"})], ids=["of today", "legacy"])
def test_reader_s_key_is_two_words(gateway: str) -> None:
    """A public key and a JWT with a role of its own, in two lines or one: a key that may only read. Both are masked."""
    for between in ("\n", "  "):
        settings = make_settings(SUPABASE_SERVICE_ROLE_KEY=f" {gateway}{between}{READER_JWT}\n")
        assert settings.reads_only
        assert settings.supabase_key == f"{gateway} {READER_JWT}"
        assert secrets_in({"INPUT_SUPABASE_KEY": f" {gateway}{between}{READER_JWT}\n"}) == (gateway, READER_JWT)
    assert not make_settings().reads_only


@pytest.mark.parametrize("host", ["foo..supabase.co", ".supabase.co", "x" * 64 + ".supabase.co"])
def test_host_that_no_connection_can_be_made_to(host: str) -> None:
    """A name with an empty or too long part is no address: told here, not where it is used."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(
            {"SUPABASE_URL": f"https://{host}", "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_0123456789abcdef"}
        )
    assert [fault.code for fault in caught.value.faults] == ["invalid-supabase-url"]


def test_defaults() -> None:
    """With a URL and a key alone everything else has the value that the documents promise."""
    settings = make_settings()
    assert (settings.environment, settings.service_name, settings.mode) == ("production", "kis", "resolve")
    assert settings.base_url == KIS_HOSTS["production"]
    assert settings.min_validity == timedelta(minutes=10)
    assert settings.refresh_after == timedelta(hours=23)
    assert settings.timeout == timedelta(seconds=180)
    assert settings.on_store_outage == "issue"
    assert (settings.app_key, settings.app_secret, settings.encryption_keys) == (None, None, ())
    switches = (settings.allow_expired, settings.verify, settings.export_env, settings.export_credentials)
    assert switches == (False, False, False, False)


def test_paper_has_a_slot_and_a_host_of_its_own() -> None:
    """Real and paper share neither the row nor the host."""
    settings = make_settings(KIS_ENVIRONMENT="paper")
    assert (settings.service_name, settings.base_url) == ("kis-paper", KIS_HOSTS["paper"])


def test_nothing_at_all_names_what_is_missing() -> None:
    """An empty environment lacks URL and key, and no more."""
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
    """Each mistake is one fault with a stable code, told without the value."""
    variables, code = FAULTS[case]
    assert faults_of(**variables) == [code]
    assert code in REMEDIES


def test_all_faults_are_told_at_once() -> None:
    """Nobody has to run twice to see the second mistake; the error itself is the first of them."""
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


TRIMMED: dict[str, tuple[str, Any]] = {
    "SUPABASE_URL": ("supabase_url", "https://other.supabase.co"),
    "SUPABASE_SERVICE_ROLE_KEY": ("supabase_key", "sb_secret_another-key-of-the-project"),
    "KIS_SERVICE_NAME": ("service_name", "second"),
    "KIS_ENVIRONMENT": ("environment", "paper"),
    "KIS_BASE_URL": ("base_url", "http://127.0.0.1:8080"),
    "KIS_TOKEN_ON_STORE_OUTAGE": ("on_store_outage", "fail"),
    "KIS_TOKEN_CACHE": ("cache_path", None),
}


@pytest.mark.parametrize("variable", TRIMMED)
def test_blanks_around_a_value_are_cut_off(variable: str) -> None:
    """A value that was pasted with blanks and a line break at its end is the value."""
    name, value = TRIMMED[variable]
    assert getattr(make_settings(**{variable: f" \t{value or 'off'}\r\n"}), name) == value


def test_blanks_around_secrets_are_cut_off() -> None:
    """The same for app key and secret, whose trailing line break is the commonest mistake of all."""
    settings = make_settings(**{name: f"{value}\n" for name, value in KEYS.items()})
    assert (settings.app_key == ACCOUNT.app_key, settings.app_secret == ACCOUNT.app_secret) == (True, True)


def test_slash_at_the_end_of_a_url_is_cut_off() -> None:
    """Both forms of the address are the same address."""
    assert make_settings(SUPABASE_URL="https://example.supabase.co/").supabase_url == "https://example.supabase.co"


@pytest.mark.parametrize("url", ["http://127.0.0.1:54321", "http://localhost:54321", "http://[::1]:54321"])
def test_plain_http_is_for_this_machine(url: str) -> None:
    """A Supabase on this machine may be asked without TLS."""
    assert make_settings(SUPABASE_URL=url).supabase_url == url


INPUT_WINS = {
    "INPUT_SUPABASE_URL": ("SUPABASE_URL", "https://input.supabase.co", "https://variable.supabase.co", "supabase_url"),
    "INPUT_SERVICE_NAME": ("KIS_SERVICE_NAME", "input", "variable", "service_name"),
    "INPUT_ENVIRONMENT": ("KIS_ENVIRONMENT", "paper", "production", "environment"),
    "INPUT_ON_STORE_OUTAGE": ("KIS_TOKEN_ON_STORE_OUTAGE", "fail", "issue", "on_store_outage"),
    "INPUT_BASE_URL": ("KIS_BASE_URL", "https://input.example.com", "https://variable.example.com", "base_url"),
}


@pytest.mark.parametrize("name", INPUT_WINS)
def test_input_wins_over_the_variable(name: str) -> None:
    """Of an input and a variable the input counts, and an empty input counts as not given."""
    variable, given_input, given_variable, attribute = INPUT_WINS[name]
    both = make_settings(**{name: given_input, variable: given_variable})
    empty = make_settings(**{name: " ", variable: given_variable})
    assert getattr(both, attribute) == given_input
    assert getattr(empty, attribute) == given_variable


def test_older_name_of_the_key_wins_and_the_newer_is_enough() -> None:
    """SUPABASE_SERVICE_ROLE_KEY is asked first, SUPABASE_SECRET_KEY when it is empty."""
    newer = "sb_secret_named-in-the-newer-variable"
    settings = make_settings(SUPABASE_SERVICE_ROLE_KEY="", SUPABASE_SECRET_KEY=newer)
    assert settings.supabase_key == newer
    assert make_settings(SUPABASE_SECRET_KEY=newer).supabase_key == SERVICE_KEY


def test_older_kind_of_key_is_accepted() -> None:
    """The JWT of the role service_role is a right key."""
    key = supabase_jwt({"role": "service_role"})
    assert make_settings(SUPABASE_SERVICE_ROLE_KEY=key).supabase_key == key


def test_key_whose_claims_are_nested_deeply_is_left_to_supabase() -> None:
    """A middle part that no JSON parser follows to its end is no defect."""
    nested = base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=").decode()
    key = f"eyJhbGciOiJIUzI1NiJ9.{nested}.c2lnbmF0dXJl"
    assert make_settings(SUPABASE_SERVICE_ROLE_KEY=key).supabase_key == key


@pytest.mark.parametrize("payload", [["anon"], {"role": 1}, {}, "anon"], ids=str)
def test_key_with_odd_claims_is_left_to_supabase(payload: object) -> None:
    """What only looks like a JWT is no public key: Supabase itself will say."""
    key = supabase_jwt(payload)
    assert make_settings(SUPABASE_SERVICE_ROLE_KEY=key).supabase_key == key


DURATIONS = {
    "90s": timedelta(seconds=90),
    "10m": timedelta(minutes=10),
    "1h30m": timedelta(minutes=90),
    "1H": timedelta(hours=1),
    "30s1m": timedelta(seconds=90),
    "90d": timedelta(days=90),
}


@pytest.mark.parametrize(("text", "duration"), DURATIONS.items())
def test_duration_is_read(text: str, duration: timedelta) -> None:
    """Numbers with s, m, h or d, which add up."""
    assert make_settings(KIS_TOKEN_TIMEOUT=text).timeout == duration


@pytest.mark.parametrize("text", ["0s", "12h"])
def test_min_validity_may_be_anything_up_to_its_border(text: str) -> None:
    """Nothing at all is a need, and 12 hours is the longest."""
    hours = make_settings(KIS_TOKEN_MIN_VALIDITY=text).min_validity / timedelta(hours=1)
    assert hours in (0, 12)


@pytest.mark.parametrize(
    ("text", "value"), [("TRUE", True), ("1", True), ("yes", True), ("False", False), ("0", False), ("no", False)]
)
def test_boolean_is_read(text: str, value: bool) -> None:  # noqa: FBT001 - a table's column
    """In words or digits, in any case."""
    assert make_settings(INPUT_EXPORT_ENV=text).export_env is value


def test_encryption_keys_are_one_a_line_in_either_alphabet() -> None:
    """The first key seals, so the order stays; base64 and base64url are both read."""
    settings = make_settings(KIS_TOKEN_ENCRYPTION_KEY=f"{SEALING_KEY}\n\n {OTHER_KEY}\n")
    assert settings.encryption_keys == (bytes(range(32)), bytes(range(224, 256)))


def test_no_secret_in_the_repr() -> None:
    """A repr that lands in a log shows the slot and the hosts, never a key."""
    env = KEYS | {"KIS_TOKEN_ENCRYPTION_KEY": f"{SEALING_KEY}\n{OTHER_KEY}"}
    shown = repr(make_settings(**env))
    assert "service_name='kis'" in shown
    assert not any(secret in shown for secret in secrets_in(env)), "a secret is shown"
    assert repr(bytes(range(32))) not in shown


def test_secrets_are_all_that_was_given() -> None:
    """Everything secret is there to be masked, inputs and variables, sensible or not; no URL and nothing empty."""
    env = {
        "SUPABASE_URL": "https://example.supabase.co",
        "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY,
        "KIS_TOKEN_ENCRYPTION_KEY": f"{SEALING_KEY}\n{OTHER_KEY}",
        "INPUT_APP_SECRET": f"{ACCOUNT.app_secret} cut",
        "INPUT_APP_KEY": "",
        **KEYS,
    }
    given_secrets = (SERVICE_KEY, ACCOUNT.app_key, *[ACCOUNT.app_secret] * 2, "cut", SEALING_KEY, OTHER_KEY)
    assert sorted(secrets_in(env)) == sorted(given_secrets)
    assert secrets_in({"INPUT_MODE": "resolve"}) == ()


PAPER_HOST = KIS_HOSTS["paper"]


def test_host_of_the_other_environment_is_a_mistake() -> None:
    """Real keys are not sent to the paper host, nor the other way round, whoever says so."""
    for wrong in ({"INPUT_BASE_URL": PAPER_HOST}, {"KIS_BASE_URL": f"{PAPER_HOST}/"}):
        assert faults_of(**wrong) == ["invalid-base-url"]
    assert make_settings(INPUT_BASE_URL=PAPER_HOST, INPUT_ENVIRONMENT="paper").base_url == PAPER_HOST


def test_what_a_step_before_exported_for_the_other_account_is_passed_over() -> None:
    """In a job export-env leaves host and keys behind; a step for the other environment takes neither of them."""
    exported = KEYS | {"KIS_BASE_URL": KIS_HOSTS["production"], "GITHUB_ACTIONS": "true"}
    paper = make_settings(**exported, INPUT_ENVIRONMENT="paper")
    assert (paper.base_url, paper.app_key, paper.app_secret) == (PAPER_HOST, None, None)
    given = make_settings(**exported, INPUT_ENVIRONMENT="paper", INPUT_APP_KEY="PSpaper", INPUT_APP_SECRET="cGFwZXI=")
    assert (given.app_key, given.app_secret) == ("PSpaper", "cGFwZXI=")
    same = make_settings(**exported)
    assert (same.base_url, same.app_key) == (KIS_HOSTS["production"], ACCOUNT.app_key)


def test_cache_file_lies_in_the_job_s_temporary_folder() -> None:
    """In a job each service has a file of its own under RUNNER_TEMP; the usual one has the guide's name."""
    first = make_settings(KIS_TOKEN_CACHE="", RUNNER_TEMP="/runner/temp")
    second = make_settings(KIS_TOKEN_CACHE="", RUNNER_TEMP="/runner/temp", KIS_SERVICE_NAME="kis-paper")
    assert first.cache_path == Path("/runner/temp/.kis_token_cache.json")
    assert second.cache_path == Path("/runner/temp/.kis_token_cache.kis-paper.json")


def test_cache_file_elsewhere() -> None:
    """Outside of a job it lies in the user's cache folder; a path of one's own wins; off turns it off."""
    usual = make_settings(KIS_TOKEN_CACHE="").cache_path
    assert usual is not None
    assert usual.name == ".kis_token_cache.json"
    assert "kis-token" in usual.parts
    assert make_settings(KIS_TOKEN_CACHE="here.json", RUNNER_TEMP="/runner/temp").cache_path == Path("here.json")
    assert make_settings(KIS_TOKEN_CACHE="off").cache_path is None


@pytest.mark.parametrize("path", ["/", ".", "~nobody-of-this-machine/cache.json"])
def test_a_cache_path_names_a_file(path: str) -> None:
    """A folder alone, or a home that this machine does not know, is a mistake in the settings."""
    assert faults_of(KIS_TOKEN_CACHE=path) == ["invalid-cache-path"]


def event_file(folder: Path, head: object, base: object = "someone/bot") -> str:
    """A pull request's event, as GitHub leaves it for the job."""
    path = folder / "event.json"
    path.write_text(json.dumps({"pull_request": {"head": {"repo": head}, "base": {"repo": {"full_name": base}}}}))
    return str(path)


def test_pull_request_of_a_fork_is_told_that_secrets_are_withheld(tmp_path: Path) -> None:
    """An empty key in a pull request from another repository is GitHub's doing, not a typing mistake."""
    event = event_file(tmp_path, {"full_name": "fork/bot"})
    env = {"SUPABASE_SERVICE_ROLE_KEY": "", "GITHUB_EVENT_PATH": event}
    assert faults_of(GITHUB_EVENT_NAME="pull_request", **env) == ["secrets-withheld"]
    assert faults_of(GITHUB_EVENT_NAME="pull_request_review", **env) == ["secrets-withheld"]


def test_dependabot_is_told_that_secrets_are_withheld() -> None:
    """The same for Dependabot, on whatever event."""
    assert faults_of(SUPABASE_SERVICE_ROLE_KEY="", GITHUB_ACTOR="dependabot[bot]") == ["secrets-withheld"]


@pytest.mark.parametrize("event_name", ["push", "schedule", "pull_request_target"])
def test_other_events_do_get_secrets(tmp_path: Path, event_name: str) -> None:
    """Where GitHub does give secrets an empty key is simply missing."""
    event = event_file(tmp_path, {"full_name": "fork/bot"})
    env = {"SUPABASE_SERVICE_ROLE_KEY": "", "GITHUB_EVENT_NAME": event_name, "GITHUB_EVENT_PATH": event}
    assert faults_of(**env) == ["missing-supabase-key"]


def test_pull_request_of_the_repository_itself_gets_secrets(tmp_path: Path) -> None:
    """A pull request between branches gets secrets: an empty one is missing."""
    event = event_file(tmp_path, {"full_name": "someone/bot"})
    env = {"SUPABASE_SERVICE_ROLE_KEY": "", "GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": event}
    assert faults_of(**env) == ["missing-supabase-key"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pull_request": null}', "\ud800"], ids=repr)
def test_unreadable_event_proves_nothing(tmp_path: Path, content: str) -> None:
    """A broken event, or none, leaves the plain message."""
    event = tmp_path / "event.json"
    event.write_bytes(content.encode(errors="surrogatepass"))
    for path in (str(event), str(tmp_path / "none.json"), str(tmp_path), ""):
        env = {"SUPABASE_SERVICE_ROLE_KEY": "", "GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": path}
        assert faults_of(**env) == ["missing-supabase-key"]


def test_label_says_who_asks() -> None:
    """In a job the repository, run and job; elsewhere the user and the machine."""
    job = make_settings(GITHUB_REPOSITORY="someone/bot", GITHUB_RUN_ID="42", GITHUB_JOB="trade")
    assert job.label == "someone/bot run 42 trade"
    assert make_settings(GITHUB_REPOSITORY="someone/bot").label == "someone/bot run ?"
    assert make_settings(USER="kim", HOSTNAME="desk").label == "kim on desk"
    assert make_settings().label == "somebody on a machine"


@pytest.mark.parametrize("name", ["GITHUB_REPOSITORY", "GITHUB_JOB", "HOSTNAME", "USER"])
def test_label_can_be_sent_whatever_the_names_are(name: str) -> None:
    """A name that is not UTF-8 reaches Python with half a surrogate pair; the label holds none."""
    label = make_settings(**({"GITHUB_REPOSITORY": "a/b"} if name == "GITHUB_JOB" else {}) | {name: "caf\udce9"}).label
    assert "caf?" in label.encode().decode()


CLIENTS = {
    "": (),
    "kis-auth": ("kis-auth",),
    " kis_auth , Python-KIS\n\nkis-auth": ("kis-auth", "python-kis"),
    "kis-trader koreainvestment-cli": ("kis-trader", "koreainvestment-cli"),
}


@pytest.mark.parametrize(("text", "clients"), CLIENTS.items())
def test_clients_are_separated_by_commas_or_blanks(text: str, clients: tuple[str, ...]) -> None:
    """Each counts once, in any case, with an underscore as well: the modules are called so."""
    assert make_settings(INPUT_TOKEN_FILES=text, KIS_HTS_ID="someone").token_files == clients


def test_id_is_looked_at_for_python_kis_alone() -> None:
    """An id that nobody asks for is neither kept nor judged."""
    assert make_settings(INPUT_TOKEN_FILES="kis-auth", KIS_HTS_ID="../x").hts_id is None
    assert make_settings(INPUT_TOKEN_FILES="python-kis", KIS_HTS_ID=" @1234567 ").hts_id == "@1234567"


def test_what_is_never_written_is_told_why() -> None:
    """mojito2 is refused with the reason; what was given in its place is not repeated."""
    for client in ("mojito", "mojito2"):
        with pytest.raises(SettingsError, match="holds the app secret"):
            make_settings(INPUT_TOKEN_FILES=client)
    with pytest.raises(SettingsError) as caught:
        make_settings(INPUT_TOKEN_FILES=SERVICE_KEY)
    shown = SERVICE_KEY.lower() in f"{caught.value}".lower()
    assert not shown, "what was given is shown"
