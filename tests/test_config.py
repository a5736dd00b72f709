"""Settings: their defaults, how each value is read, and no secret in any text."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kis_token.config import KIS_HOSTS
from kis_token.settings.environment import secrets_in
from tests.config_keys import KEYS, OTHER_KEY, READER_JWT, SEALING_KEY, supabase_jwt
from tests.support import ACCOUNT, ANON_KEY, SERVICE_KEY, make_settings


@pytest.mark.parametrize("gateway", [ANON_KEY, supabase_jwt({"role": "anon"})], ids=["of today", "legacy"])
def test_read_only_key_is_two_words(gateway: str) -> None:
    """A read-only key is a public key and a JWT of another role, in two lines or in one line. Both are masked."""
    for between in ("\n", "  "):
        settings = make_settings(SUPABASE_SERVICE_ROLE_KEY=f" {gateway}{between}{READER_JWT}\n")
        assert settings.reads_only
        assert settings.supabase_key == f"{gateway} {READER_JWT}"
        assert secrets_in({"INPUT_SUPABASE_KEY": f" {gateway}{between}{READER_JWT}\n"}) == (gateway, READER_JWT)
    assert not make_settings().reads_only


def test_defaults() -> None:
    """With only a URL and a key, every other setting has its documented default."""
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
    """Real and paper accounts have different slots and different hosts."""
    settings = make_settings(KIS_ENVIRONMENT="paper")
    assert (settings.service_name, settings.base_url) == ("kis-paper", KIS_HOSTS["paper"])


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
    """Blanks and line breaks around a pasted value are not a part of the value."""
    name, value = TRIMMED[variable]
    assert getattr(make_settings(**{variable: f" \t{value or 'off'}\r\n"}), name) == value


def test_blanks_around_secrets_are_cut_off() -> None:
    """Blanks and line breaks around the app key and around the app secret are cut off."""
    settings = make_settings(**{name: f"{value}\n" for name, value in KEYS.items()})
    assert (settings.app_key == ACCOUNT.app_key, settings.app_secret == ACCOUNT.app_secret) == (True, True)


def test_slash_at_the_end_of_a_url_is_cut_off() -> None:
    """A URL is the same with and without a final slash."""
    assert make_settings(SUPABASE_URL="https://example.supabase.co/").supabase_url == "https://example.supabase.co"


@pytest.mark.parametrize("url", ["http://127.0.0.1:54321", "http://localhost:54321", "http://[::1]:54321"])
def test_plain_http_is_for_this_machine(url: str) -> None:
    """Plain http is accepted for a Supabase on this machine."""
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
    """If an input and a variable are both set, the input is used. An empty input counts as not given."""
    variable, given_input, given_variable, attribute = INPUT_WINS[name]
    both = make_settings(**{name: given_input, variable: given_variable})
    empty = make_settings(**{name: " ", variable: given_variable})
    assert getattr(both, attribute) == given_input
    assert getattr(empty, attribute) == given_variable


def test_older_name_of_the_key_wins_and_the_newer_is_enough() -> None:
    """SUPABASE_SERVICE_ROLE_KEY is used first. If it is empty, SUPABASE_SECRET_KEY is used."""
    newer = "sb_secret_named-in-the-newer-variable"
    settings = make_settings(SUPABASE_SERVICE_ROLE_KEY="", SUPABASE_SECRET_KEY=newer)
    assert settings.supabase_key == newer
    assert make_settings(SUPABASE_SECRET_KEY=newer).supabase_key == SERVICE_KEY


def test_older_kind_of_key_is_accepted() -> None:
    """The JWT of the role service_role is a valid key."""
    key = supabase_jwt({"role": "service_role"})
    assert make_settings(SUPABASE_SERVICE_ROLE_KEY=key).supabase_key == key


def test_key_whose_claims_are_nested_deeply_is_left_to_supabase() -> None:
    """A key whose claims exceed the JSON parser's depth causes no internal error."""
    nested = base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=").decode()
    key = f"eyJhbGciOiJIUzI1NiJ9.{nested}.c2lnbmF0dXJl"
    assert make_settings(SUPABASE_SERVICE_ROLE_KEY=key).supabase_key == key


@pytest.mark.parametrize("payload", [["anon"], {"role": 1}, {}, "anon"], ids=str)
def test_key_with_unusual_claims_is_left_to_supabase(payload: object) -> None:
    """A key that only looks like a JWT is not a public key. Supabase decides whether the key is valid."""
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
    """A duration is the sum of numbers with s, m, h or d."""
    assert make_settings(KIS_TOKEN_TIMEOUT=text).timeout == duration


@pytest.mark.parametrize("text", ["0s", "12h"])
def test_min_validity_may_be_anything_up_to_its_border(text: str) -> None:
    """min-validity may be from 0 to 12 hours."""
    hours = make_settings(KIS_TOKEN_MIN_VALIDITY=text).min_validity / timedelta(hours=1)
    assert hours in (0, 12)


@pytest.mark.parametrize(
    ("text", "value"), [("TRUE", True), ("1", True), ("yes", True), ("False", False), ("0", False), ("no", False)]
)
def test_boolean_is_read(text: str, value: bool) -> None:  # noqa: FBT001 - a table's column
    """A boolean is a word or a digit, in any case."""
    assert make_settings(INPUT_EXPORT_ENV=text).export_env is value


def test_encryption_keys_are_one_a_line_in_either_alphabet() -> None:
    """The keys keep their order, because the first key seals. Keys can be base64 or base64url."""
    settings = make_settings(KIS_TOKEN_ENCRYPTION_KEY=f"{SEALING_KEY}\n\n {OTHER_KEY}\n")
    assert settings.encryption_keys == (bytes(range(32)), bytes(range(224, 256)))


def test_no_secret_in_the_repr() -> None:
    """The repr of the settings shows the slot and the hosts, but never a key, because a log may contain the repr."""
    env = KEYS | {"KIS_TOKEN_ENCRYPTION_KEY": f"{SEALING_KEY}\n{OTHER_KEY}"}
    shown = repr(make_settings(**env))
    assert "service_name='kis'" in shown
    assert not any(secret in shown for secret in secrets_in(env)), "a secret is shown"
    assert repr(bytes(range(32))) not in shown


def test_secrets_are_all_that_was_given() -> None:
    """Every secret from inputs and variables must be masked, valid or not. No URL and no empty text must be masked."""
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


def test_cache_file_lies_in_the_job_s_temporary_folder() -> None:
    """In a job, each slot has its own file under RUNNER_TEMP. The file of the default slot has the guide's name."""
    first = make_settings(KIS_TOKEN_CACHE="", RUNNER_TEMP="/runner/temp")
    second = make_settings(KIS_TOKEN_CACHE="", RUNNER_TEMP="/runner/temp", KIS_SERVICE_NAME="kis-paper")
    assert first.cache_path == Path("/runner/temp/.kis_token_cache.json")
    assert second.cache_path == Path("/runner/temp/.kis_token_cache.kis-paper.json")


def test_cache_file_elsewhere() -> None:
    """Outside of a job, the cache is in the user's cache folder.

    A given path replaces this place, and off disables the cache.
    """
    usual = make_settings(KIS_TOKEN_CACHE="").cache_path
    assert usual is not None
    assert usual.name == ".kis_token_cache.json"
    assert "kis-token" in usual.parts
    assert make_settings(KIS_TOKEN_CACHE="here.json", RUNNER_TEMP="/runner/temp").cache_path == Path("here.json")
    assert make_settings(KIS_TOKEN_CACHE="off").cache_path is None


def test_label_names_the_caller() -> None:
    """The label has repository, run and job in a job, and user and machine elsewhere."""
    job = make_settings(GITHUB_REPOSITORY="someone/bot", GITHUB_RUN_ID="42", GITHUB_JOB="trade")
    assert job.label == "someone/bot run 42 trade"
    assert make_settings(GITHUB_REPOSITORY="someone/bot").label == "someone/bot run ?"
    assert make_settings(USER="kim", HOSTNAME="desk").label == "kim on desk"
    assert make_settings().label == "a user on a machine"


@pytest.mark.parametrize("name", ["GITHUB_REPOSITORY", "GITHUB_JOB", "HOSTNAME", "USER"])
def test_label_can_be_sent_whatever_the_names_are(name: str) -> None:
    """A name that is not UTF-8 reaches Python with half a surrogate pair, and the label does not contain that half."""
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
    """Each client counts once, in any case, also with an underscore as in its module's name."""
    assert make_settings(INPUT_TOKEN_FILES=text, KIS_HTS_ID="someone").token_files == clients


def test_id_is_looked_at_for_python_kis_alone() -> None:
    """Without python-kis, the HTS id is not kept and not checked."""
    assert make_settings(INPUT_TOKEN_FILES="kis-auth", KIS_HTS_ID="../x").hts_id is None
    assert make_settings(INPUT_TOKEN_FILES="python-kis", KIS_HTS_ID=" @1234567 ").hts_id == "@1234567"
