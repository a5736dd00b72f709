"""What every store promises, rule by rule: the one on PostgreSQL, through HTTP, and the one in memory."""

from __future__ import annotations

import uuid
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import pytest

from kis_token.errors import StoreMisconfigured, StoreOutage
from kis_token.sandbox.memory import MemoryStore
from kis_token.supabase import SupabaseCredentialManager
from kis_token.token import AppKey, parse_instant
from tests.support import APP_KEY, HOUR, MINUTE, SERVICE_KEY, TurnedClock, make_token, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from kis_token.ports import Begun, Committed, Store
    from kis_token.reader import Row
    from kis_token.sandbox.postgrest import PostgRESTStandIn
    from kis_token.token import Token
    from tests.support import Database

SECOND = timedelta(seconds=1)
SERVICES = ("kis", "kis-second")
OTHER_KEY = AppKey("PSz9y8x7w6v5u4t3s2r1q0p9o8n7m6l5k4j3", "b3RoZXI=")
CORRECTED = AppKey(APP_KEY.key, "Y29ycmVjdGVk")
SEALED = "enc:v1:0a1b2c3d:bm9uY2VjaXBoZXJ0YWc="
SEALED_AGAIN = "enc:v1:0a1b2c3d:b3RoZXJjaXBoZXJ0YWc="


class Ground(Protocol):
    """A store, and what happens around it."""

    @property
    def store(self) -> Store:
        """The store to be tried."""

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the leases; tokens are made as old as a test needs them."""

    def put(
        self, service: str, credential_type: str, value: str, expires_at: datetime | None = None, *, active: bool = True
    ) -> int:
        """Store a row as clients do that take no lease; its version."""

    def outcomes(self, service: str) -> list[str]:
        """What is noted of a slot, oldest first."""


class SupabaseGround:
    """The real store, and the database behind it."""

    def __init__(self, store: SupabaseCredentialManager, database: Database) -> None:
        self.store: Store = store
        self._database = database

    def pass_time(self, seconds: float) -> None:
        """Age the leases."""
        for service in SERVICES:
            self._database.age(seconds, service)

    def put(
        self, service: str, credential_type: str, value: str, expires_at: datetime | None = None, *, active: bool = True
    ) -> int:
        """An upsert."""
        return self._database.put(credential_type, value, expires_at, service=service, active=active)

    def outcomes(self, service: str) -> list[str]:
        """From the log."""
        return self._database.outcomes(service)


class MemoryGround:
    """The store in memory, and its clock."""

    def __init__(self) -> None:
        self._clock = TurnedClock()
        self._memory = MemoryStore(self._clock)
        self.store: Store = self._memory
        self.pass_time = self._clock.jump
        self.put = self._memory.put
        self.outcomes = self._memory.outcomes


@pytest.fixture(params=["supabase", "memory"])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """Each store in turn, empty."""
    if request.param == "memory":
        yield MemoryGround()
        return
    supabase: PostgRESTStandIn = request.getfixturevalue("supabase")
    with closing(SupabaseCredentialManager(supabase.url, SERVICE_KEY)) as manager:
        yield SupabaseGround(manager, request.getfixturevalue("database"))


class Contender:
    """One attempt to issue, with a holder id of its own."""

    def __init__(
        self, ground: Ground, *, service: str = "kis", app_key: AppKey = APP_KEY, label: str = "acme/bot run 7 trade"
    ) -> None:
        self.holder = str(uuid.uuid4())
        self.fence = 0
        self._store = ground.store
        self._service = service
        self._app_key = app_key
        self._label = label

    def begin(
        self,
        *,
        min_remaining: timedelta = 10 * MINUTE,
        rejected_version: int | None = None,
        rejected_token_id: str | None = None,
    ) -> Begun:
        """Ask for a turn; remembers the fence."""
        begun = self._store.begin(
            self._service,
            self.holder,
            self._label,
            self._app_key,
            min_remaining=min_remaining,
            rejected_version=rejected_version,
            rejected_token_id=rejected_token_id,
        )
        self.fence = begun.fence or self.fence
        return begun

    def commit(self, token: Token, stored_form: str | None = None, *, rejected: bool = False) -> Committed:
        """End the turn with a token, in plain JSON unless a form is given."""
        stored_form = token.to_json() if stored_form is None else stored_form
        return self._store.commit(self._service, self.holder, self.fence, token, stored_form, rejected=rejected)

    def abort(
        self, error_code: str = "EGW00133", cooldown: timedelta = 61 * SECOND, *, refused: AppKey | None = None
    ) -> None:
        """End the turn without a token."""
        self._store.abort(
            self._service,
            self.holder,
            self.fence,
            cooldown=cooldown,
            error_code=error_code,
            refused_credential_id=None if refused is None else refused.credential_id,
        )


@pytest.fixture
def contender(ground: Ground) -> Contender:
    """One that has a turn."""
    contender = Contender(ground)
    assert contender.begin().status == "granted"
    return contender


def put_token(ground: Ground, token: Token, *, service: str = "kis", active: bool = True) -> int:
    """Store a token without a lease; its version."""
    return ground.put(service, "access_token", token.to_json(), token.expires_at, active=active)


def issue(ground: Ground, token: Token, stored_form: str | None = None, *, service: str = "kis") -> int:
    """Begin and commit in one go; the version that the token got."""
    contender = Contender(ground, service=service)
    assert contender.begin().status == "granted"
    committed = contender.commit(token, stored_form)
    assert committed.status == "committed"
    assert committed.version is not None
    return committed.version


def stored(ground: Ground, service: str = "kis") -> Row | None:
    """The row of the slot's token."""
    return ground.store.read(service).rows.get("access_token")


def stored_value(ground: Ground, service: str = "kis") -> str | None:
    """What is stored as the slot's token."""
    row = stored(ground, service)
    return None if row is None else row.value


def wait_of(begun: Begun) -> float:
    """Seconds until another try makes sense."""
    assert (begun.status, begun.fence, begun.value) == ("busy", None, None)
    assert begun.retry_at is not None
    return (begun.retry_at - begun.server_now).total_seconds()


# a turn is granted


def test_nothing_stored_is_granted(ground: Ground) -> None:
    """The first who asks for an empty slot gets the turn."""
    begun = Contender(ground).begin()

    assert (begun.status, begun.fence, begun.value, begun.version) == ("granted", 1, None, None)
    assert (begun.retry_at, begun.holder_label, begun.last_error) == (None, None, None)
    assert abs(begun.server_now - utc_now()) < MINUTE
    assert ground.outcomes("kis") == ["granted"]


def test_a_replay_is_granted_again_and_not_extended(ground: Ground, contender: Contender) -> None:
    """The same holder, whose first answer was lost, is given the same fence and not a second more."""
    ground.pass_time(20)

    begun = contender.begin()

    assert (begun.status, begun.fence) == ("granted", 1)
    assert 30 < wait_of(Contender(ground).begin()) <= 40
    assert ground.outcomes("kis") == ["granted"]


def test_a_holder_whose_lease_ended_waits_like_all_others(ground: Ground, contender: Contender) -> None:
    """After its 60 s a holder that asks again is busy until 70 s after its grant, then gets a new fence."""
    ground.pass_time(61)
    assert 0 < wait_of(contender.begin()) <= 9
    ground.pass_time(10)

    begun = contender.begin()

    assert (begun.status, begun.fence) == ("granted", 2)


# nobody gets a turn now


def test_another_lease_is_busy(ground: Ground, contender: Contender) -> None:
    """Whoever comes second is told who holds the lease and until when, and takes nothing from the holder."""
    begun = Contender(ground, label="a laptop").begin()

    assert begun.holder_label == "acme/bot run 7 trade"
    assert 50 < wait_of(begun) <= 60
    assert contender.commit(make_token()).status == "committed"


def test_a_long_label_is_cut(ground: Ground) -> None:
    """A label of any length is kept to 200 characters."""
    Contender(ground, label="가" * 999).begin()

    assert Contender(ground).begin().holder_label == "가" * 200


def test_grants_are_spaced_when_the_holder_dies(ground: Ground, contender: Contender) -> None:
    """A dead holder's lease ends after 60 s; nobody is granted before 70 s, when its label no longer shows."""
    ground.pass_time(61)

    begun = Contender(ground).begin()

    assert begun.holder_label is None
    assert 0 < wait_of(begun) <= 9
    ground.pass_time(10)
    assert Contender(ground).begin().fence == contender.fence + 1


def test_grants_are_spaced_after_a_commit(ground: Ground) -> None:
    """However soon it is committed, after a grant nobody gets another for 70 s."""
    version = issue(ground, make_token())
    ground.pass_time(60)
    assert 0 < wait_of(Contender(ground).begin(rejected_version=version)) <= 10
    ground.pass_time(11)

    assert Contender(ground).begin(rejected_version=version).status == "granted"


def test_a_late_commit_spaces_from_itself(ground: Ground, contender: Contender) -> None:
    """A commit 50 s into the lease keeps others off for 61 s from then."""
    ground.pass_time(50)
    version = contender.commit(make_token()).version

    assert 55 < wait_of(Contender(ground).begin(rejected_version=version)) <= 61


# there is a token, and no turn is needed


def test_a_fresh_token_is_handed_out(ground: Ground) -> None:
    """With more than min_remaining left the token itself is the answer, and no turn is given."""
    token = make_token()
    version = put_token(ground, token)

    begun = Contender(ground).begin()

    assert (begun.status, begun.version, begun.fence) == ("fresh", version, None)
    assert begun.value == token.to_json()
    assert parse_instant(begun.expires_at) == token.expires_at
    assert ground.outcomes("kis") == []


@pytest.mark.parametrize(
    ("left", "status"), [(11 * MINUTE, "fresh"), (9 * MINUTE, "granted"), (-SECOND, "granted"), (-HOUR, "granted")]
)
def test_fresh_is_more_than_min_remaining(ground: Ground, left: timedelta, status: str) -> None:
    """A token that someone else stored is fresh by its remaining life alone."""
    put_token(ground, make_token(left=left, age=2 * HOUR))

    assert Contender(ground).begin().status == status


@pytest.mark.parametrize(("age", "status"), [(5 * HOUR, "fresh"), (7 * HOUR, "granted")])
def test_within_six_hours_of_an_issue_a_token_is_fresh(ground: Ground, age: timedelta, status: str) -> None:
    """Asked for more life than any new token has, the one of less than 6 h is the answer: KIS would only repeat it."""
    issue(ground, make_token(age=age, left=24 * HOUR - age))
    ground.pass_time(71)

    assert Contender(ground).begin(min_remaining=24 * HOUR).status == status


def test_six_hours_count_only_for_the_token_they_speak_of(ground: Ground) -> None:
    """When someone wrote the row without a lease, the lease's issue time says nothing about it."""
    issue(ground, make_token())
    ground.pass_time(71)
    put_token(ground, make_token(left=HOUR))

    assert Contender(ground).begin(min_remaining=2 * HOUR).status == "granted"


def test_a_dead_token_is_not_fresh_within_six_hours(ground: Ground) -> None:
    """A token that ended soon after its issue is no answer."""
    token = make_token(age=HOUR, left=HOUR)
    issue(ground, token)
    ground.pass_time(71)
    ground.put("kis", "access_token", token.to_json(), utc_now() - SECOND)

    assert Contender(ground).begin(min_remaining=timedelta()).status == "granted"


def test_a_rejected_version_is_not_fresh(ground: Ground) -> None:
    """A row that the caller cannot use is not handed to it again; another version is."""
    version = put_token(ground, make_token())

    assert Contender(ground).begin(rejected_version=version - 1).status == "fresh"
    begun = Contender(ground).begin(rejected_version=version)
    assert (begun.status, begun.version, begun.value) == ("granted", version, None)


def test_a_rejected_token_is_not_fresh_whoever_stored_it(ground: Ground) -> None:
    """A token that the API refused is not handed out again, though someone stored it who takes no lease."""
    token = make_token()
    put_token(ground, token)

    assert Contender(ground).begin(rejected_token_id=make_token().token_id).status == "fresh"
    assert Contender(ground).begin(rejected_token_id=token.token_id).status == "granted"


@pytest.mark.parametrize("stored_form", [None, SEALED], ids=["plain", "sealed"])
def test_a_rejected_token_is_known_by_the_lease(ground: Ground, stored_form: str | None) -> None:
    """The lease remembers which token it stored, also when nobody can see that in the row."""
    token = make_token()
    issue(ground, token, stored_form)
    ground.pass_time(71)

    assert Contender(ground).begin(rejected_token_id=make_token().token_id).status == "fresh"
    assert Contender(ground).begin(rejected_token_id=token.token_id).status == "granted"


def test_a_sealed_token_of_someone_else_is_known_by_its_version_alone(ground: Ground) -> None:
    """What the lease remembers says nothing of a sealed row that someone else wrote since."""
    token = make_token()
    issue(ground, token)
    ground.pass_time(71)
    version = ground.put("kis", "access_token", SEALED, token.expires_at)

    assert Contender(ground).begin(rejected_token_id=token.token_id).status == "fresh"
    assert Contender(ground).begin(rejected_version=version).status == "granted"


@pytest.mark.parametrize("value", ["", "{", "[]", "null", "1", '"text"', '{"access_token": ""}', "enc:v1:x:eHg="])
def test_a_row_that_holds_no_token_breaks_nothing(ground: Ground, value: str) -> None:
    """Whatever is stored, begin answers; what is not known to be rejected counts by its column."""
    version = ground.put("kis", "access_token", value, make_token().expires_at)

    begun = Contender(ground).begin(rejected_token_id="0" * 16)
    assert (begun.status, begun.value) == ("fresh", value)
    assert Contender(ground).begin(rejected_version=version).status == "granted"


def test_a_row_without_expiry_is_not_fresh(ground: Ground) -> None:
    """A token row whose column says nothing has to be judged by its reader."""
    version = ground.put("kis", "access_token", make_token().to_json())

    begun = Contender(ground).begin()
    assert (begun.status, begun.version, begun.expires_at) == ("granted", version, None)


def test_an_inactive_token_counts_as_absent(ground: Ground) -> None:
    """An inactive row is neither handed out nor in the way."""
    put_token(ground, make_token(), active=False)

    begun = Contender(ground).begin()
    assert (begun.status, begun.version) == ("granted", None)


def test_fresh_comes_before_busy(ground: Ground, contender: Contender) -> None:
    """A good token is handed out even to the holder of the lease, and to everybody beside it."""
    put_token(ground, make_token())

    assert Contender(ground).begin().status == contender.begin().status == "fresh"


# two slots with one app key


def test_a_living_token_of_the_key_in_another_slot_is_a_conflict(ground: Ground) -> None:
    """A slot cannot issue with an app key whose token lives in another slot, which is named."""
    issue(ground, make_token())

    begun = Contender(ground, service="kis-second").begin()

    assert (begun.status, begun.holder_label, begun.fence) == ("conflict", "kis", None)
    assert ground.outcomes("kis-second") == []


def test_a_lease_of_the_key_in_another_slot_is_busy(ground: Ground, contender: Contender) -> None:
    """While another slot is issuing with the same key, and 70 s from its start, the answer is to wait for it."""
    begun = Contender(ground, service="kis-second").begin()
    assert begun.holder_label == "acme/bot run 7 trade"
    assert 50 < wait_of(begun) <= 60
    ground.pass_time(61)

    begun = Contender(ground, service="kis-second").begin()
    assert begun.holder_label is None
    assert 0 < wait_of(begun) <= 9
    ground.pass_time(10)
    assert Contender(ground, service="kis-second").begin().fence == contender.fence == 1


@pytest.mark.parametrize("active", [True, False], ids=["ended", "inactive"])
def test_the_key_moves_when_the_other_slots_token_is_dead(ground: Ground, active: bool) -> None:  # noqa: FBT001 - a table
    """Once the other slot's token is dead or inactive and its lease over, the key belongs to the slot that asks."""
    token = make_token()
    issue(ground, token)
    ground.put(
        "kis", "access_token", token.to_json(), utc_now() - SECOND if active else token.expires_at, active=active
    )
    assert Contender(ground, service="kis-second").begin().status == "busy"
    ground.pass_time(71)

    assert Contender(ground, service="kis-second").begin().status == "granted"
    # And now the first slot is the one that has to wait, while a token that turns up there holds nobody up.
    assert Contender(ground).begin().status == "busy"
    put_token(ground, make_token())
    ground.pass_time(71)
    assert Contender(ground, service="kis-second").begin().status == "granted"


def test_slots_with_keys_of_their_own_do_not_meet(ground: Ground, contender: Contender) -> None:
    """Two accounts issue side by side, each with fences of its own."""
    second = Contender(ground, service="kis-second", app_key=OTHER_KEY)

    assert second.begin().status == "granted"
    assert second.fence == contender.fence == 1
    assert (ground.outcomes("kis"), ground.outcomes("kis-second")) == (["granted"], ["granted"])


def test_a_slot_may_change_its_key(ground: Ground) -> None:
    """After a change of keys the slot issues with the new one, and the old one is free for others."""
    version = issue(ground, make_token())
    ground.pass_time(71)
    assert Contender(ground, app_key=OTHER_KEY).begin(rejected_version=version).status == "granted"

    assert Contender(ground, service="kis-second").begin().status == "granted"


# commit


def test_a_commit_stores_the_token(ground: Ground, contender: Contender) -> None:
    """The row holds the token until its end, and the turn is over."""
    token = make_token()

    committed = contender.commit(token)

    row = stored(ground)
    assert row is not None
    assert (row.value, parse_instant(row.expires_at)) == (token.to_json(), token.expires_at)
    assert (committed.status, committed.version, committed.value) == ("committed", row.version, None)
    assert parse_instant(committed.expires_at) == token.expires_at
    assert Contender(ground).begin().status == "fresh"
    assert ground.outcomes("kis") == ["granted", "committed"]


def test_a_commit_replaces_what_was_there(ground: Ground) -> None:
    """What was there before the turn has no say, even with a later expiry: its issuer knew of it."""
    version = put_token(ground, make_token(left=48 * HOUR))
    contender = Contender(ground)
    contender.begin(rejected_version=version)
    token = make_token()

    committed = contender.commit(token)

    assert committed.status == "committed"
    assert (committed.version or 0) > version
    assert stored_value(ground) == token.to_json()


def test_a_commit_brings_an_inactive_row_back(ground: Ground) -> None:
    """A token row that was set to inactive is active again, even with the same token."""
    token = make_token()
    put_token(ground, token, active=False)
    assert stored(ground) is None

    issue(ground, token)

    assert stored_value(ground) == token.to_json()


@pytest.mark.parametrize(("form", "form_again"), [(None, None), (SEALED, SEALED_AGAIN)], ids=["plain", "sealed"])
def test_a_replayed_commit_is_committed_once(
    ground: Ground, contender: Contender, form: str | None, form_again: str | None
) -> None:
    """Sent again because its answer was lost, a commit says the same and changes nothing, not even another seal."""
    token = make_token()
    first = contender.commit(token, form)
    before = stored(ground)

    assert contender.commit(token, form_again) == first
    assert first.status == "committed"
    assert stored(ground) == before
    assert ground.outcomes("kis") == ["granted", "committed"]


def test_another_token_is_no_replay(ground: Ground, contender: Contender) -> None:
    """A second, different token under a fence that is used up is fenced."""
    token = make_token()
    contender.commit(token)

    committed = contender.commit(make_token())

    assert (committed.status, committed.value) == ("fenced", token.to_json())
    assert stored_value(ground) == token.to_json()


def test_a_replay_is_of_the_last_turn(ground: Ground, contender: Contender) -> None:
    """Once another turn has begun and ended, a commit of the turn before is fenced even with its own token."""
    token = make_token()
    version = contender.commit(token).version
    ground.pass_time(71)
    successor = Contender(ground)
    successor.begin(rejected_version=version)
    successor.abort()

    assert contender.commit(token).status == "fenced"


def test_a_holder_that_slept_through_its_lease_is_fenced(ground: Ground, contender: Contender) -> None:
    """Once another has been granted, the old fence stores nothing, and takes nothing from the new holder."""
    ground.pass_time(71)
    successor = Contender(ground)
    successor.begin()

    committed = contender.commit(make_token())

    assert (committed.status, committed.value, committed.version) == ("fenced", None, None)
    assert stored(ground) is None
    token = make_token()
    assert successor.commit(token).status == "committed"
    late = contender.commit(make_token())
    assert (late.status, late.value) == ("fenced", token.to_json())
    assert ground.outcomes("kis") == ["granted", "granted", "committed"]


def test_a_wrong_fence_or_holder_is_fenced(ground: Ground, contender: Contender) -> None:
    """Who cannot name both fence and holder of the present grant stores nothing and ends nothing."""
    stranger = Contender(ground)
    stranger.fence = contender.fence
    assert stranger.commit(make_token()).status == "fenced"
    contender.fence += 1
    assert contender.commit(make_token()).status == "fenced"
    contender.fence -= 1

    assert stored(ground) is None
    assert contender.commit(make_token()).status == "committed"


def test_without_any_grant_nothing_is_stored(ground: Ground) -> None:
    """On a slot that nobody has begun, a commit is fenced."""
    assert Contender(ground).commit(make_token()).status == "fenced"
    assert stored(ground) is None
    assert ground.outcomes("kis") == []


def test_a_newer_token_of_someone_else_stays(ground: Ground, contender: Contender) -> None:
    """A token stored meanwhile without a lease, with a later expiry, wins; the turn is over all the same."""
    newer = make_token(left=24 * HOUR)
    version = put_token(ground, newer)

    committed = contender.commit(make_token(left=23 * HOUR))

    assert (committed.status, committed.value, committed.version) == ("fenced", newer.to_json(), version)
    assert parse_instant(committed.expires_at) == newer.expires_at
    assert stored_value(ground) == newer.to_json()
    assert 60 < wait_of(Contender(ground).begin(rejected_version=version)) <= 70
    assert ground.outcomes("kis") == ["granted", "fenced"]


def test_an_older_token_of_someone_else_is_replaced(ground: Ground, contender: Contender) -> None:
    """A token stored meanwhile that ends sooner than the new one does not stay."""
    put_token(ground, make_token(left=HOUR))
    token = make_token()

    assert contender.commit(token).status == "committed"
    assert stored_value(ground) == token.to_json()


def test_an_expired_lease_may_commit_when_nobody_took_over(ground: Ground, contender: Contender) -> None:
    """Late but alone: the token is as good as any, and storing it spares another call."""
    ground.pass_time(3600)
    token = make_token()

    version = contender.commit(token).version

    assert stored_value(ground) == token.to_json()
    assert 55 < wait_of(Contender(ground).begin(rejected_version=version)) <= 61
    assert ground.outcomes("kis") == ["granted", "committed"]


# KIS gave the token again that is stored, or that was rejected


def commit_again(
    ground: Ground, token: Token, form: str | None = None, form_again: str | None = None, *, rejected: bool = False
) -> int:
    """Issue a token, let the next turn end with the same token; the version, which did not change."""
    version = issue(ground, token, form)
    ground.pass_time(71)
    contender = Contender(ground)
    contender.begin(rejected_version=version)
    committed = contender.commit(token, form_again, rejected=rejected)
    assert (committed.status, committed.version, committed.value) == ("unchanged", version, None)
    assert ground.outcomes("kis") == ["granted", "committed", "granted", "unchanged"]
    return version


@pytest.mark.parametrize(("form", "form_again"), [(None, None), (SEALED, SEALED_AGAIN)], ids=["plain", "sealed"])
def test_the_same_token_changes_nothing(ground: Ground, form: str | None, form_again: str | None) -> None:
    """The row stays as it was, sealed or not; 61 s later the next may ask."""
    token = make_token()
    version = commit_again(ground, token, form, form_again)

    assert stored_value(ground) == (form or token.to_json())
    begun = Contender(ground).begin(rejected_version=version)
    assert 55 < wait_of(begun) <= 61
    assert begun.last_error is None


@pytest.mark.parametrize(("form", "form_again"), [(None, None), (SEALED, SEALED_AGAIN)], ids=["plain", "sealed"])
def test_a_rejected_token_that_comes_again_stops_all_calls(
    ground: Ground, form: str | None, form_again: str | None
) -> None:
    """When the API refuses the token and KIS repeats it, nobody asks until 6 h after its issue, and is told why."""
    version = commit_again(ground, make_token(age=2 * HOUR), form, form_again, rejected=True)

    begun = Contender(ground).begin(rejected_version=version)
    assert begun.last_error == "token-repeated"
    assert wait_of(begun) == pytest.approx(4 * 3600, abs=120)


def test_a_rejected_old_token_does_not_stop_calls_for_long(ground: Ground) -> None:
    """A repeated token issued more than 6 h ago holds the next call up for 61 s only."""
    version = commit_again(ground, make_token(age=7 * HOUR), rejected=True)

    assert 55 < wait_of(Contender(ground).begin(rejected_version=version)) <= 61


@pytest.mark.parametrize("row", ["none", "another token"])
def test_a_rejected_token_is_not_stored_when_it_comes_again(ground: Ground, row: str) -> None:
    """The token that the turn is to replace is not handed to others as new, though the row does not hold it."""
    there = make_token(left=5 * MINUTE)
    version = put_token(ground, there) if row == "another token" else None
    refused = make_token(age=2 * HOUR)
    contender = Contender(ground)
    contender.begin(rejected_token_id=refused.token_id)

    committed = contender.commit(refused, rejected=True)

    assert (committed.status, committed.version) == ("unchanged", version)
    assert stored_value(ground) == (there.to_json() if version else None)
    begun = Contender(ground).begin()
    assert begun.last_error == "token-repeated"
    assert wait_of(begun) == pytest.approx(4 * 3600, abs=120)


def test_another_token_than_the_rejected_one_is_stored(ground: Ground) -> None:
    """A turn that is to replace a refused token does so, whatever the caller says of rejecting."""
    refused, token = make_token(), make_token()
    put_token(ground, refused)
    contender = Contender(ground)
    contender.begin(rejected_token_id=refused.token_id)

    assert contender.commit(token, rejected=True).status == "committed"
    assert stored_value(ground) == token.to_json()


def test_five_rejecters_of_one_dead_token_make_one_call(ground: Ground) -> None:
    """Callers that all find the stored token refused do not each make a call, minute after minute."""
    token = make_token(age=HOUR)
    issue(ground, token)
    for _ in range(5):
        ground.pass_time(71)
        contender = Contender(ground)
        if contender.begin(rejected_token_id=token.token_id).status == "granted":
            assert contender.commit(token, rejected=True).status == "unchanged"

    assert ground.outcomes("kis") == ["granted", "committed", "granted", "unchanged"]


def test_a_token_stored_by_someone_else_is_known_again(ground: Ground, contender: Contender) -> None:
    """Also a plain row that was written without a lease is recognised; from then on the lease knows its issue."""
    token = make_token(age=5 * HOUR, left=19 * HOUR)
    version = put_token(ground, token)

    committed = contender.commit(token)

    assert (committed.status, committed.version) == ("unchanged", version)
    assert Contender(ground).begin(min_remaining=24 * HOUR).status == "fresh"


def test_the_same_token_heals_an_unusable_row(ground: Ground, contender: Contender) -> None:
    """A row that does not say when it ends is written anew even with the same token."""
    token = make_token()
    ground.put("kis", "access_token", token.to_json())

    assert contender.commit(token).status == "committed"
    row = stored(ground)
    assert row is not None
    assert parse_instant(row.expires_at) == token.expires_at


# abort


def test_an_abort_gives_the_turn_back(ground: Ground, contender: Contender) -> None:
    """After an abort without a cool-down the next is granted at once, and is told of the error."""
    contender.abort("out-of-time", timedelta())

    begun = Contender(ground).begin()
    assert (begun.status, begun.fence, begun.last_error) == ("granted", 2, "out-of-time")
    assert ground.outcomes("kis") == ["granted", "aborted", "granted"]


def test_an_abort_may_keep_everyone_waiting(ground: Ground, contender: Contender) -> None:
    """With a cool-down nobody is granted before it is over, whatever credential is tried."""
    contender.abort("EGW00133", 2 * MINUTE)

    begun = Contender(ground, app_key=CORRECTED).begin()
    assert (begun.last_error, begun.holder_label) == ("EGW00133", None)
    assert 110 < wait_of(begun) <= 120
    ground.pass_time(121)
    assert Contender(ground).begin().status == "granted"


def test_a_long_error_code_is_cut(ground: Ground, contender: Contender) -> None:
    """An error code of any length is kept to 100 characters."""
    contender.abort("x" * 999)

    assert Contender(ground).begin().last_error == "x" * 100


def test_a_refused_credential_cools_down(ground: Ground, contender: Contender) -> None:
    """For 15 minutes the very key and secret that KIS refused are not tried again, and the answer says why."""
    contender.abort("EGW00105", timedelta(), refused=APP_KEY)

    begun = Contender(ground).begin()

    assert (begun.last_error, begun.holder_label) == ("EGW00105", None)
    assert 890 < wait_of(begun) <= 900
    ground.pass_time(901)
    assert Contender(ground).begin().status == "granted"


def test_a_corrected_secret_is_not_held_up(ground: Ground, contender: Contender) -> None:
    """The cool-down is the refused credential's alone: a corrected secret is granted at once."""
    contender.abort("EGW00105", timedelta(), refused=APP_KEY)

    assert Contender(ground, app_key=CORRECTED).begin().status == "granted"


def test_a_refusal_outlives_another_error(ground: Ground, contender: Contender) -> None:
    """An outage with one credential does not lift the cool-down of another."""
    contender.abort("EGW00105", timedelta(), refused=APP_KEY)
    corrected = Contender(ground, app_key=CORRECTED)
    corrected.begin()
    corrected.abort("kis-unreachable", timedelta())

    begun = Contender(ground).begin()
    assert begun.last_error == "kis-unreachable"
    assert 880 < wait_of(begun) <= 900


def test_a_good_commit_forgets_the_refusal(ground: Ground, contender: Contender) -> None:
    """After a token was issued, no credential is held up and no error is shown any more."""
    contender.abort("EGW00105", timedelta(), refused=APP_KEY)
    corrected = Contender(ground, app_key=CORRECTED)
    corrected.begin()
    version = corrected.commit(make_token()).version
    ground.pass_time(71)

    begun = Contender(ground).begin(rejected_version=version)
    assert (begun.status, begun.last_error) == ("granted", None)


def test_only_the_holder_may_abort(ground: Ground, contender: Contender) -> None:
    """Who cannot name both fence and holder ends nothing."""
    stranger = Contender(ground)
    stranger.fence = contender.fence
    stranger.abort()
    contender.fence += 1
    contender.abort()
    contender.fence -= 1

    assert ground.outcomes("kis") == ["granted"]
    assert contender.commit(make_token()).status == "committed"


def test_an_abort_happens_once(ground: Ground, contender: Contender) -> None:
    """An abort after the turn's end does nothing."""
    contender.abort("EGW00133", timedelta())
    contender.abort("EGW00133", HOUR)

    assert Contender(ground).begin().status == "granted"
    assert ground.outcomes("kis") == ["granted", "aborted", "granted"]


def test_an_abort_keeps_the_token(ground: Ground) -> None:
    """A failed renewal leaves the stored token and what is known of it as they were."""
    token = make_token()
    version = issue(ground, token, SEALED)
    ground.pass_time(71)
    contender = Contender(ground)
    contender.begin(rejected_version=version)
    contender.abort("kis-unreachable", timedelta())

    assert stored_value(ground) == SEALED
    assert Contender(ground).begin(rejected_token_id=token.token_id).status == "granted"


# save


def test_a_first_token_is_saved(ground: Ground) -> None:
    """On an empty slot a token issued elsewhere is stored."""
    token = make_token()

    ground.store.save("kis", token, token.to_json())

    assert stored_value(ground) == token.to_json()
    assert ground.outcomes("kis") == ["saved"]


@pytest.mark.parametrize("left", [22 * HOUR, 23 * HOUR, 24 * HOUR], ids=["older", "as old", "newer"])
def test_the_later_expiry_is_kept(ground: Ground, left: timedelta) -> None:
    """A token replaces the stored one only when it ends later, also while someone has a turn."""
    there = make_token(left=23 * HOUR)
    token = replace(make_token(), expires_at=there.expires_at + left - 23 * HOUR)
    Contender(ground).begin()
    put_token(ground, there)

    ground.store.save("kis", token, token.to_json())

    is_saved = token.expires_at > there.expires_at
    assert stored_value(ground) == (token if is_saved else there).to_json()
    assert ground.outcomes("kis") == ["granted", *(["saved"] if is_saved else [])]


def test_a_named_version_is_replaced(ground: Ground) -> None:
    """Whoever names the version it replaces may store a token that ends sooner; with another version not."""
    there, sooner = make_token(), make_token(left=HOUR)
    version = put_token(ground, there)

    ground.store.save("kis", sooner, sooner.to_json(), replaces_version=version - 1)
    assert stored_value(ground) == there.to_json()
    ground.store.save("kis", sooner, sooner.to_json(), replaces_version=version)
    assert stored_value(ground) == sooner.to_json()


@pytest.mark.parametrize("active", [True, False], ids=["without an end", "inactive"])
def test_a_row_without_use_is_replaced(ground: Ground, active: bool) -> None:  # noqa: FBT001 - a table
    """A row that is inactive or does not say when it ends gives way, and is active afterwards."""
    there, token = make_token(), make_token(left=HOUR)
    ground.put("kis", "access_token", there.to_json(), None if active else there.expires_at, active=active)

    ground.store.save("kis", token, token.to_json())

    assert stored_value(ground) == token.to_json()


def test_a_saved_token_is_not_taken_for_the_leases(ground: Ground) -> None:
    """After someone saved another token, what the lease remembers of its own is not said of that."""
    token = make_token()
    issue(ground, token, SEALED)
    ground.pass_time(71)
    ground.store.save("kis", make_token(left=25 * HOUR), SEALED_AGAIN)

    assert Contender(ground).begin(rejected_token_id=token.token_id).status == "fresh"
    assert Contender(ground).begin(min_remaining=26 * HOUR).status == "granted"


# read, and versions


def test_a_slot_is_read_whole(ground: Ground) -> None:
    """A read shows the active rows of the slot's key, secret and token as they are stored, and the time."""
    token = make_token()
    versions = [
        ground.put("kis", "app_key", APP_KEY.key),
        ground.put("kis", "app_secret", SEALED),
        put_token(ground, token),
    ]
    ground.put("kis", "webhook", "another type")
    ground.put("kis-second", "app_key", "another slot")

    slot = ground.store.read("kis")

    shown = {name: (row.value, row.version) for name, row in slot.rows.items()}
    assert shown == {
        "app_key": (APP_KEY.key, versions[0]),
        "app_secret": (SEALED, versions[1]),
        "access_token": (token.to_json(), versions[2]),
    }
    assert slot.rows["app_key"].expires_at is None
    assert parse_instant(slot.rows["access_token"].expires_at) == token.expires_at
    assert slot.server_now is not None
    assert abs(slot.server_now - utc_now()) < MINUTE


def test_only_active_rows_are_read(ground: Ground) -> None:
    """An inactive row counts as absent, and so does a slot that nobody knows."""
    ground.put("kis", "app_key", APP_KEY.key, active=False)
    put_token(ground, make_token(), active=False)

    assert ground.store.read("kis").rows == ground.store.read("nobody's").rows == {}


def test_versions_grow_with_every_change(ground: Ground) -> None:
    """Value, end and activity each make another version, larger than any before; the same again does not."""
    end = make_token().expires_at
    first = ground.put("kis", "access_token", "{}", end)
    assert ground.put("kis", "access_token", "{}", end) == first
    elsewhere = ground.put("kis-second", "access_token", "{}", end)

    value = ground.put("kis", "access_token", "[]", end)
    moved = ground.put("kis", "access_token", "[]", end + SECOND)
    inactive = ground.put("kis", "access_token", "[]", end + SECOND, active=False)
    active = ground.put("kis", "access_token", "[]", end + SECOND)

    assert first < elsewhere < value < moved < inactive < active


# nonsense


@pytest.mark.parametrize("service", ["", "-kis", "kis paper", "한국", "k" * 64, "kis\n", "kis/../x"])
def test_a_malformed_service_is_refused(ground: Ground, service: str) -> None:
    """No call but a read takes a service that is not named by its rules; 63 characters are the most."""
    token = make_token()
    contender = Contender(ground, service=service)
    calls: list[Callable[[], object]] = [
        contender.begin,
        lambda: contender.commit(token),
        contender.abort,
        lambda: ground.store.save(service, token, token.to_json()),
    ]
    for call in calls:
        with pytest.raises(StoreMisconfigured) as caught:
            call()
        assert (caught.value.code, caught.value.retryable) == ("store-rejected", False)
    assert Contender(ground, service="k" * 63).begin().status == "granted"


def test_a_holder_is_a_uuid(ground: Ground) -> None:
    """A holder that is none is refused by every call that names one."""
    contender = Contender(ground)
    contender.holder = "me"
    calls: list[Callable[[], object]] = [contender.begin, lambda: contender.commit(make_token()), contender.abort]
    for call in calls:
        with pytest.raises(StoreMisconfigured):
            call()


def test_a_negative_min_remaining_is_refused(ground: Ground) -> None:
    """No token can be asked for that has less than no life left."""
    with pytest.raises(StoreMisconfigured):
        Contender(ground).begin(min_remaining=-SECOND)
    assert ground.outcomes("kis") == []


@pytest.mark.parametrize(
    "form",
    [
        "",
        "{",
        "eyJ0eXAiOiJKV1QifQ.e30.c2ln",
        '{"access_token": null}',
        '{"access_token": ""}',
        '["access_token"]',
        '"access_token"',
        "enc:v1:",
        "enc:v1:a:b c",
        "enc:v1:a:b:c",
    ],
)
def test_what_is_no_token_is_refused(ground: Ground, contender: Contender, form: str) -> None:
    """Commit and save take JSON with an access_token or an envelope; the turn goes on, and may end well."""
    with pytest.raises(StoreMisconfigured):
        contender.commit(make_token(), form)
    with pytest.raises(StoreMisconfigured):
        ground.store.save("kis", make_token(), form)
    assert stored(ground) is None
    assert contender.commit(make_token()).status == "committed"


def test_a_dead_token_is_refused(ground: Ground, contender: Contender) -> None:
    """Neither commit nor save stores a token that has ended."""
    dead = make_token(left=-SECOND)
    with pytest.raises(StoreMisconfigured):
        contender.commit(dead)
    with pytest.raises(StoreMisconfigured):
        ground.store.save("kis", dead, dead.to_json())
    assert stored(ground) is None


def test_a_token_from_the_future_is_refused(contender: Contender) -> None:
    """A clock may be wrong, but not by more than a day."""
    with pytest.raises(StoreMisconfigured):
        contender.commit(make_token(age=-25 * HOUR, left=48 * HOUR))
    assert contender.commit(make_token(age=-23 * HOUR, left=48 * HOUR)).status == "committed"


@pytest.mark.parametrize("cooldown", [-SECOND, HOUR + SECOND])
def test_a_senseless_cooldown_is_refused(ground: Ground, contender: Contender, cooldown: timedelta) -> None:
    """A cool-down below zero or above an hour is refused, and ends nothing."""
    with pytest.raises(StoreMisconfigured):
        contender.abort("EGW00133", cooldown)
    assert ground.outcomes("kis") == ["granted"]


# what the store in memory has beside that


class StillClock:
    """Does not move."""

    def __init__(self) -> None:
        self._now = utc_now()

    def now(self) -> datetime:
        """When it was made."""
        return self._now


def test_a_store_that_is_down() -> None:
    """While it is switched off every call is an outage, though a test still writes; then it goes on where it was."""
    store, holder, token = MemoryStore(StillClock()), str(uuid.uuid4()), make_token()
    store.is_down = True
    version = store.put("kis", "access_token", token.to_json(), token.expires_at)
    calls: list[Callable[[], object]] = [
        lambda: store.read("kis"),
        lambda: store.begin("kis", holder, "a laptop", APP_KEY, min_remaining=MINUTE),
        lambda: store.commit("kis", holder, 1, token, token.to_json(), rejected=False),
        lambda: store.save("kis", token, token.to_json()),
        lambda: store.abort("kis", holder, 1, cooldown=MINUTE, error_code="EGW00133"),
    ]
    for call in calls:
        with pytest.raises(StoreOutage) as caught:
            call()
        assert (caught.value.code, caught.value.retryable) == ("store-unreachable", True)
    assert store.outcomes("kis") == []
    store.is_down = False
    assert store.read("kis").rows["access_token"].version == version


class CrowdedClock:
    """Whoever looks at it first has another come in before he knows the time."""

    def __init__(self, come_in: Callable[[], Future[Begun]]) -> None:
        self._come_in: Callable[[], Future[Begun]] | None = come_in
        self.others: list[Future[Begun]] = []

    def now(self) -> datetime:
        """The present, when the other has come and, unless he has to wait, has gone."""
        if self._come_in is not None:
            come_in, self._come_in = self._come_in, None
            self.others.append(come_in())
            wait(self.others, timeout=0.05)
        return utc_now()


def test_threads_take_turns() -> None:
    """A call that comes in the middle of another waits for its end: of two threads one gets the turn."""
    with ThreadPoolExecutor(1) as pool:
        clock = CrowdedClock(lambda: pool.submit(begin))
        store = MemoryStore(clock)

        def begin() -> Begun:
            return store.begin("kis", str(uuid.uuid4()), "a thread", APP_KEY, min_remaining=MINUTE)

        assert begin().status == "granted"
        assert [other.result().status for other in clock.others] == ["busy"]


@pytest.mark.parametrize(("is_before", "status"), [(True, "committed"), (False, "fenced")], ids=["before", "meanwhile"])
def test_a_clock_that_stands_still(is_before: bool, status: str) -> None:  # noqa: FBT001 - a table
    """Also in one and the same moment, what was stored before a turn is told from what was stored in it."""
    store, holder, token = MemoryStore(StillClock()), str(uuid.uuid4()), make_token()
    newer = make_token(left=48 * HOUR)

    def put() -> int:
        return store.put("kis", "access_token", newer.to_json(), newer.expires_at)

    version = put() if is_before else None
    store.begin("kis", holder, "a laptop", APP_KEY, min_remaining=MINUTE, rejected_version=version)
    if not is_before:
        put()

    assert store.commit("kis", holder, 1, token, token.to_json(), rejected=False).status == status


def test_nothing_in_memory_shows_secrets() -> None:
    """What a debugger or a failing test prints of the store has no token, no key and no holder's id in it."""
    ground, token = MemoryGround(), make_token()
    ground.put("kis", "app_secret", APP_KEY.secret)
    contender = Contender(ground)
    contender.begin()
    put_token(ground, token)

    shown = repr(vars(ground.store))
    assert not any(secret in shown for secret in (token.value, APP_KEY.key, APP_KEY.secret, contender.holder))
