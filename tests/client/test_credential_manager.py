"""The credential manager on a real database: it has the guide's names and return values, but not its defects."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from kis_token.client.credential_manager import SupabaseCredentialManager, get_supabase_manager
from kis_token.errors import KisTokenError, SettingsError, StoreMisconfigured, TokenError
from kis_token.sandbox.kis_http import html_response
from kis_token.sandbox.loopback import Fault, FaultKind
from kis_token.store.sealing import make_vault
from kis_token.token import KST, fingerprint, parse_instant
from tests.resolver_harness import ENCRYPTION_KEY
from tests.support import (
    ACCOUNT,
    ANON_KEY,
    APP_KEY,
    HOUR,
    MINUTE,
    SERVICE_KEY,
    TurnedClock,
    make_settings,
    make_token,
    utc_now,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.sandbox.postgrest import PostgRESTStandIn
    from kis_token.token import Token
    from tests.support import Database

SEALING = {"KIS_TOKEN_ENCRYPTION_KEY": ENCRYPTION_KEY}


@pytest.fixture
def manager(supabase: PostgRESTStandIn) -> SupabaseCredentialManager:
    """The manager with the service key and no other setting."""
    return SupabaseCredentialManager(supabase.url, SERVICE_KEY, env={})


def seal(value: str, service: str, credential_type: str) -> str:
    """The sealed form of a value."""
    return make_vault(make_settings(**SEALING).encryption_keys).seal(value, service, credential_type)


def id_of(found: dict[str, object] | None) -> str | None:
    """The fingerprint of the found token."""
    return fingerprint(str(found["access_token"])) if found is not None else None


@pytest.mark.parametrize("env", [{}, {"SUPABASE_URL": "https://x.supabase.co"}, {"SUPABASE_SECRET_KEY": SERVICE_KEY}])
def test_without_url_or_key_there_is_nothing(env: dict[str, str]) -> None:
    """Without URL or key, no request is made: the getters return None, and a save returns False."""
    manager, token = SupabaseCredentialManager(env=env), make_token()

    assert manager.is_available() is False
    assert manager.get_credentials("slack") is None
    assert manager.get_kis_credentials() is None
    assert manager.get_kis_token() is None
    assert manager.get_kis_valid_token() is None
    assert manager.save_kis_token(token.value, token.expires_at, token.issued_at) is False


def test_pull_request_of_a_fork_has_no_store() -> None:
    """If GitHub withholds the secrets, the manager is not available and raises no error."""
    manager = SupabaseCredentialManager(env={"GITHUB_ACTOR": "dependabot[bot]"})
    assert manager.is_available() is False


def test_invalid_settings_are_raised() -> None:
    """An invalid setting raises an error, and does not count as missing."""
    with pytest.raises(SettingsError) as caught:
        SupabaseCredentialManager("https://x.supabase.co/rest/v1", SERVICE_KEY, env={})
    assert caught.value.code == "invalid-supabase-url"


def test_url_and_key_of_the_environment(supabase: PostgRESTStandIn, database: Database) -> None:
    """Without arguments, the manager uses the environment's URL and key; arguments have precedence."""
    database.put("bot_token", "made-up", service="slack")
    env = {"SUPABASE_URL": supabase.url, "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY}

    assert SupabaseCredentialManager(env=env).get_credentials("slack") == {"bot_token": "made-up"}
    other = SupabaseCredentialManager(supabase.url, SERVICE_KEY, env=env | {"SUPABASE_URL": "https://x.supabase.co"})
    assert other.get_credentials("slack") == {"bot_token": "made-up"}


def test_credentials_of_any_service(manager: SupabaseCredentialManager, database: Database) -> None:
    """get_credentials returns all active rows of a service by type, and no inactive rows or rows of other services."""
    database.put("bot_token", "made-up", service="slack")
    database.put("signing_secret", '한글 "quoted"', service="slack")
    database.put("old_token", "inactive", service="slack", active=False)
    database.put("api_key", "another", service="openai")

    assert manager.get_credentials("slack") == {"bot_token": "made-up", "signing_secret": '한글 "quoted"'}
    assert manager.get_credentials("openai") == {"api_key": "another"}
    assert manager.get_credentials("github") is None


def test_sealed_credentials_are_opened(supabase: PostgRESTStandIn, database: Database) -> None:
    """With the encryption key, the manager reads sealed values, and plain values of types other than keys and token."""
    manager = SupabaseCredentialManager(supabase.url, SERVICE_KEY, env=SEALING)
    database.put("bot_token", seal("made-up", "slack", "bot_token"), service="slack")
    database.put("channel", "#trades", service="slack")

    assert manager.get_credentials("slack") == {"bot_token": "made-up", "channel": "#trades"}


@pytest.mark.parametrize(("env", "code"), [({}, "sealed-without-key"), (SEALING, "plain-with-key")])
def test_sealing_that_is_not_as_the_settings_say(
    supabase: PostgRESTStandIn, database: Database, env: dict[str, str], code: str
) -> None:
    """A sealed app key raises TokenError without an encryption key, and a plain app key raises it with one."""
    database.put_keys()
    if not env:
        database.put("app_key", seal(APP_KEY.key, "kis", "app_key"))
    manager = SupabaseCredentialManager(supabase.url, SERVICE_KEY, env=env)

    for ask in (manager.get_kis_credentials, lambda: manager.get_credentials("kis")):
        with pytest.raises(TokenError) as caught:
            ask()
        assert caught.value.code == code


def test_keys_of_kis(manager: SupabaseCredentialManager, database: Database) -> None:
    """get_kis_credentials returns key and secret without blanks around them, or None if one of them is missing."""
    database.put("app_key", f" {APP_KEY.key}\n")
    assert manager.get_kis_credentials() is None
    database.put("app_secret", APP_KEY.secret)

    found = manager.get_kis_credentials()

    matches = found == {"app_key": APP_KEY.key, "app_secret": APP_KEY.secret}
    assert matches


def test_paper_and_named_slots(supabase: PostgRESTStandIn, database: Database) -> None:
    """The methods for KIS use the slot that the environment names."""
    paper, named = make_token(), make_token()
    database.put_token(paper, service="kis-paper")
    database.put_token(named, service="kis-second")

    for env, token in (({"KIS_ENVIRONMENT": "paper"}, paper), ({"KIS_SERVICE_NAME": "kis-second"}, named)):
        manager = SupabaseCredentialManager(supabase.url, SERVICE_KEY, env=env)
        assert id_of(manager.get_kis_token()) == token.token_id
        assert id_of(manager.get_kis_valid_token()) == token.token_id


@pytest.mark.parametrize(("left", "is_valid"), [(HOUR, True), (-HOUR, False)])
def test_tokens_valid_or_expired(
    manager: SupabaseCredentialManager, database: Database, left: timedelta, *, is_valid: bool
) -> None:
    """get_kis_token returns valid and expired tokens; get_kis_valid_token returns only valid tokens."""
    token = make_token(left=left, age=20 * HOUR)
    database.put_token(token)

    found = manager.get_kis_token()

    assert id_of(found) == token.token_id
    assert found is not None
    assert datetime.fromisoformat(found["expires_at"]) == token.expires_at
    assert datetime.fromisoformat(found["issued_at"]) == token.issued_at
    assert manager.get_kis_valid_token() == (found if is_valid else None)


def guide_json(token: Token, **members: object) -> str:
    """A row as the guide's code writes it, with Korea times that have no zone."""
    times = {
        name: time.astimezone(KST).replace(tzinfo=None).isoformat()
        for name, time in (("expires_at", token.expires_at), ("issued_at", token.issued_at))
    }
    return json.dumps({"access_token": "opaque.token-of-a-test_0123456789", **times, **members})


def test_column_wins_over_the_json(manager: SupabaseCredentialManager, database: Database) -> None:
    """The getters use the end in the column. If the column is empty, the JSON's Korea times are used."""
    token, column = make_token(left=5 * HOUR), utc_now() + 2 * HOUR
    database.put("access_token", guide_json(token, note="kept"), column)
    with_column = manager.get_kis_token()
    database.put("access_token", guide_json(token))
    without = manager.get_kis_token()

    assert with_column is not None
    assert without is not None
    assert parse_instant(with_column["expires_at"]) == column
    assert with_column["note"] == "kept"
    assert parse_instant(without["expires_at"]) == token.expires_at
    assert datetime.fromisoformat(without["expires_at"]).utcoffset() == timedelta()
    assert manager.get_kis_valid_token() is None, "only the column can be asked by the database"


def test_column_that_promises_too_much_is_not_believed(manager: SupabaseCredentialManager, database: Database) -> None:
    """If Korea time was written as UTC, an expired token looks valid for nine hours; it is still not returned."""
    token = make_token(left=-HOUR, age=25 * HOUR)
    database.put("access_token", guide_json(token), token.expires_at + 9 * HOUR)

    assert manager.get_kis_valid_token() is None


@pytest.mark.parametrize("is_dated", [True, False], ids=["", "no Date"])
def test_validity_is_judged_by_the_database(
    supabase: PostgRESTStandIn, manager: SupabaseCredentialManager, database: Database, *, is_dated: bool
) -> None:
    """The database compares the times, so the manager needs no Date and does not use this machine's clock."""
    supabase.server.send_date = is_dated
    database.put_token(make_token(left=-timedelta(seconds=2), age=24 * HOUR))
    assert manager.get_kis_valid_token() is None
    token = make_token(left=10 * timedelta(seconds=1), age=24 * HOUR)
    database.put_token(token)
    assert id_of(manager.get_kis_valid_token()) == token.token_id


@pytest.mark.parametrize("value", ["not JSON", "[]", "{}", '{"access_token": 1}', '{"access_token": "short"}', "null"])
def test_broken_json_counts_as_absent(manager: SupabaseCredentialManager, database: Database, value: str) -> None:
    """Unreadable JSON counts as absent, so that the caller renews it."""
    database.put("access_token", value, utc_now() + HOUR)
    assert manager.get_kis_token() is None
    assert manager.get_kis_valid_token() is None


def test_saved_token_is_found_again(manager: SupabaseCredentialManager, database: Database) -> None:
    """A save makes or replaces the row, and the getters then return the saved token."""
    tokens = [make_token(left=5 * HOUR), make_token(left=6 * HOUR)]
    for token in tokens:
        assert manager.save_kis_token(token.value, token.expires_at, token.issued_at) is True
        assert database.stored_id() == token.token_id
        assert id_of(manager.get_kis_valid_token()) == token.token_id
    assert database.row()["expires_at"] == tokens[-1].expires_at
    assert database.row()["is_active"] is True


def test_naive_times_are_korea_s(manager: SupabaseCredentialManager, database: Database) -> None:
    """Times without a zone, as the guide's code passes them, are saved as Korea times."""
    end = (utc_now() + 5 * HOUR).replace(microsecond=0)
    naive = end.astimezone(KST).replace(tzinfo=None)

    assert manager.save_kis_token("opaque.token-of-a-test_0123456789", naive, naive - timedelta(days=1)) is True

    assert database.row()["expires_at"] == end
    found = manager.get_kis_token()
    assert found is not None
    assert parse_instant(found["issued_at"]) == end - timedelta(days=1)


def test_older_token_never_replaces_a_newer(manager: SupabaseCredentialManager, database: Database) -> None:
    """A late save of an older token changes nothing, and returns True."""
    newer, older = make_token(left=23 * HOUR), make_token(left=2 * HOUR)
    database.put_token(newer)

    assert manager.save_kis_token(older.value, older.expires_at, older.issued_at) is True

    assert database.stored_id() == newer.token_id


def test_saved_token_is_sealed(supabase: PostgRESTStandIn, database: Database) -> None:
    """With an encryption key, a save stores the token sealed."""
    manager, token = SupabaseCredentialManager(supabase.url, SERVICE_KEY, env=SEALING), make_token()

    assert manager.save_kis_token(token.value, token.expires_at, token.issued_at) is True

    assert database.row()["credential_value"].startswith("enc:v1:")
    assert id_of(manager.get_kis_token()) == token.token_id


@pytest.mark.parametrize("value", ["", "short", "a token with blanks in it, and long enough"])
def test_invalid_token_is_not_saved(manager: SupabaseCredentialManager, database: Database, value: str) -> None:
    """A value that is not a token is not saved, because every caller would then issue a token."""
    with pytest.raises(TokenError):
        manager.save_kis_token(value, utc_now() + HOUR, utc_now())
    assert database.row() == {}


def test_expired_token_is_not_saved(manager: SupabaseCredentialManager, database: Database) -> None:
    """An expired token is not saved, because no caller could use it."""
    token = make_token(left=-MINUTE, age=24 * HOUR)
    with pytest.raises(TokenError):
        manager.save_kis_token(token.value, token.expires_at, token.issued_at)
    assert database.row() == {}


def test_outage_returns_none_and_is_logged(supabase: PostgRESTStandIn, caplog: pytest.LogCaptureFixture) -> None:
    """In an outage, the getters return None and a save returns False; the log has the reason."""
    manager, token = SupabaseCredentialManager(supabase.url, SERVICE_KEY, env={}, clock=TurnedClock()), make_token()
    supabase.server.add_fault(Fault("answer", times=999, response=html_response(503)))
    with caplog.at_level(logging.WARNING, "kis_token"):
        assert manager.get_credentials("slack") is None
        assert manager.get_kis_credentials() is None
        assert manager.get_kis_token() is None
        assert manager.get_kis_valid_token() is None
        assert manager.save_kis_token(token.value, token.expires_at, token.issued_at) is False
    said = [record.getMessage() for record in caplog.records if record.name == "kis_token"]
    assert len(said) == 5
    assert all("store-unreachable" in line for line in said)


@pytest.mark.parametrize("kind", ["reset", "truncate", "answer"])
def test_a_call_that_fails_once_is_repeated(
    supabase: PostgRESTStandIn, database: Database, kind: FaultKind, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that fails once is repeated after a pause, because the guide's clients would otherwise issue a token."""
    manager, token = SupabaseCredentialManager(supabase.url, SERVICE_KEY, env={}, clock=TurnedClock()), make_token()
    supabase.server.add_fault(Fault(kind, "/rest/v1/rpc/save_token"))
    assert manager.save_kis_token(token.value, token.expires_at, token.issued_at) is True
    assert database.stored_id() == token.token_id
    for read in (manager.get_kis_token, manager.get_kis_valid_token):
        supabase.server.add_fault(Fault(kind, "/rest/v1/api_credentials"))
        got = read()
        is_same = got is not None and got["access_token"] == token.value
        assert is_same
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_configuration_error_is_raised(supabase: PostgRESTStandIn) -> None:
    """A key of another project raises an error. If the getters returned None, the caller would see an empty table."""
    manager = SupabaseCredentialManager(supabase.url, "sb_secret_of-another-project-0123456789", env={})
    with pytest.raises(StoreMisconfigured) as caught:
        manager.get_kis_token()
    assert caught.value.code == "store-key-rejected"


def test_public_key_is_refused(supabase: PostgRESTStandIn) -> None:
    """The public key is refused, because it cannot read the table."""
    with pytest.raises(KisTokenError) as caught:
        SupabaseCredentialManager(supabase.url, ANON_KEY, env={})
    assert caught.value.code == "anon-supabase-key"


def test_repr_shows_where_and_no_key(supabase: PostgRESTStandIn) -> None:
    """The repr shows the URL or None, and never the key."""
    assert f"{SupabaseCredentialManager(env={})!r}" == "SupabaseCredentialManager(None)"
    shown = repr(SupabaseCredentialManager(supabase.url, SERVICE_KEY, env={}))
    assert shown == f"SupabaseCredentialManager({supabase.url!r})"


@pytest.fixture
def _forgotten() -> Iterator[None]:
    get_supabase_manager.cache_clear()
    yield
    get_supabase_manager.cache_clear()


@pytest.mark.usefixtures("_forgotten")
def test_one_manager_for_all() -> None:
    """The module's functions share one manager."""
    assert get_supabase_manager() is get_supabase_manager()


#: Code that uses the guide's names, as a separate program.
GUIDE = """
from datetime import datetime, timedelta
from kis_token import (
    SupabaseCredentialManager, get_supabase_manager, get_kis_credentials_from_supabase, get_kis_token_from_supabase,
    get_kis_valid_token_from_supabase, save_kis_token_to_supabase,
)
assert isinstance(get_supabase_manager(), SupabaseCredentialManager)
assert get_supabase_manager().is_available()
creds = get_kis_credentials_from_supabase()
assert len(creds["app_key"]) == 36 and creds["app_secret"]
assert get_kis_token_from_supabase() is None and get_kis_valid_token_from_supabase() is None
now = datetime.now().astimezone()
assert save_kis_token_to_supabase("opaque.token-of-a-test_0123456789", now + timedelta(hours=24), now) is True
data = get_kis_token_from_supabase()
assert "access_token" in data and datetime.fromisoformat(data["expires_at"]) == now + timedelta(hours=24)
assert datetime.fromisoformat(data.get("issued_at")) == now
assert get_kis_valid_token_from_supabase() == data
assert get_supabase_manager().get_credentials("slack") == {"bot_token": "made-up"}
"""


def test_code_written_against_the_guide(supabase: PostgRESTStandIn, database: Database) -> None:
    """The guide's names can be imported from the package, and need only the environment's variables."""
    database.put("app_key", ACCOUNT.app_key)
    database.put("app_secret", ACCOUNT.app_secret)
    database.put("bot_token", "made-up", service="slack")
    env = {"SUPABASE_URL": supabase.url, "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY}

    done = subprocess.run(
        [sys.executable, "-"], input=GUIDE, env=env, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
