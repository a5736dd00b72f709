"""KIS fails: the caller has a stale token, an expired token or no token, or Supabase fails too."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from kis_token.errors import KIS_REFUSALS, IssuerOutage
from kis_token.sandbox.kis_http import MESSAGES, TOKEN_PATH, error_response, html_response
from kis_token.sandbox.loopback import Fault, Response
from kis_token.token import KST
from tests.faults import helpers
from tests.faults.helpers import NO_KIS, assert_warned, error_of, stored_stays
from tests.resolver_harness import expired_token, stale_token
from tests.support import HOUR, MINUTE, make_token, utc_now

if TYPE_CHECKING:
    from datetime import timedelta

    from tests.resolver_harness import Chain
    from tests.support import Database

OPAQUE = "opaque.token-of-a-test_0123456789"
DAY_SECONDS = 86400


def answer(token: str, left: timedelta | None = None, **members: object) -> Response:
    """Return an answer of tokenP with these members; ``left`` is the time until the token's end."""
    end = {} if left is None else {"access_token_token_expired": f"{(utc_now() + left).astimezone(KST):%F %T}"}
    return Response(200, {"access_token": token, "token_type": "Bearer", **end, **members})


@dataclass(frozen=True)
class KISFault:
    """A failure of KIS.

    ``calls`` is the number of tokenP calls that reach KIS before a caller without a token gives up. If ``passes`` is
    True, KIS only asks for a pause of a minute, and a caller with a stale token gets no warning.
    """

    code: str
    fault: Fault = field(repr=False)
    calls: int = 1
    passes: bool = False


def _answered(response: Response, code: str = "kis-answer-unusable", **more: bool | int) -> KISFault:
    return KISFault(code, Fault("answer", TOKEN_PATH, 99, response), **more)  # type: ignore[arg-type]  # from the table


def _refused(code: str) -> KISFault:
    known = KIS_REFUSALS[code][0] if code in KIS_REFUSALS else "kis-answer-unusable"
    return _answered(error_response(code, TOKEN_PATH), known)


FAULTS = {
    "refused": KISFault("kis-unreachable", Fault("reset"), calls=0),
    "unresolvable": KISFault("kis-unreachable", Fault("reset"), calls=0),
    "reset": KISFault("kis-unreachable", Fault("reset", TOKEN_PATH, 99)),
    "broken-off": KISFault("kis-unreachable", Fault("truncate", TOKEN_PATH, 99)),
    "html-200": _answered(html_response(200)),
    "html-503": _answered(html_response(503)),
    "empty-200": _answered(Response(200)),
    "list": _answered(Response(200, [OPAQUE])),
    "no-fields": _answered(Response(200, {})),
    "no-token": _answered(Response(200, {"token_type": "Bearer", "expires_in": DAY_SECONDS})),
    "no-end": _answered(answer(OPAQUE)),
    "short-token": _answered(answer("1", 24 * HOUR, expires_in=DAY_SECONDS)),
    "expired-on-arrival": _answered(answer(OPAQUE, -MINUTE, expires_in=DAY_SECONDS)),
    "expired-jwt": _answered(answer(expired_token().value, 24 * HOUR, expires_in=DAY_SECONDS)),
    "another-key": _answered(answer(make_token("PSz9y8x7w6v5u4t3s2r1q0p9o8n7m6l5k4j3").value, 23 * HOUR)),
    **{code: _refused(code) for code in MESSAGES if code != "EGW00133"},
    "EGW99999": _refused("EGW99999"),
    "EGW00133": _answered(error_response("EGW00133", TOKEN_PATH), "kis-rate-limited", calls=2, passes=True),
}

#: One fault of each kind: the request is not sent, the answer is lost, the answer has no token, KIS refuses the key,
#: the call is too early.
OUTCOMES = ("refused", "reset", "html-200", "EGW00103", "EGW00133")

each = pytest.mark.parametrize("name", FAULTS)
each_outcome = helpers.each_outcome(FAULTS, OUTCOMES)


def fail(chain: Chain, name: str) -> dict[str, str]:
    """Cause the fault; return the inputs with which a caller meets the fault."""
    if name == "refused":
        chain.kis.production.stop()
    elif name == "unresolvable":
        return {"base_url": NO_KIS}
    else:
        chain.kis.production.add_fault(FAULTS[name].fault)
    return {}


def assert_lease_is_given_back(database: Database) -> None:
    """Assert that an abort ended the last lease, and that no lease ended with a token."""
    assert database.outcomes()[-1] == "aborted"
    assert "committed" not in database.outcomes()


@each_outcome
def test_a_stale_token_is_used(chain: Chain, name: str) -> None:
    """A stale token is used after at most one tokenP call; the stored rows stay, and the lease is given back."""
    token = stale_token()
    chain.database.put_token(token)
    inputs = fail(chain, name)

    with stored_stays(chain):
        got = chain.resolve(**inputs)

    assert (got.token.token_id, got.source, got.refreshed) == (token.token_id, "supabase", False)
    assert chain.issue_calls == min(FAULTS[name].calls, 1)
    if FAULTS[name].passes:
        assert (got.warnings, got.trace[-1].text) == ((), "it is too early to call KIS again")
    else:
        assert_warned(got, "not renewed", f"[{FAULTS[name].code}]")
    assert_lease_is_given_back(chain.database)


@each
def test_without_a_token_it_is_the_error(chain: Chain, name: str) -> None:
    """If no token is valid, the caller gets the error of the fault, and no token is stored or cached."""
    chain.database.put_token(expired_token())
    inputs = fail(chain, name)

    with stored_stays(chain):
        error = error_of(chain, **inputs)

    assert (error.code, chain.issue_calls) == (FAULTS[name].code, FAULTS[name].calls)
    assert list(chain.folder.iterdir()) == []
    assert_lease_is_given_back(chain.database)


@each_outcome
def test_an_expired_token_where_it_is_allowed(chain: Chain, name: str) -> None:
    """With allow-expired a token that expired within the last hour is used, marked as expired; an older one is not."""
    token = expired_token()
    chain.database.put_token(token)
    inputs = fail(chain, name)

    with stored_stays(chain):
        got = chain.resolve(allow_expired="true", **inputs)

    assert (got.token.token_id, got.expired, got.refreshed) == (token.token_id, True, False)
    assert_warned(got, "An expired token is handed out", f"[{FAULTS[name].code}]")
    assert list(chain.folder.iterdir()) == []
    chain.database.put_token(make_token(left=-61 * MINUTE, age=26 * HOUR))
    with pytest.raises(Exception, match=r"\[(kis-|wait-too-long)"):
        chain.resolve(allow_expired="true", **inputs)


@each_outcome
def test_with_supabase_down_as_well(chain: Chain, name: str) -> None:
    """If Supabase fails too, a cached token is used without a call to KIS.

    Without a cached token, the caller makes at most one call and gets KIS's error.
    """
    chain.supabase.stop()
    inputs = fail(chain, name)

    with stored_stays(chain):
        error = error_of(chain, **inputs)
    assert (error.code, chain.issue_calls) == (FAULTS[name].code, min(FAULTS[name].calls, 1))
    token = stale_token()
    chain.cache_token(token)

    got = chain.resolve(**inputs)
    assert (got.token.token_id, got.source) == (token.token_id, "cache")
    assert chain.issue_calls == min(FAULTS[name].calls, 1)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_variable_that_names_no_certificates(chain: Chain, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """If a variable names no certificates, a stale token is used; without a token, the error names the variable."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(variable, "/no/such/file.pem")
    url = chain.kis.production_url.replace("http:", "https:")
    error = error_of(chain, base_url=url)
    assert (error.code, variable in f"{error}") == ("kis-unreachable", True)

    chain.database.put_token(stale_token())
    got = chain.resolve(base_url=url)

    assert got.token.token_id == chain.database.stored_id()
    assert_warned(got, "not renewed", variable)
    assert_lease_is_given_back(chain.database)


@helpers.each_outcome([name for name in FAULTS if name not in KIS_REFUSALS], OUTCOMES)
def test_when_kis_works_again(chain: Chain, name: str) -> None:
    """When KIS works again after any fault but a refusal, the next caller gets a token with one call."""
    with pytest.raises(Exception, match=r"\[kis-"):
        chain.resolve(**fail(chain, name))
    chain.kis.production.clear_faults()
    chain.kis.production.start()
    calls = chain.issue_calls

    got = chain.resolve()

    assert (got.source, got.warnings, chain.issue_calls) == ("oauth", (), calls + 1)
    assert chain.database.stored_id() == chain.cached_id() == got.token.token_id


# unusual answers that have a token


def _ends_in(left: timedelta, **members: object) -> tuple[Response, timedelta]:
    return answer(OPAQUE, left, **members), left


def _unusual_answers() -> dict[str, tuple[Response, timedelta]]:
    """Unusual answers of tokenP, each with the time left until the token's end."""
    jwt = make_token(left=20 * HOUR, age=4 * HOUR).value
    return {
        # The end decides, not expires_in: for an older token, KIS returns the whole validity in expires_in.
        "longer-expires-in": _ends_in(3 * HOUR, expires_in=DAY_SECONDS),
        "shorter-expires-in": _ends_in(20 * HOUR, expires_in=60),
        "no-expires-in": _ends_in(20 * HOUR),
        "unreadable-expires-in": _ends_in(20 * HOUR, expires_in="soon"),
        "expires-in-alone": (answer(OPAQUE, expires_in=DAY_SECONDS), 24 * HOUR),
        "expires-in-as-text": (answer(OPAQUE, expires_in=f"{DAY_SECONDS}"), 24 * HOUR),
        "jwt-alone": (answer(jwt), 20 * HOUR),
        "jwt-that-ends-sooner": (answer(jwt, 24 * HOUR, expires_in=DAY_SECONDS), 20 * HOUR),
        "jwt-that-ends-later": (answer(jwt, 2 * HOUR, expires_in=DAY_SECONDS), 2 * HOUR),
        "white-space": (answer(f" {OPAQUE}\r\n", 20 * HOUR, expires_in=DAY_SECONDS), 20 * HOUR),
    }


@pytest.mark.parametrize("name", _unusual_answers())
def test_an_unusual_answer_with_a_token(chain: Chain, name: str) -> None:
    """A token is stored without white space and with the earliest end in the answer; the next caller uses it."""
    response, left = _unusual_answers()[name]
    chain.kis.production.add_fault(Fault("answer", TOKEN_PATH, response=response))

    got = chain.resolve(min_validity="1m")
    again = chain.resolve(min_validity="1m", cache_path="off")

    assert (got.source, got.warnings, again.source, chain.issue_calls) == ("oauth", (), "supabase", 1)
    assert abs(got.token.expires_at - utc_now() - left) < 2 * MINUTE
    row = chain.database.row()
    stored = json.loads(row["credential_value"])["access_token"]
    is_clean = stored == got.token.value == again.token.value == stored.strip()
    assert is_clean, "the token has changed on its way"
    assert row["expires_at"] == again.token.expires_at == got.token.expires_at


def test_a_rotation_reports_kis_s_failure(chain: Chain) -> None:
    """A caller that asks for a renewal gets KIS's failure as the error, and the valid token stays."""
    chain.database.put_token(stale_token())
    chain.kis.production.add_fault(FAULTS["html-503"].fault)
    resolver = chain.resolver(mode="rotate")
    with stored_stays(chain), pytest.raises(IssuerOutage):
        resolver.resolve()
