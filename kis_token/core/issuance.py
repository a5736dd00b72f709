"""The steps of one caller that needs a new token. If many callers need a token, only one of them calls tokenP.

The store grants the lease. The holder follows these rules:

- The holder calls tokenP at most once in a lease, and only within 5 s of the request for the lease.
- The holder ends the lease with a commit or an abort. If neither the commit nor the abort reaches the store, the lease
  lapses.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from kis_token.core.issuance_without_store import hold_back
from kis_token.core.lease import CALL_INTERVAL, Leases
from kis_token.core.lookup import judge_row
from kis_token.core.ports import TooLate
from kis_token.core.slot import TOKEN_TYPE, Row, Slot, describe
from kis_token.core.token_call import check_sealing, hand_out_issued, issue, token_repeated, verify
from kis_token.core.waiting import Waiting, refused_to_another
from kis_token.deadline import ISSUE_BUDGET
from kis_token.errors import (
    KIS_REFUSALS,
    AppKeyChanged,
    IssuanceError,
    IssuerError,
    IssuerOutage,
    IssuerRefused,
    StoreError,
    StoreOutage,
)
from kis_token.token import State

if TYPE_CHECKING:
    from kis_token.core.context import Context
    from kis_token.core.lease import Lease
    from kis_token.core.ports import Begun, Committed
    from kis_token.core.resolution import Resolution, Source, View
    from kis_token.core.store_time import StoreTime
    from kis_token.token import AppKey, Token

#: For this time after the grant of a lease, no caller on this machine issues a token without the store. The value is a
#: sum: the minute that KIS requires between two tokenP calls, and the time that a holder may take to call tokenP.
AFTER_GRANT = timedelta(seconds=70)

#: For this time after the end of another caller's lease, no caller on this machine issues a token without the store.
AFTER_LEASE = timedelta(seconds=10)

#: A round is one request for the lease and the wait after the answer. If a round takes at most ``SHORTEST_ROUND``
#: seconds and gives no token, the code counts the round as idle.
SHORTEST_ROUND = 0.2

#: If ``MOST_IDLE_ROUNDS`` rounds in a row end without a token after at most ``SHORTEST_ROUND`` seconds each, the caller
#: raises StoreOutage. A round is one request for the lease and the wait after the answer.
MOST_IDLE_ROUNDS = 5

#: Seconds that a caller with a stale token waits for another caller's renewal. A renewal takes a second or two.
LONGEST_WAIT = 3.0


class Issuance:
    """Gets a token for one caller: this caller issues a token, or waits for the token of another caller.

    Each object is used for one `run`. If a stored token must be renewed although it is fresh, ``replaces`` is the
    version of its row.
    """

    def __init__(
        self, context: Context, store_time: StoreTime, view: View, app_key: AppKey, *, replaces: int | None = None
    ) -> None:
        self._context = context
        self._settings = context.settings
        self._store_time = store_time
        self._view = view
        self._app_key = app_key
        self._leases = Leases(context)
        self._waiting = Waiting(context)
        self._rejected_version = view.unusable_version or replaces
        self._replaced_id = view.stored.token_id if view.stored is not None and replaces is not None else None
        self._idle_rounds = 0
        self._was_rate_limited = False
        self._was_unsent = False
        self._was_patient = False

    def run(self) -> Resolution:
        """Ask for the lease again and again until a token is found or issued.

        Raises StoreError, IssuerError, IssuanceError and TokenError.
        """
        check_sealing(self._context)
        clock, deadline = self._context.clock, self._context.deadline
        while deadline.left() > 0:
            started = clock.monotonic()
            resolution = self._ask()
            if resolution is not None:
                return resolution
            self._pace(clock.monotonic() - started)
        raise IssuanceError("wait-too-long", "No token was found or issued in time", retryable=True)

    def _ask(self) -> Resolution | None:
        """Ask for the lease once, and issue a token or wait for one. Returns None if the caller must ask once more."""
        begun, lease = self._begin()
        if begun.status == "changed":
            raise AppKeyChanged("app-key-changed", "The slot's app key was changed during this call", retryable=True)
        if begun.status == "conflict":
            message = f"The slot {begun.holder_label} has a valid token of this app key"
            raise IssuanceError("key-in-two-slots", message, retryable=False)
        if begun.status == "fresh":
            return self._accept(begun)
        if lease is None:
            return self._wait(begun)
        if self._leases.is_late(lease):
            self._leases.abort(lease, "late-start")
            return None
        return self._use(lease)

    def _begin(self) -> tuple[Begun, Lease | None]:
        try:
            begun, lease = self._leases.begin(
                self._app_key,
                keys_version=self._view.keys_version,
                rejected_version=self._rejected_version,
                rejected_token_id=self._view.rejected_id,
                has_token=self._has_token,
            )
        except StoreOutage as outage:
            if outage.sent:
                hold_back(self._context, self._app_key, AFTER_GRANT)  # the store may have granted the lease
            raise
        self._store_time.note(begun)
        self._view = self._present()
        return begun, lease

    def _present(self) -> View:
        return self._store_time.update(self._view)

    def _has_token(self) -> bool:
        """Whether the caller can continue without a new token."""
        return self._settings.mode == "resolve" and self._present().at_hand() is not None

    def _pace(self, seconds: float) -> None:
        """Pause between two requests for the lease.

        ``seconds`` is the time that the last request for the lease and the wait after its answer took. If each of the
        last ``MOST_IDLE_ROUNDS`` requests for the lease took at most ``SHORTEST_ROUND`` seconds, including the wait
        after its answer, raises StoreOutage.
        """
        if seconds > SHORTEST_ROUND:
            self._idle_rounds = 0
            return
        self._idle_rounds += 1
        if self._idle_rounds >= MOST_IDLE_ROUNDS:
            raise StoreOutage("store-unreachable", "Supabase's answers to begin_issuance lead to no token")
        clock, pause = self._context.clock, SHORTEST_ROUND * 2**self._idle_rounds
        clock.sleep(max(min(clock.jitter(0.5 * pause, 1.5 * pause), self._context.deadline.left()), 0.0))

    def _accept(self, begun: Begun) -> Resolution | None:
        """Return the token of an answer with the status "fresh"; None if the token is unusable.

        If the token is unusable, the next request for the lease has the version of the token's row as
        ``rejected_version``.
        """
        token = self._judge(begun)
        # The store reads the expiry time from the column ``expires_at``, which may be later than the real expiry time
        # of the token.
        if token is not None and token.is_valid(self._view.now) and token.token_id != self._replaced_id:
            return self._found(token)
        self._rejected_version = begun.version
        return None

    def _use(self, lease: Lease) -> Resolution | None:
        """Store a fresh cached token or issue a token. Returns None if the caller needs another lease."""
        self._view = view = self._present()
        cached, stored = view.cached, view.stored
        if (
            self._settings.mode == "resolve"
            and cached is not None
            # A cached token whose app key is unknown is not stored, because it may belong to a previous key.
            and cached.app_key_id is not None
            and cached.state(view.now, self._settings.min_validity) is State.FRESH
            and (stored is None or cached.expires_at > stored.expires_at)
        ):
            return self._commit(lease, cached, "cache")
        if self._context.deadline.left() < ISSUE_BUDGET:
            self._leases.abort(lease, "out-of-time")
            raise IssuanceError("wait-too-long", "There is too little time left to issue a token", retryable=True)
        return self._issue(lease)

    def _issue(self, lease: Lease) -> Resolution | None:
        """Call tokenP once, and store the returned token. Returns None if the caller needs another lease."""
        view, app_key, issuer = self._view, self._app_key, self._context.issuer
        hold_back(self._context, app_key, AFTER_GRANT)
        try:
            token = issue(issuer, app_key, view.now, lambda: not self._leases.is_late(lease))
            if self._settings.verify and not view.rejects(token):
                self._view = verify(issuer, view, token, app_key)
        except TooLate:
            self._leases.abort(lease, "late-start")
            return None
        except IssuerError as error:
            return self._give_back(lease, error)
        except BaseException:
            self._leases.abort(lease, "interrupted", CALL_INTERVAL)
            raise
        return self._commit(lease, token, "oauth")

    def _give_back(self, lease: Lease, error: IssuerError) -> Resolution | None:
        """End a lease in which KIS gave no token.

        If another caller has stored a token, returns that token. If the caller needs another lease, returns None. If no
        other caller has stored a token, and the caller needs no other lease, raises ``error``.
        """
        if isinstance(error, IssuerRefused):
            self._leases.abort(lease, error.kis_code, refused=self._app_key.credential_id)
        elif isinstance(error, IssuerOutage):
            self._leases.abort(lease, error.code, CALL_INTERVAL if error.sent else timedelta())
            if not (error.sent or error.lasting or self._was_unsent or self._has_token()):
                self._was_unsent = True  # the connection to KIS failed before a request was sent: try once more
                return None
        else:
            self._leases.abort(lease, "EGW00133", CALL_INTERVAL)
            # KIS allows one tokenP call a minute. Another caller may have just issued a token and stored it.
            found = self._look_again()
            if found is not None or not self._was_rate_limited:
                self._was_rate_limited = True
                return found
        raise error

    def _commit(self, lease: Lease, token: Token, source: Source) -> Resolution | None:
        """Store ``token`` and end the lease. Returns None if the caller needs another lease."""
        is_repeated = self._view.rejects(token)
        try:
            committed = self._leases.commit(lease, token, rejected=self._view.rejected_id is not None)
        except StoreError as error:
            if is_repeated:
                raise token_repeated(token) from error
            # Even a configuration error is only a warning here, because the token that KIS just issued must not be
            # lost.
            said = error.brief if isinstance(error, StoreOutage) else error.advice
            self._view = self._view.with_warning(f"The token could not be stored for other callers: {said}")
            return replace(self._hand_out(token, source), unstored=error)
        if committed.is_rejected:
            self._store_time.note_rejected(token.token_id)  # another caller reported the token as revoked or rejected
        self._view = self._present()
        if committed.status == "fenced":
            theirs = self._judge(committed)
            if theirs is not None and theirs.is_valid(self._view.now):
                return self._found(theirs)
        if is_repeated or committed.is_rejected:
            if source == "cache":
                return None  # the cached token is rejected, and tokenP was not called yet
            raise token_repeated(token)
        return self._hand_out_committed(token, source, committed)

    def _hand_out_committed(self, token: Token, source: Source, committed: Committed) -> Resolution:
        if committed.status == "fenced":
            self._view = self._view.with_warning("The token was not stored: another caller has the lease now.")
            return self._hand_out(token, source)
        self._write_anew(token, committed.version)
        token = replace(token, version=committed.version)
        if committed.status == "unchanged" and source != "cache":
            return self._view.with_entry("oauth", "gave the stored token again").resolution(token, source)
        return self._hand_out(token, source)

    def _write_anew(self, token: Token, version: int | None) -> None:
        """Write the row again if the row showed the token as expired or unusable, but KIS gave the same token again.

        If KIS gave the same token again, `Store.commit` has not changed the version of the row. This method does not
        check the status that `Store.commit` returned. If the caller repeats `Store.commit` after a lost response, the
        status can be "committed" instead of "unchanged".
        """
        stored = self._view.stored
        looks_expired = stored is not None and not stored.is_valid(self._view.now) and version == stored.version
        if version is not None and (looks_expired or version == self._view.unusable_version):
            self._leases.offer(token, keys_version=self._view.keys_version, replaces_version=version)

    def _hand_out(self, token: Token, source: Source) -> Resolution:
        view = self._present()
        return view.resolution(token, source) if source == "cache" else hand_out_issued(view, token)

    def _wait(self, begun: Begun) -> Resolution | None:
        """Wait while another caller holds the lease, or until the store may grant the next lease.

        Returns None when the caller should ask for the lease again.
        """
        failed_before = begun.holder_label is None and begun.last_error is not None
        view = self._view
        if begun.holder_label is not None and begun.retry_at is not None:
            hold_back(self._context, self._app_key, begun.retry_at - begun.server_now + AFTER_LEASE)
        at_hand = view.at_hand()
        if at_hand is None or (failed_before and self._settings.mode != "resolve"):
            return self._waiting.wait(begun, self._app_key, self._look_again)
        said = "it is too early to call KIS again"
        if begun.holder_label is not None and not self._was_patient:
            self._was_patient = True
            return self._waiting.wait(begun, self._app_key, self._look_again, LONGEST_WAIT)
        if begun.holder_label is not None:
            said = f"{begun.holder_label} is renewing the token"
        elif begun.last_error in KIS_REFUSALS:
            error = refused_to_another(begun.last_error, self._app_key)
            view = view.with_warning(f"The token was not renewed: {error.advice}")
        token, source = at_hand
        if self._settings.mode == "force":
            view = view.with_warning(f"The token was not renewed: {said}.")
        if begun.holder_label is None and source == "cache" and token.app_key_id is not None:
            # No caller has the lease now, so no newer token is stored soon. Therefore, this caller stores the cached
            # token for the other callers.
            self._leases.offer(token, keys_version=view.keys_version)
        return view.with_entry("oauth", said).resolution(token, source)

    def _look_again(self) -> Resolution | None:
        """Return another caller's stored token; None if there is no such token or the store does not answer."""
        try:
            slot = self._context.store.read(self._settings.service_name)
        except StoreOutage:
            return None
        row, before = slot.rows.get(TOKEN_TYPE), self._view.stored
        if row is None or row.version in (self._rejected_version, before.version if before is not None else None):
            return None
        self._view = view = self._present()
        token, _, _ = judge_row(view, slot, self._settings, self._context.vault)
        if token is None or not token.is_valid(view.now):
            return None
        # A row with a new version may contain the same token as before, for example after sealing.
        is_old = before is not None and before.is_valid(view.now) and before.token_id == token.token_id
        return None if is_old else self._found(token)

    def _judge(self, answer: Begun | Committed) -> Token | None:
        """Return the stored token in ``answer``; None if ``answer`` has no token or an unusable token."""
        if answer.value is None or answer.version is None:
            return None
        slot = Slot({TOKEN_TYPE: Row(answer.value, answer.expires_at, answer.version)}, None)
        return judge_row(self._view, slot, self._settings, self._context.vault)[0]

    def _found(self, token: Token) -> Resolution:
        said = f"another caller issued it: {describe(token, self._view.now, self._settings.min_validity)}"
        return self._view.with_entry("supabase", said).resolution(token, "supabase")
