"""Single flight: one tokenP call however many ask. The store decides whose turn it is; this is a contender's side.

It keeps three promises to the store: tokenP is called once in a turn, and only within 5 s of asking for it; nothing is
tried twice inside it; and it ends with a commit or an abort, or lapses.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from kis_token.core.lease import MINUTE, Lease
from kis_token.core.lookup import judge_row
from kis_token.core.ports import TooLate
from kis_token.core.slot import Row, Slot, describe
from kis_token.core.waiting import Waiting, refused_to_another, token_repeated
from kis_token.deadline import ISSUE_BUDGET
from kis_token.errors import (
    KIS_REFUSALS,
    AppKeyChanged,
    EnvironmentFault,
    IssuanceError,
    IssuerError,
    IssuerOutage,
    IssuerRefused,
    StoreError,
    StoreOutage,
)
from kis_token.token import State, Token

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kis_token.clock import Clock
    from kis_token.config import Settings
    from kis_token.core.lease import Turn
    from kis_token.core.ports import Begun, Issuer, Machine, Store, Vault
    from kis_token.core.resolution import Resolution, Source, View
    from kis_token.token import AppKey

#: Another call may follow a grant, or a lease that has ended without a word, after so long: KIS's minute, and what a
#: holder may take to ask.
AFTER_GRANT, AFTER_LEASE = timedelta(seconds=70), timedelta(seconds=10)

#: A round that took less than this, in seconds, and brought no token made no progress; so many in a row are an outage.
SHORTEST_ROUND = 0.2
MOST_IDLE_ROUNDS = 5

#: Another's renewal takes a second or two: so long it is worth waiting for, even with a stale token at hand.
PATIENCE = 3.0


class Flight:
    """One caller's way to a token that has to be issued, by itself or by another.

    ``deadline`` is a reading of the clock's monotonic counter. ``tell`` gets a line when there is something to wait
    for, once.
    """

    def __init__(  # noqa: PLR0917 - a flight is made in one place
        self,
        settings: Settings,
        store: Store,
        machine: Machine,
        issuer: Issuer,
        vault: Vault,
        clock: Clock,
        deadline: float,
        tell: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._machine = machine
        self._issuer = issuer
        self._vault = vault
        self._clock = clock
        self._lease = Lease(settings, store, vault, clock, deadline, tell)
        self._waiting = Waiting(clock, deadline, tell)
        self._idle_rounds = 0
        self._was_rate_limited = False
        self._was_unsent = False
        self._was_patient = False
        self._rejected: int | None = None
        self._replaced_id: str | None = None
        self._times: tuple[datetime, datetime] | None = None
        self._rejected_ids: frozenset[str] = frozenset()

    def run(self, view: View, app_key: AppKey, *, replaces: int | None = None) -> Resolution:
        """Ask for turns until there is a token.

        ``replaces`` is the version of a token that is to be renewed although it is fresh. Raises StoreError,
        IssuerError, IssuanceError and TokenError.
        """
        self._rejected = view.unusable_version or replaces
        self._replaced_id = view.stored.token_id if view.stored is not None and replaces is not None else None
        while self.left() > 0:
            started = self._clock.monotonic()
            try:
                begun, turn = self._lease.begin(
                    app_key,
                    keys_version=view.keys_version,
                    rejected_version=self._rejected,
                    rejected_token_id=view.refused_id,
                    has_token=partial(self._has_token, view),
                )
            except StoreOutage as outage:
                if outage.sent:
                    self._hold_back(app_key, AFTER_GRANT)  # it may have been granted
                raise
            self._times = begun.server_now, self._clock.now()
            self._rejected_ids |= begun.rejected_token_ids
            view = view.with_time(*self._times).with_rejected(self._rejected_ids)
            resolution: Resolution | None = None
            if begun.status == "changed":
                raise AppKeyChanged("app-key-changed", "The slot's app key was changed meanwhile", retryable=True)
            if begun.status == "conflict":
                raise IssuanceError(
                    "key-in-two-slots",
                    f"The service {begun.holder_label} has a living token of this app key",
                    retryable=False,
                )
            if begun.status == "fresh":
                resolution = self._accept(view, begun)
            elif turn is None:
                resolution = self._wait(view, begun, app_key)
            elif self._lease.is_late(turn):
                self._lease.abort(turn, "late-start")
            else:
                resolution = self._use(view, turn, app_key)
            if resolution is not None:
                return resolution
            self._pace(self._clock.monotonic() - started)
        raise IssuanceError("wait-too-long", "Time was up before there was a token", retryable=True)

    def _hold_back(self, app_key: AppKey, time: timedelta) -> None:
        """Let this machine's callers that meet an outage later leave KIS alone for a while."""
        until = self._clock.now() + time
        with suppress(EnvironmentFault):  # without the note nobody here issues alone at all
            noted = self._machine.not_before(app_key.key_id)
            if noted is None or noted < until:
                self._machine.hold_back(app_key.key_id, until)

    def _has_token(self, view: View) -> bool:
        """Whether the caller can do without an answer."""
        return self._settings.mode == "resolve" and self.present(view).at_hand() is not None

    def _pace(self, seconds: float) -> None:
        """Between two questions there is a pause, and questions that lead nowhere have an end. Raises StoreOutage."""
        if seconds > SHORTEST_ROUND:
            self._idle_rounds = 0
            return
        self._idle_rounds += 1
        if self._idle_rounds >= MOST_IDLE_ROUNDS:
            raise StoreOutage("store-unreachable", "Supabase's answers to begin_issuance lead to no token")
        pause = SHORTEST_ROUND * 2**self._idle_rounds
        self._clock.sleep(max(min(self._clock.jitter(0.5 * pause, 1.5 * pause), self.left()), 0.0))

    def present(self, view: View) -> View:
        """The same at this moment, by what the store has said so far: of its time, and of rejected tokens."""
        view = view.with_rejected(self._rejected_ids)
        if self._times is not None and not view.certain:
            view = view.with_time(*self._times)
        return view.as_of(self._clock.now())

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._lease.left()

    def bring_home(self, view: View, token: Token) -> None:
        """Store ``token``, issued without the store, in the place of the one it may have ended. Raises StoreError."""
        replaced = view.stored.version if view.stored is not None else None
        self._lease.save(token, keys_version=view.keys_version, replaces_version=replaced)

    def _use(self, view: View, turn: Turn, app_key: AppKey) -> Resolution | None:
        """One turn. None: it brought nothing, and another may be asked for."""
        view = self.present(view)
        cached = view.cached
        if (
            self._settings.mode == "resolve"
            and cached is not None
            and cached.app_key_id is not None  # what may belong to a key before must not become the slot's
            and cached.state(view.now, self._settings.min_validity) is State.FRESH
            and (view.stored is None or cached.expires_at > view.stored.expires_at)
        ):
            return self._commit(view, turn, cached, "cache")
        if self.left() < ISSUE_BUDGET:
            self._lease.abort(turn, "out-of-time")
            raise IssuanceError("wait-too-long", "There is too little time left to issue a token", retryable=True)
        self._hold_back(app_key, AFTER_GRANT)
        try:
            token = issue(self._issuer, app_key, view.now, lambda: not self._lease.is_late(turn))
            if not view.rejects(token):
                view = self._verify(view, token, app_key)
        except TooLate:
            self._lease.abort(turn, "late-start")
            return None
        except IssuerError as error:
            return self._give_back(view, turn, app_key, error)
        except BaseException:
            self._lease.abort(turn, "interrupted", MINUTE)
            raise
        return self._commit(view, turn, token, "oauth")

    def _give_back(self, view: View, turn: Turn, app_key: AppKey, error: IssuerError) -> Resolution | None:
        """End a turn in which KIS gave no token. Another's token, or None for another turn; else raises the error."""
        if isinstance(error, IssuerRefused):
            self._lease.abort(turn, error.kis_code, refused=app_key.credential_id)
        elif isinstance(error, IssuerOutage):
            self._lease.abort(turn, error.code, MINUTE if error.sent else timedelta())
            if not (error.sent or error.lasting or self._was_unsent or self._has_token(view)):
                self._was_unsent = True  # one hiccup on the way to KIS, and nothing left
                return None
        else:
            self._lease.abort(turn, "EGW00133", MINUTE)
            # Somebody outside of all this has issued; their token may be stored already.
            found = self._look_again(view)
            if found is not None or not self._was_rate_limited:
                self._was_rate_limited = True
                return found
        raise error

    def _verify(self, view: View, token: Token, app_key: AppKey) -> View:
        """Where asked for: a new token that KIS itself refuses must not replace one that works."""
        if not self._settings.verify:
            return view
        try:
            code = self._issuer.verify(token, app_key)
        except IssuerOutage as error:
            return view.with_warning(f"The new token could not be verified: {error}")
        if code is not None:
            raise IssuerOutage("kis-answer-unusable", f"KIS refuses the token it just issued ({code})", sent=True)
        return view

    def _commit(self, view: View, turn: Turn, token: Token, source: Source) -> Resolution | None:
        is_repeated = view.rejects(token)
        try:
            committed = self._lease.commit(turn, token, rejected=view.refused_id is not None)
        except StoreError as error:
            if is_repeated:
                raise token_repeated(token) from error
            # Also a mistake in the set-up, which is told: what KIS has just given is not lost for it.
            hint = "" if isinstance(error, StoreOutage) else f". {error.hint}"
            view = view.with_warning(f"The token could not be stored for others: {error}{hint}")
            return replace(self._hand_out(view, token, source), unstored=error)
        if committed.is_rejected:
            self._rejected_ids |= {token.token_id}  # somebody revoked it meanwhile
            is_repeated = True
        view = self.present(view)
        if committed.status == "fenced":
            theirs = self._judge(view, committed.value, committed.expires_at, committed.version)
            if theirs is not None and theirs.lives(view.now):
                return self._found(view, theirs)
        if is_repeated and source == "cache":
            return None  # KIS was not asked
        if is_repeated:
            raise token_repeated(token)
        if committed.status == "fenced":
            view = view.with_warning("The token was not stored: the turn had gone to another.")
            return self._hand_out(view, token, source)
        self._heal(view, token, committed.version)
        token = replace(token, version=committed.version)
        if committed.status == "unchanged" and source != "cache":
            return view.with_link("oauth", "gave the token again that is stored").resolution(token, source)
        return self._hand_out(view, token, source)

    def _heal(self, view: View, token: Token, version: int | None) -> None:
        """Write the row anew when it is still the one from which nobody can tell that its token lives.

        So it is when KIS gave that very token again, whatever the answer to a repeated commit calls that.
        """
        looks_dead = view.stored is not None and not view.stored.lives(view.now) and version == view.stored.version
        if version is not None and (looks_dead or version == view.unusable_version):
            self._lease.offer(token, keys_version=view.keys_version, replaces_version=version)

    def _hand_out(self, view: View, token: Token, source: Source) -> Resolution:
        view = self.present(view)
        return view.resolution(token, source) if source == "cache" else hand_out_issued(view, token)

    def _wait(self, view: View, begun: Begun, app_key: AppKey) -> Resolution | None:
        """Another has the turn, or nobody may have it yet. A token, or None when it is time to ask again."""
        failed_before = begun.holder_label is None and begun.last_error is not None
        view = self.present(view)
        if begun.holder_label is not None and begun.retry_at is not None:
            self._hold_back(app_key, begun.retry_at - begun.server_now + AFTER_LEASE)
        at_hand = view.at_hand()
        if at_hand is None or (failed_before and self._settings.mode != "resolve"):
            return self._waiting.wait(begun, app_key, lambda: self._look_again(view))
        said = "it is too early to ask again"
        if begun.holder_label is not None and not self._was_patient:
            self._was_patient = True
            return self._waiting.wait(begun, app_key, lambda: self._look_again(view), PATIENCE)
        if begun.holder_label is not None:
            said = f"{begun.holder_label} is renewing the token"
        elif begun.last_error in KIS_REFUSALS:
            error = refused_to_another(begun.last_error, app_key)
            view = view.with_warning(f"The token was not renewed: {error}. {error.hint}")
        token, source = at_hand
        if self._settings.mode == "force":
            view = view.with_warning(f"The token was not renewed: {said}.")
        is_ours = source == "cache" and token.app_key_id is not None
        if is_ours and begun.holder_label is None:
            # Nobody will store a newer one before long: what this machine has is of use to the others.
            self._lease.offer(token, keys_version=view.keys_version)
        return view.with_link("oauth", said).resolution(token, source)

    def _look_again(self, view: View) -> Resolution | None:
        """What the store has by now, if that will do. A look that fails is one that showed nothing."""
        try:
            slot = self._store.read(self._settings.service_name)
        except StoreOutage:
            return None
        row = slot.rows.get("access_token")
        known = {self._rejected, view.stored.version if view.stored is not None else None}
        if row is None or row.version in known:
            return None
        view = self.present(view)
        token, _, _ = judge_row(view, slot, self._settings, self._vault)
        if token is None or not token.lives(view.now):
            return None
        # The row may have been written anew, sealed for instance, without a new token.
        is_old = view.stored is not None and view.stored.lives(view.now) and view.stored.token_id == token.token_id
        return None if is_old else self._found(view, token)

    def _accept(self, view: View, begun: Begun) -> Resolution | None:
        """The token that came with the answer; None when it cannot be used, which the next question then says."""
        token = self._judge(view, begun.value, begun.expires_at, begun.version)
        # The column, which is all that the store goes by, may promise more life than the token has.
        if token is not None and token.lives(view.now) and token.token_id != self._replaced_id:
            return self._found(view, token)
        self._rejected = begun.version
        return None

    def _judge(self, view: View, value: str | None, column: str | None, version: int | None) -> Token | None:
        if value is None or version is None:
            return None
        slot = Slot({"access_token": Row(value, column, version)}, None)
        return judge_row(view, slot, self._settings, self._vault)[0]

    def _found(self, view: View, token: Token) -> Resolution:
        said = f"another has issued: {describe(token, view.now, self._settings.min_validity)}"
        return view.with_link("supabase", said).resolution(token, "supabase")


def issue(issuer: Issuer, app_key: AppKey, now: datetime, may_send: Callable[[], bool] | None = None) -> Token:
    """One tokenP call, and a look at whose token it gave. Raises TooLate when ``may_send`` said no."""
    token = issuer.issue(app_key, now, may_send)
    if token.app_key_id != app_key.key_id:
        raise IssuerOutage("kis-answer-unusable", "KIS issued a token of another app key", sent=True)
    return token


def hand_out_issued(view: View, token: Token, *, warning: str = "") -> Resolution:
    """What tokenP gave at ``view.now``: a new token or, within 6 hours of an issue, one of before."""
    refreshed = token.is_new(view.now)
    said = "issued a token" if refreshed else "gave a token again that it had issued before"
    return view.with_link("oauth", said).resolution(token, "oauth", refreshed=refreshed, warning=warning)
