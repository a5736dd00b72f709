"""The rules of the KIS emulator, on a clock that stands still until it is moved."""

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
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        """The time last set."""
        return self.time

    def advance(self, **by: float) -> None:
        """Move by hours, minutes or seconds."""
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
    """The code that a tokenP call is refused with."""
    with pytest.raises(RefusedError) as error:
        rules.issue(app_key, app_secret)
    return error.value.code


def refusal_of_call(rules: KISRules, token: str, app_key: str = KEYS[0], app_secret: str = KEYS[1]) -> str:
    """The code that an ordinary call is refused with."""
    with pytest.raises(RefusedError) as error:
        rules.admit(app_key, app_secret, token)
    return error.value.code


def test_account_hides_its_secret() -> None:
    """The representation shows the app key and never the app secret."""
    account = Account("PSkey", "the-secret")
    assert "PSkey" in repr(account)
    assert "the-secret" not in repr(account)


def test_made_up_account_has_the_form_of_kis() -> None:
    """A made-up app key has 36 characters and begins with PS, a made-up secret has 180; no two are alike."""
    first, second = Account(), Account()
    assert len(first.app_key) == 36
    assert first.app_key.startswith("PS")
    assert len(first.app_secret) == 180
    assert first.app_key != second.app_key
    assert first.app_secret != second.app_secret


def test_token_lives_for_its_set_time(rules: KISRules, clock: StandingClock) -> None:
    """A token is admitted until the second of its expiry and is EGW00123 from then on."""
    token = rules.issue(*KEYS)
    assert token.expires_at - token.issued_at == timedelta(seconds=86400)
    clock.time = token.expires_at - timedelta(microseconds=1)
    rules.admit(*KEYS, token.value)
    clock.time = token.expires_at
    assert refusal_of_call(rules, token.value) == "EGW00123"


def test_partner_company_token_lives_for_90_days(rules: KISRules) -> None:
    """The life of new tokens can be set."""
    rules.settings = Settings(expires_in=7776000)
    assert rules.issue(*KEYS).expires_in == 7776000


def test_token_is_hidden_in_its_representation(rules: KISRules) -> None:
    """The representation of an issued token does not show it."""
    token = rules.issue(*KEYS)
    assert token.value not in repr(token)


def test_same_token_for_six_hours(rules: KISRules, clock: StandingClock) -> None:
    """Asked again within 6 hours of the issue the same token comes back and is no new issue; after them, a new one."""
    first = rules.issue(*KEYS)
    clock.advance(hours=5, minutes=59)
    assert fingerprint(rules.issue(*KEYS).value) == fingerprint(first.value)
    assert rules.issuances == Issuances(accepted=2, issues=1)
    clock.advance(minutes=1)
    assert fingerprint(rules.issue(*KEYS).value) != fingerprint(first.value)
    assert rules.issuances == Issuances(accepted=3, issues=2)


def test_same_token_comes_back_even_when_revoked(rules: KISRules, clock: StandingClock) -> None:
    """Revoking does not lead to a new token within 6 hours: the dead one comes back, and stays dead."""
    token = rules.issue(*KEYS)
    rules.revoke(*KEYS, token.value)
    clock.advance(minutes=1)
    assert rules.issue(*KEYS) == token
    assert refusal_of_call(rules, token.value) == "EGW00121"


def test_same_token_comes_back_even_when_expired(rules: KISRules, clock: StandingClock) -> None:
    """A token that lived shorter than 6 hours comes back expired."""
    rules.settings = Settings(expires_in=60)
    token = rules.issue(*KEYS)
    clock.advance(minutes=2)
    assert rules.issue(*KEYS) == token
    assert refusal_of_call(rules, token.value) == "EGW00123"


def test_once_a_minute_comes_before_the_same_token(rules: KISRules, clock: StandingClock) -> None:
    """A second tokenP call within a minute is EGW00133, not the same token; refused calls do not prolong the wait."""
    token = rules.issue(*KEYS)
    clock.advance(seconds=59.9)
    assert refusal_of_issue(rules) == "EGW00133"
    clock.advance(seconds=0.1)
    assert rules.issue(*KEYS) == token
    assert refusal_of_issue(rules) == "EGW00133"


def test_the_minute_is_counted_per_app_key(clock: StandingClock) -> None:
    """One account does not hold up another."""
    other = Account()
    rules = KISRules([ACCOUNT, other], clock, Settings())
    token = rules.issue(*KEYS)
    assert rules.issue(other.app_key, other.app_secret).value != token.value


def test_wrong_keys_are_told_apart(rules: KISRules) -> None:
    """An unknown app key is EGW00103, a wrong secret EGW00105; neither uses up the minute."""
    assert refusal_of_issue(rules, app_key=Account().app_key) == "EGW00103"
    assert refusal_of_issue(rules, app_secret=KEYS[1].rstrip("=")) == "EGW00105"
    rules.issue(*KEYS)


def test_hammering_locks_the_key_for_a_day(rules: KISRules, clock: StandingClock) -> None:
    """20 refusals for coming too early within half an hour lock the key: EGW00103 for a day, though it is right."""
    rules.issue(*KEYS)
    assert {refusal_of_issue(rules) for _ in range(20)} == {"EGW00133"}
    clock.advance(hours=23, minutes=59)
    assert refusal_of_issue(rules) == "EGW00103"
    clock.advance(minutes=1)
    rules.issue(*KEYS)


def test_patient_clients_are_not_locked_out(rules: KISRules, clock: StandingClock) -> None:
    """Refusals add up within half an hour only: one every two minutes has no consequences."""
    for _ in range(40):
        rules.issue(*KEYS)
        assert refusal_of_issue(rules) == "EGW00133"
        clock.advance(minutes=2)


def test_asking_every_half_minute_is_hammering(rules: KISRules, clock: StandingClock) -> None:
    """A client that asks every 30 s, of which KIS accepts every other call, is locked out before an hour has passed."""
    answers = []
    for _ in range(120):
        try:
            rules.issue(*KEYS)
        except RefusedError as error:
            answers.append(error.code)
        clock.advance(seconds=30)
    assert "EGW00103" in answers


def test_lockout_can_be_turned_off(rules: KISRules) -> None:
    """With a limit of 0 hammering has no consequences."""
    rules.settings = Settings(lockout_after=0)
    rules.issue(*KEYS)
    assert {refusal_of_issue(rules) for _ in range(50)} == {"EGW00133"}


@pytest.mark.parametrize("kills", [False, True])
def test_new_issue_kills_the_previous_token_if_set(rules: KISRules, clock: StandingClock, *, kills: bool) -> None:
    """Whether the previous token survives a new issue is a setting; the new token is always good."""
    rules.settings = Settings(reissue_kills_previous=kills)
    previous = rules.issue(*KEYS).value
    clock.advance(hours=7)
    rules.admit(*KEYS, rules.issue(*KEYS).value)
    if kills:
        assert refusal_of_call(rules, previous) == "EGW00121"
    else:
        rules.admit(*KEYS, previous)


def test_token_belongs_to_its_app_key(clock: StandingClock) -> None:
    """A token is EGW00121 with any app key but its own, and only its own key can revoke it."""
    other = Account()
    rules = KISRules([ACCOUNT, other], clock, Settings())
    token = rules.issue(*KEYS).value
    assert refusal_of_call(rules, token, other.app_key, other.app_secret) == "EGW00121"
    assert refusal_of_call(rules, "made-up") == "EGW00121"
    with pytest.raises(RefusedError, match="EGW00121"):
        rules.revoke(other.app_key, other.app_secret, token)
    rules.admit(*KEYS, token)


def test_wrong_secret_on_a_call_is_not_the_tokens_fault(rules: KISRules) -> None:
    """A good token with a wrong app secret is EGW00304."""
    assert refusal_of_call(rules, rules.issue(*KEYS).value, app_secret="wrong") == "EGW00304"


def test_calls_per_second_are_limited(rules: KISRules, clock: StandingClock) -> None:
    """One call too many in any second is EGW00201; a second after the first admitted one there is room again."""
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
    """An approval key is given for right keys alone, a different one each time."""
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
        replace(Settings(), **nonsense)  # type: ignore[arg-type] # that they are wrong is the point
