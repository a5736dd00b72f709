"""Single flight: one tokenP call however many ask. The store decides whose turn it is; this is a contender's side.

It keeps four promises to the store: a turn is one attempt, with a holder id of its own; tokenP is called once in it,
and only within 5 s of asking for it; nothing is tried twice inside it; and it ends with a commit or an abort, or
lapses.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.errors import (
    IssuanceError,
    IssuerOutage,
    IssuerRateLimited,
    IssuerRefused,
    KisTokenError,
    StoreOutage,
)
from kis_token.lookup import describe, judge_row
from kis_token.reader import Row, Slot
from kis_token.token import State, Token
from kis_token.waiting import ISSUE_BUDGET, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kis_token.clock import Clock
    from kis_token.config import Settings
    from kis_token.lookup import Resolution, View
    from kis_token.ports import Begun, Committed, Issuer, Store
    from kis_token.sealing import Vault
    from kis_token.token import AppKey

#: From asking for a turn to sending tokenP. With 70 s between turns, two calls are more than a minute apart.
LONGEST_START = timedelta(seconds=5)

#: KIS allows one call a minute; a second more for its clock.
MINUTE = timedelta(seconds=61)

_COMMIT_TRIES = 4


@dataclass(frozen=True, slots=True)
class _Turn:
    """A granted turn."""

    holder: str
    fence: int


class Flight:
    """One caller's way to a token that has to be issued, by itself or by another.

    ``deadline`` is a reading of the clock's monotonic counter. ``tell`` gets a line when there is something to wait
    for, once.
    """

    def __init__(  # noqa: PLR0917 - a flight is made in one place
        self,
        settings: Settings,
        store: Store,
        issuer: Issuer,
        vault: Vault,
        clock: Clock,
        deadline: float,
        tell: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._service = settings.service_name
        self._store = store
        self._issuer = issuer
        self._vault = vault
        self._clock = clock
        self._deadline = deadline
        self._tell = tell
        self._waiting = Waiting(clock, deadline, tell)
        self._was_rate_limited = False
        self._skew = timedelta()
        self._rejected: int | None = None

    def run(self, view: View, app_key: AppKey, *, replaces: int | None = None) -> Resolution:
        """Ask for turns until there is a token.

        ``replaces`` is the version of a token that is to be renewed although it is fresh. Raises StoreError,
        IssuerError, IssuanceError and TokenError.
        """
        self._skew = view.skew
        self._rejected = view.unusable_version or replaces
        while self.left() > 0:
            wall, steady = self._clock.now(), self._clock.monotonic()
            holder = str(uuid.uuid4())
            begun = self._begin(holder, app_key)
            self._skew = begun.server_now - self._clock.now()
            resolution: Resolution | None = None
            if begun.status == "conflict":
                raise IssuanceError(
                    "key-in-two-slots",
                    f"The service {begun.holder_label} has a living token of this app key",
                    retryable=False,
                )
            if begun.status == "fresh":
                resolution = self._accept(view, begun)
            elif begun.status == "granted" and begun.fence is not None:
                turn = _Turn(holder, begun.fence)
                # A machine that was suspended wakes up with a turn that is over: of wall and counter the larger counts.
                if max(self._clock.now() - wall, timedelta(seconds=self._clock.monotonic() - steady)) > LONGEST_START:
                    self._abort(turn, "late-start")
                else:
                    resolution = self._use(view, turn, app_key)
            else:
                resolution = self._wait(view, begun)
            if resolution is not None:
                return resolution
        raise IssuanceError("wait-too-long", "Time was up before there was a token", retryable=True)

    def now(self) -> datetime:
        """The store's time, as far as it has told it."""
        return self._clock.now() + self._skew

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - self._clock.monotonic()

    def _begin(self, holder: str, app_key: AppKey) -> Begun:
        """Ask for a turn; once more when the answer is lost: the same holder is told of the same turn."""
        try:
            return self._ask(holder, app_key)
        except StoreOutage:
            self._clock.sleep(self._clock.jitter(0.2, 1.0))
            return self._ask(holder, app_key)

    def _ask(self, holder: str, app_key: AppKey) -> Begun:
        return self._store.begin(
            self._service,
            holder,
            self._settings.label,
            app_key,
            min_remaining=self._settings.min_validity,
            rejected_version=self._rejected,
        )

    def _use(self, view: View, turn: _Turn, app_key: AppKey) -> Resolution | None:
        """One turn. None: it brought nothing, and another may be asked for."""
        cached = view.cached
        if (
            self._settings.mode == "resolve"
            and cached is not None
            and cached.state(self.now(), self._settings.min_validity) is State.FRESH
            and (view.stored is None or cached.expires_at > view.stored.expires_at)
        ):
            return self._commit(view, turn, cached, "cache")
        if self.left() < ISSUE_BUDGET:
            self._abort(turn, "out-of-time")
            raise IssuanceError("wait-too-long", "There is too little time left to issue a token", retryable=True)
        try:
            token = issue(self._issuer, app_key, self.now())
            view = self._verify(view, token, app_key)
        except IssuerRateLimited:
            self._abort(turn, "EGW00133", MINUTE)
            # Somebody outside of all this has issued; their token may be stored already.
            found = self._look_again(view)
            if found is None and self._was_rate_limited:
                raise
            self._was_rate_limited = True
            return found
        except IssuerRefused as error:
            self._abort(turn, error.kis_code, refused=app_key.credential_id)
            raise
        except IssuerOutage as error:
            self._abort(turn, error.code, MINUTE if error.sent else timedelta())
            raise
        except BaseException:
            self._abort(turn, "interrupted", MINUTE)
            raise
        return self._commit(view, turn, token, "oauth")

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

    def _commit(self, view: View, turn: _Turn, token: Token, source: str) -> Resolution:
        try:
            committed = self._send_commit(turn, token, rejected=view.unusable_version is not None)
        except StoreOutage as error:
            view = view.with_warning(f"The token could not be stored for others: {error}")
            return self._hand_out(view, token, source)
        if committed.status == "fenced":
            theirs = self._judge(view, committed.value, committed.expires_at, committed.version)
            if theirs is not None and theirs.lives(self.now()):
                return self._found(view, theirs)
            view = view.with_warning("The token was not stored: the turn had gone to another.")
            return self._hand_out(view, token, source)
        token = replace(token, version=committed.version)
        if committed.status == "unchanged" and source != "cache":
            view = replace(view, now=self.now()).with_link("oauth", "gave the token again that is stored")
            return view.resolution(token, source)
        return self._hand_out(view, token, source)

    def _send_commit(self, turn: _Turn, token: Token, *, rejected: bool) -> Committed:
        stored_form = self._sealed(token)  # once: the store knows a repeated commit by it, and no two seals are alike
        for _ in range(_COMMIT_TRIES - 1):
            with suppress(StoreOutage):
                return self._store.commit(self._service, turn.holder, turn.fence, token, stored_form, rejected=rejected)
            if self.left() < 1:
                break
            self._clock.sleep(self._clock.jitter(0.2, 1.0))
        return self._store.commit(self._service, turn.holder, turn.fence, token, stored_form, rejected=rejected)

    def _hand_out(self, view: View, token: Token, source: str) -> Resolution:
        view = replace(view, now=self.now())
        return view.resolution(token, source) if source == "cache" else hand_out_issued(view, token)

    def _sealed(self, token: Token) -> str:
        return self._vault.seal(token.to_json(), self._service, "access_token")

    def _abort(self, turn: _Turn, code: str, cooldown: timedelta = timedelta(), *, refused: str | None = None) -> None:
        try:
            self._store.abort(
                self._service,
                turn.holder,
                turn.fence,
                cooldown=cooldown,
                error_code=code,
                refused_credential_id=refused,
            )
        except KisTokenError as error:
            self._tell(f"The turn could not be given back and lapses by itself: {error}")

    def _wait(self, view: View, begun: Begun) -> Resolution | None:
        """Another has the turn, or nobody may have it yet. A token, or None when it is time to ask again."""
        at_hand = replace(view, now=self.now()).at_hand()
        if at_hand is None:
            return self._waiting.wait(begun, lambda: self._look_again(view))
        token, source = at_hand
        said = f"{begun.holder_label} is renewing the token" if begun.holder_label else "it is too early to ask again"
        if self._settings.mode == "force":
            view = view.with_warning(f"The token was not renewed: {said}.")
        if source == "cache" and begun.holder_label is None:
            # Nobody will store a newer one before long: what this machine has is of use to the others.
            with suppress(KisTokenError):
                self._store.save(self._service, token, self._sealed(token))
        return view.with_link("oauth", said).resolution(token, source)

    def _look_again(self, view: View) -> Resolution | None:
        """What the store has by now, if that will do. A look that fails is one that showed nothing."""
        try:
            slot = self._store.read(self._service)
        except StoreOutage:
            return None
        row = slot.rows.get("access_token")
        if row is None or row.version == self._rejected:
            return None
        token, _, _ = judge_row(replace(view, now=self.now()), slot, self._settings, self._vault)
        if token is None or not token.lives(self.now()):
            return None
        return self._found(view, token)

    def _accept(self, view: View, begun: Begun) -> Resolution | None:
        """The token that came with the answer; None when it cannot be used, which the next question then says."""
        token = self._judge(view, begun.value, begun.expires_at, begun.version)
        # The column, which is all that the store goes by, may promise more life than the token has.
        if token is not None and token.lives(self.now()):
            return self._found(view, token)
        self._rejected = begun.version
        return None

    def _judge(self, view: View, value: str | None, column: str | None, version: int | None) -> Token | None:
        if value is None or version is None:
            return None
        slot = Slot({"access_token": Row(value, column, version)}, None)
        return judge_row(replace(view, now=self.now()), slot, self._settings, self._vault)[0]

    def _found(self, view: View, token: Token) -> Resolution:
        view = replace(view, now=self.now())
        said = f"another has issued: {describe(token, view.now, self._settings.min_validity)}"
        return view.with_link("supabase", said).resolution(token, "supabase")


def issue(issuer: Issuer, app_key: AppKey, now: datetime) -> Token:
    """One tokenP call, and a look at whose token it gave."""
    token = issuer.issue(app_key, now)
    if token.app_key_id != app_key.key_id:
        raise IssuerOutage("kis-answer-unusable", "KIS issued a token of another app key", sent=True)
    return token


def hand_out_issued(view: View, token: Token, *, warning: str = "") -> Resolution:
    """What tokenP gave at ``view.now``: a new token or, within 6 hours of an issue, one of before."""
    refreshed = token.is_new(view.now)
    said = "issued a token" if refreshed else "gave a token again that it had issued before"
    return view.with_link("oauth", said).resolution(token, "oauth", refreshed=refreshed, warning=warning)
