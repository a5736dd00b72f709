"""Helpers that several tests share: made-up tokens, a database to inspect, a clock that tests set."""

from __future__ import annotations

import base64
import json
import secrets
import time
import uuid
from datetime import datetime, timedelta, timezone
from threading import Event
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql
from psycopg.rows import dict_row

from kis_token.config import Settings
from kis_token.sandbox.database import EMPTY_TABLES
from kis_token.sandbox.kis_rules import Account
from kis_token.token import AppKey, Token, build_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

    from kis_token.sandbox.database import Project

SERVICE_KEY = "sb_secret_made-up-for-the-tests_4f7Qx0Zt2"
ANON_KEY = "sb_publishable_made-up-for-tests_9bKw1Lm3"

ACCOUNT = Account()
APP_KEY = AppKey(ACCOUNT.app_key, ACCOUNT.app_secret)

# An example of hypothesis has no time limit, because a slow machine must not fail a test.
settings.register_profile("unhurried", settings.default, deadline=None, max_examples=40)
settings.load_profile("unhurried")

MIGRATED_TABLES = (
    *("api_credentials", "credential_leases", "credential_issuances"),
    *("credential_issuer_keys", "credential_callers", "credential_attempts"),
)


def first_of(number: int, cases: Iterable[object]) -> list[object]:
    """The first ``number`` cases of a parameter unchanged, and all other cases with the mark ``matrix``."""
    return [
        case
        if place < number
        else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.matrix)
        for place, case in enumerate(cases)
    ]


def in_rounds(few: int, many: int) -> pytest.MarkDecorator:
    """Parametrize the number of rounds of a race: ``few`` and, with the mark ``matrix``, ``many``."""
    return pytest.mark.parametrize("rounds", [few, pytest.param(many, marks=pytest.mark.matrix)])


def utc_now() -> datetime:
    """The present time, in UTC."""
    return datetime.now(timezone.utc)


def make_token(
    app_key: str = ACCOUNT.app_key,
    *,
    left: timedelta = timedelta(hours=23),
    age: timedelta = timedelta(hours=1),
    now: datetime | None = None,
) -> Token:
    """A token that KIS issued ``age`` ago, with ``left`` of its validity. Each call makes another token."""
    now = (now or utc_now()).replace(microsecond=0)
    claims = {
        "sub": "token",
        "aud": str(uuid.uuid4()),
        "iss": "unogw",
        "exp": int((now + left).timestamp()),
        "iat": int((now - age).timestamp()),
        "jti": app_key,
    }
    parts = (_base64url(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "HS512"}, claims))
    return build_token(".".join((*parts, _base64url(secrets.token_bytes(64)))), expiries=[])


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Database:
    """A project's database. ``owner`` is a connection with all rights. `call` uses service_role, as the API does."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.owner = psycopg.connect(project.owner, autocommit=True, row_factory=dict_row)
        self.service = self.connect_as("service_role")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.owner.close()
        self.service.close()

    def connect_as(self, role: str) -> psycopg.Connection[tuple[Any, ...]]:
        """A new connection in a role of the API."""
        connection = psycopg.connect(self.project.api, autocommit=True)
        try:
            connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        except psycopg.Error:
            connection.close()
            raise
        return connection

    def clear(self) -> None:
        """Empty all tables."""
        self.owner.execute(EMPTY_TABLES)

    def call(self, function: str, **arguments: object) -> Any:  # noqa: ANN401 - whatever the function answers
        """Call a function as service_role."""
        return call(self.service, function, **arguments)

    def put(
        self,
        credential_type: str,
        value: str,
        expires_at: datetime | str | None = None,
        *,
        service: str = "kis",
        active: bool = True,
    ) -> int:
        """Store a row with an upsert, as clients written for the guide do. Returns the row's version."""
        rows = self.owner.execute(
            "insert into public.api_credentials as c"
            " (service_name, credential_type, credential_value, expires_at, is_active) values (%s, %s, %s, %s, %s)"
            " on conflict (service_name, credential_type) do update set credential_value = excluded.credential_value,"
            " expires_at = excluded.expires_at, is_active = excluded.is_active returning c.version",
            (service, credential_type, value, expires_at, active),
        ).fetchall()
        return int(rows[0]["version"])

    def put_token(self, token: Token, *, service: str = "kis", active: bool = True) -> int:
        """Store a token without a lease. Returns its version."""
        return self.put("access_token", token.to_json(), token.expires_at, service=service, active=active)

    def put_keys(self, app_key: AppKey = APP_KEY, *, service: str = "kis") -> None:
        """Store an account's key and secret."""
        self.put("app_key", app_key.key, service=service)
        self.put("app_secret", app_key.secret, service=service)

    def row(self, service: str = "kis") -> dict[str, Any]:
        """The slot's token row; empty without one."""
        return self._first(
            "select * from public.api_credentials where service_name = %s and credential_type = 'access_token'", service
        )

    def stored_id(self, service: str = "kis") -> str | None:
        """The fingerprint of the token that is stored as plain JSON."""
        row = self.row(service)
        return build_token(json.loads(row["credential_value"])["access_token"], expiries=[]).token_id if row else None

    def lease(self, service: str = "kis") -> dict[str, Any]:
        """The slot's lease; empty without one."""
        return self._first("select * from public.credential_leases where service_name = %s", service)

    def outcomes(self, service: str = "kis") -> list[str]:
        """The log of a slot, oldest first."""
        rows = self.owner.execute(
            "select outcome from public.credential_issuances where service_name = %s order by id", (service,)
        )
        return [row["outcome"] for row in rows]

    def age(self, seconds: float, service: str = "kis") -> None:
        """Let time pass for a slot's lease, by making all times of the lease ``seconds`` earlier."""
        self.owner.execute(
            "update public.credential_leases set granted_at = granted_at - %(by)s, lease_until = lease_until - %(by)s,"
            " not_before = not_before - %(by)s, issued_at = issued_at - %(by)s, refused_until = refused_until - %(by)s"
            " where service_name = %(service)s",
            {"by": timedelta(seconds=seconds), "service": service},
        )

    def _first(self, query: str, service: str) -> dict[str, Any]:
        rows = self.owner.execute(query, (service,)).fetchall()
        return rows[0] if rows else {}


def call(connection: psycopg.Connection[tuple[Any, ...]], function: str, **arguments: object) -> Any:  # noqa: ANN401 - whatever the function answers
    """Call a function of the schema public by its arguments' names."""
    named = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments
    )
    query = sql.SQL("select public.{}({})").format(sql.Identifier(function), named)
    return connection.execute(query, arguments).fetchall()[0][0]


#: Seconds until a wait for another thread or process fails.
LONGEST_WAIT = 60.0


def wait_until(holds: Callable[[], object]) -> None:
    """Return as soon as ``holds`` returns a true value.

    The function sleeps between two tries, so that the awaited work gets the processor.
    """
    deadline, never = time.monotonic() + LONGEST_WAIT, Event()
    while not holds():
        assert time.monotonic() < deadline
        never.wait(0.01)


class TurnedClock:
    """The machine's clock. `sleep` does not wait: the time jumps, and ``on_sleep`` gets the seconds."""

    def __init__(self, *, wrong_by: timedelta = timedelta()) -> None:
        self.on_sleep: Callable[[float], object] = lambda _: None
        self.slept: list[float] = []
        self._wrong_by = wrong_by
        self._jumped = 0.0

    def now(self) -> datetime:
        """The present time by this machine's clock."""
        return utc_now() + timedelta(seconds=self._jumped) + self._wrong_by

    def monotonic(self) -> float:
        """A number of seconds that never decreases."""
        return time.monotonic() + self._jumped

    def sleep(self, seconds: float) -> None:
        """Set the clock forward, and call ``on_sleep``."""
        self.slept.append(seconds)
        self.jump(seconds)
        self.on_sleep(seconds)

    def jump(self, seconds: float) -> None:
        """Let time pass only for this machine, as if the machine was suspended."""
        self._jumped += seconds

    def jitter(self, low: float, high: float) -> float:
        """Return the middle of the range, so that no test depends on chance."""
        return (low + high) / 2


HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class Caller:
    """One attempt to issue that calls the functions directly, with its own holder id."""

    def __init__(
        self,
        database: Database,
        *,
        service: str = "kis",
        app_key: AppKey = APP_KEY,
        label: str = "acme/bot run 7 trade",
    ) -> None:
        self.holder = str(uuid.uuid4())
        self.fence = 0
        self._database = database
        self._service = service
        self._app_key = app_key
        self._label = label

    def begin(self, **changes: object) -> dict[str, Any]:
        """Ask for the lease, and keep the fence."""
        arguments: dict[str, object] = {
            "service": self._service,
            "holder": self.holder,
            "label": self._label,
            "app_key_id": self._app_key.key_id,
            "credential_id": self._app_key.credential_id,
            "min_remaining": 10 * MINUTE,
        }
        answer: dict[str, Any] = self._database.call("begin_issuance", **(arguments | changes))
        self.fence = answer["fence"] or self.fence
        return answer

    def commit(self, token: Token, **changes: object) -> dict[str, Any]:
        """Store a token and end the lease."""
        arguments: dict[str, object] = {
            "service": self._service,
            "holder": self.holder,
            "fence": self.fence,
            "value": token.to_json(),
            "expires_at": token.expires_at,
            "issued_at": token.issued_at,
            "token_id": token.token_id,
        }
        answer: dict[str, Any] = self._database.call("commit_issuance", **(arguments | changes))
        return answer

    def abort(
        self, error_code: str = "EGW00133", cooldown: timedelta = 61 * timedelta(seconds=1), **changes: object
    ) -> str:
        """End the lease without a token. Returns the answer's status."""
        arguments: dict[str, object] = {
            "service": self._service,
            "holder": self.holder,
            "fence": self.fence,
            "cooldown": cooldown,
            "error_code": error_code,
        }
        return str(self._database.call("abort_issuance", **(arguments | changes))["status"])


def issue_by_functions(database: Database, token: Token, *, service: str = "kis", app_key: AppKey = APP_KEY) -> int:
    """Begin and commit. Returns the version of ``token``."""
    caller = Caller(database, service=service, app_key=app_key)
    assert caller.begin()["status"] == "granted"
    answer = caller.commit(token)
    assert answer["status"] == "committed"
    return int(answer["version"])


class RecordedWorkflow:
    """A workflow that records its calls, in order. The repr does not show the calls."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def mask(self, secret: str) -> None:
        """Record the value."""
        self.told.append(("mask", secret))

    def output(self, name: str, value: str) -> None:
        """Record the value."""
        self.told.append(("output", name, value))

    def export(self, name: str, value: str) -> None:
        """Record the value."""
        self.told.append(("export", name, value))

    def summarize(self, markdown: str) -> None:
        """Record the text."""
        self.told.append(("summarize", markdown))

    def error(self, message: str) -> None:
        """Record the message."""
        self.told.append(("error", message))

    def warning(self, message: str) -> None:
        """Record the message."""
        self.told.append(("warning", message))

    def info(self, message: str) -> None:
        """Record the message."""
        self.told.append(("info", message))

    def of(self, kind: str) -> list[str]:
        """The last argument of each recorded call of a kind, such as mask or warning."""
        return [each[-1] for each in self.told if each[0] == kind]

    def outputs(self) -> dict[str, str]:
        """The recorded outputs, by their names."""
        return {each[1]: each[2] for each in self.told if each[0] == "output"}


def make_settings(**variables: str) -> Settings:
    """Settings from a complete environment, which ``variables`` change. The default has no cache file."""
    usual = {
        "SUPABASE_URL": "https://example.supabase.co",
        "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY,
        "KIS_TOKEN_CACHE": "off",
    }
    return Settings.from_env(usual | variables)
