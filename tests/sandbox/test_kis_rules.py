"""The rules of the KIS emulator, on a clock that only the test moves."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from kis_token.sandbox.kis_rules import Account, Issuances, KISRules, RefusedError, Settings
from kis_token.token import fingerprint

START = datetime(2025, 3, 3, 22, 30, 15, 600_000, tzinfo=timezone.utc)
ACCOUNT = Account()
KEYS = (ACCOUNT.app_key, ACCOUNT.app_secret)


class StandingClock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        """Return the time last set."""
        return self.time

    def advance(self, **by: float) -> None:
        """Move the clock by hours, minutes or seconds."""
        self.time += timedelta(**by)


@pytest.fixture
def clock() -> StandingClock:
    """A clock under the test's control."""
    return StandingClock()


@pytest.fixture
def rules(clock: StandingClock) -> KISRules:
    """An environment with one account."""
    return KISRules([ACCOUNT], clock, Settings())


def refusal_of_issue(rules: KISRules, app_key: str = KEYS[0], app_secret: str = KEYS[1]) -> str:
    """Return the error code of a tokenP call."""
    with pytest.raises(RefusedError) as error:
        rules.issue(app_key, app_secret)
    return error.value.code


def refusal_of_call(rules: KISRules, token: str, app_key: str = KEYS[0], app_secret: str = KEYS[1]) -> str:
    """Return the error code of an ordinary call."""
    with pytest.raises(RefusedError) as error:
        rules.admit(app_key, app_secret, token)
    return error.value.code


def test_account_hides_its_secret() -> None:
    """The representation shows the app key but not the app secret."""
    account = Account("PSkey", "the-secret")
    assert "PSkey" in repr(account)
    assert "the-secret" not in repr(account)


def test_made_up_account_has_the_form_of_kis() -> None:
    """A made-up app key has 36 characters and begins with PS, a made-up secret has 180; all differ."""
    first, second = Account(), Account()
    assert len(first.app_key) == 36
    assert first.app_key.startswith("PS")
    assert len(first.app_secret) == 180
    assert first.app_key != second.app_key
    assert first.app_secret != second.app_secret


def test_token_is_valid_for_its_set_time(rules: KISRules, clock: StandingClock) -> None:
    """A token is accepted until the second of its expiry and gets EGW00123 from then on."""
    token = rules.issue(*KEYS)
    assert token.expires_at - token.issued_at == timedelta(seconds=86400)
    clock.time = token.expires_at - timedelta(microseconds=1)
    rules.admit(*KEYS, token.value)
    clock.time = token.expires_at
    assert refusal_of_call(rules, token.value) == "EGW00123"


def test_partner_company_token_is_valid_for_90_days(rules: KISRules) -> None:
    """The validity of new tokens can be set to 90 days."""
    rules.settings = Settings(expires_in=7776000)
    assert rules.issue(*KEYS).expires_in == 7776000


def test_token_is_hidden_in_its_representation(rules: KISRules) -> None:
    """The representation of an issued token does not show the token's value."""
    token = rules.issue(*KEYS)
    assert token.value not in repr(token)


def test_same_token_for_six_hours(rules: KISRules, clock: StandingClock) -> None:
    """Within 6 hours of an issue, KIS returns the same token and counts no new issue.

    After 6 hours, KIS issues a new token.
    """
    first = rules.issue(*KEYS)
    clock.advance(hours=5, minutes=59)
    assert fingerprint(rules.issue(*KEYS).value) == fingerprint(first.value)
    assert rules.issuances == Issuances(accepted=2, issues=1)
    clock.advance(minutes=1)
    assert fingerprint(rules.issue(*KEYS).value) != fingerprint(first.value)
    assert rules.issuances == Issuances(accepted=3, issues=2)


def test_same_token_comes_back_even_when_revoked(rules: KISRules, clock: StandingClock) -> None:
    """After a revocation KIS returns the revoked token for 6 hours, and still rejects it."""
    token = rules.issue(*KEYS)
    rules.revoke(*KEYS, token.value)
    clock.advance(minutes=1)
    assert rules.issue(*KEYS) == token
    assert refusal_of_call(rules, token.value) == "EGW00121"


def test_same_token_comes_back_even_when_expired(rules: KISRules, clock: StandingClock) -> None:
    """A token that is valid for less than 6 hours is returned again even after its end."""
    rules.settings = Settings(expires_in=60)
    token = rules.issue(*KEYS)
    clock.advance(minutes=2)
    assert rules.issue(*KEYS) == token
    assert refusal_of_call(rules, token.value) == "EGW00123"


def test_once_a_minute_comes_before_the_same_token(rules: KISRules, clock: StandingClock) -> None:
    """A second tokenP call within a minute gets EGW00133, and not the same token.

    A refused call does not prolong the minute.
    """
    token = rules.issue(*KEYS)
    clock.advance(seconds=59.9)
    assert refusal_of_issue(rules) == "EGW00133"
    clock.advance(seconds=0.1)
    assert rules.issue(*KEYS) == token
    assert refusal_of_issue(rules) == "EGW00133"


def test_the_minute_is_counted_per_app_key(clock: StandingClock) -> None:
    """A tokenP call of one account does not delay another account."""
    other = Account()
    rules = KISRules([ACCOUNT, other], clock, Settings())
    token = rules.issue(*KEYS)
    assert rules.issue(other.app_key, other.app_secret).value != token.value


def test_wrong_keys_have_different_codes(rules: KISRules) -> None:
    """An unknown app key gets EGW00103, and a wrong secret EGW00105.

    After these errors, the next call need not wait for a minute.
    """
    assert refusal_of_issue(rules, app_key=Account().app_key) == "EGW00103"
    assert refusal_of_issue(rules, app_secret=KEYS[1].rstrip("=")) == "EGW00105"
    rules.issue(*KEYS)


def test_hammering_locks_the_key_for_a_day(rules: KISRules, clock: StandingClock) -> None:
    """20 calls that come too early within half an hour lock the key: for a day the correct key gets EGW00103."""
    rules.issue(*KEYS)
    assert {refusal_of_issue(rules) for _ in range(20)} == {"EGW00133"}
    clock.advance(hours=23, minutes=59)
    assert refusal_of_issue(rules) == "EGW00103"
    clock.advance(minutes=1)
    rules.issue(*KEYS)


def test_patient_clients_are_not_locked_out(rules: KISRules, clock: StandingClock) -> None:
    """Early calls are counted over half an hour only, so one early call every two minutes has no consequences."""
    for _ in range(40):
        rules.issue(*KEYS)
        assert refusal_of_issue(rules) == "EGW00133"
        clock.advance(minutes=2)


def test_a_call_every_half_minute_is_hammering(rules: KISRules, clock: StandingClock) -> None:
    """A client that calls every 30 s is locked out within an hour, although KIS accepts every other call."""
    answers = []
    for _ in range(120):
        try:
            rules.issue(*KEYS)
        except RefusedError as error:
            answers.append(error.code)
        clock.advance(seconds=30)
    assert "EGW00103" in answers


def test_lockout_can_be_switched_off(rules: KISRules) -> None:
    """With a limit of 0, early calls have no consequences."""
    rules.settings = Settings(lockout_after=0)
    rules.issue(*KEYS)
    assert {refusal_of_issue(rules) for _ in range(50)} == {"EGW00133"}


@pytest.mark.parametrize("kills", [False, True])
def test_new_issue_kills_the_previous_token_if_set(rules: KISRules, clock: StandingClock, *, kills: bool) -> None:
    """A setting decides whether the previous token stays valid after a new issue; the new token is always valid."""
    rules.settings = Settings(reissue_kills_previous=kills)
    previous = rules.issue(*KEYS).value
    clock.advance(hours=7)
    rules.admit(*KEYS, rules.issue(*KEYS).value)
    if kills:
        assert refusal_of_call(rules, previous) == "EGW00121"
    else:
        rules.admit(*KEYS, previous)


def test_token_belongs_to_its_app_key(clock: StandingClock) -> None:
    """A token gets EGW00121 with any other app key, and only its own key can revoke it."""
    other = Account()
    rules = KISRules([ACCOUNT, other], clock, Settings())
    token = rules.issue(*KEYS).value
    assert refusal_of_call(rules, token, other.app_key, other.app_secret) == "EGW00121"
    assert refusal_of_call(rules, "made-up") == "EGW00121"
    with pytest.raises(RefusedError, match="EGW00121"):
        rules.revoke(other.app_key, other.app_secret, token)
    rules.admit(*KEYS, token)


def test_wrong_secret_on_a_call_is_not_the_tokens_fault(rules: KISRules) -> None:
    """A valid token with a wrong app secret gets EGW00304."""
    assert refusal_of_call(rules, rules.issue(*KEYS).value, app_secret="wrong") == "EGW00304"


def test_calls_per_second_are_limited(rules: KISRules, clock: StandingClock) -> None:
    """A call above the limit gets EGW00201. One second after the first accepted call, one more call is accepted."""
    rules.settings = Settings(calls_per_second=2)
    token = rules.issue(*KEYS).value
    rules.admit(*KEYS, token)
    clock.advance(seconds=0.5)
    rules.admit(*KEYS, token)
    assert refusal_of_call(rules, token) == "EGW00201"
    clock.advance(seconds=0.5)
    rules.admit(*KEYS, token)
    assert refusal_of_call(rules, token) == "EGW00201"


def test_approval_needs_no_token(rules: KISRules) -> None:
    """Each approval key is different, and is given only for the correct keys."""
    assert rules.approve(*KEYS) != rules.approve(*KEYS)
    with pytest.raises(RefusedError, match="EGW00105"):
        rules.approve(KEYS[0], "wrong")


@pytest.mark.parametrize(
    "nonsense",
    [
        {"expires_in": 0},
        {"expires_in": 7776001},
        {"expires_in": True},
        {"calls_per_second": 0},
        {"calls_per_second": 1.5},
        {"expired_status": 401},
        {"lockout_after": -1},
        {"reissue_kills_previous": 1},
    ],
)
def test_settings_refuse_nonsense(nonsense: dict[str, object]) -> None:
    """A value of the wrong type or out of range is a ValueError that names the setting."""
    with pytest.raises(ValueError, match=next(iter(nonsense))):
        replace(Settings(), **nonsense)  # type: ignore[arg-type] # the wrong types are the test
