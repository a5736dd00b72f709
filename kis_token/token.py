"""The token: its form, its expiry, and its state. Only this module decides whether a token is fresh, stale or expired.

All times are aware and in UTC. Only the texts that this module parses can be in Korea time (UTC+9, no summer time):
KIS writes expiry times as ``YYYY-MM-DD HH:MM:SS`` in Korea time, without an offset.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum

from kis_token.errors import TokenUnusable
from kis_token.settings.pasted_values import parse_claims

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KST = timezone(timedelta(hours=9), "KST")

#: A valid token has at least LEAST_USEFUL until its expiry time. A token with less than LEAST_USEFUL could expire
#: during the caller's first request.
LEAST_USEFUL = timedelta(seconds=30)

#: The lifetime of the tokens of individuals and ordinary companies. If a token's issue time is unknown, the issue time
#: is estimated as the token's end minus USUAL_LIFETIME.
USUAL_LIFETIME = timedelta(hours=24)

#: tokenP can return an older token again. If a token from tokenP is younger than JUST_NOW, the call has issued the
#: token. KIS's clock may be off by some minutes.
JUST_NOW = timedelta(minutes=5)

#: After an issue, KIS answers tokenP with the same token for this time.
REISSUE_WINDOW = timedelta(hours=6)

_INSTANT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)? ?(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)
_EPOCH = re.compile(r"\d{9,11}(\.\d{1,9})?", re.ASCII)
_TOKEN_SHAPE = re.compile(r"[A-Za-z0-9._~+/=-]{20,4096}", re.ASCII)


class State(Enum):
    """A token's state, which depends on the token's time left and on the time that the caller needs."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its times and its origin. The repr does not show the value.

    ``issued_at`` is never derived from the present time. ``version`` is the store's number of the token's row.
    ``app_key_id`` is the fingerprint of the token's app key; None if unknown. ``environment`` is production or paper;
    None if unknown. ``sealed_form`` is the sealed text from which the token was read; None for a token from plain text.
    """

    value: str = field(repr=False)
    expires_at: datetime
    issued_at: datetime
    version: int | None = None
    app_key_id: str | None = None
    environment: str | None = None
    sealed_form: str | None = field(default=None, repr=False, compare=False)

    @property
    def token_id(self) -> str:
        """The token's fingerprint, to compare tokens without showing them."""
        return fingerprint(self.value)

    def remaining(self, now: datetime) -> timedelta:
        """The time until the token's end; negative after it."""
        return self.expires_at - now

    def is_valid(self, now: datetime) -> bool:
        """Whether the token can be used: it is fresh or stale."""
        return self.remaining(now) >= LEAST_USEFUL

    def is_new(self, now: datetime) -> bool:
        """Whether the tokenP call at ``now`` issued this token. tokenP can also return an earlier token again."""
        return self.issued_at > now - JUST_NOW

    def state(self, now: datetime, min_validity: timedelta) -> State:
        """Return FRESH with more than ``min_validity`` left, STALE with at least 30 s left, EXPIRED with less."""
        remaining = self.remaining(now)
        if remaining > max(min_validity, LEAST_USEFUL):
            return State.FRESH
        return State.STALE if self.is_valid(now) else State.EXPIRED

    def to_json(self, **further: str) -> str:
        """Return the stored form of the token: JSON with fixed members, and with the additional members in ``further``.

        Programs that follow the guide (docs/migrating.md) read the first three members.
        """
        members = {
            "access_token": self.value,
            "expires_at": self.expires_at.isoformat(),
            "issued_at": self.issued_at.isoformat(),
            "app_key_id": self.app_key_id,
            "environment": self.environment,
            **further,
        }
        return json.dumps({name: value for name, value in members.items() if value is not None})


@dataclass(frozen=True, slots=True)
class AppKey:
    """Key and secret of one KIS account. ``slot`` is the slot that stores the key; None if the caller passed it in."""

    key: str = field(repr=False)
    secret: str = field(repr=False)
    slot: str | None = field(default=None, compare=False)

    @property
    def key_id(self) -> str:
        """The fingerprint of the app key."""
        return fingerprint(self.key)

    @property
    def credential_id(self) -> str:
        """The fingerprint of key and secret together."""
        return fingerprint(f"{self.key}\n{self.secret}")


def fingerprint(text: str) -> str:
    """The first 16 hex digits of the SHA-256 of ``text``."""
    # A text from JSON can contain half a surrogate pair, which has no UTF-8 form.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def looks_like_token(text: str) -> bool:
    """Whether ``text`` has the shape of a token.

    A text of another shape is not masked, because a mask of "1" would hide each 1 in the log.
    """
    return _TOKEN_SHAPE.fullmatch(text) is not None


def parse_instant(value: object) -> datetime:
    """Return a client's time: epoch seconds, or ISO 8601 with ``Z``, with an offset, or without both.

    A time without an offset is read as Korea time. Some clients write UTC times without an offset. A UTC time that is
    read as Korea time is nine hours too early, so an expired token never looks valid. If ``value`` is not a time,
    raises ValueError.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("not a time")  # noqa: TRY004 - all unreadable values raise the same error
    text = value.strip()
    try:
        if _EPOCH.fullmatch(text):
            return datetime.fromtimestamp(float(text), timezone.utc)
        match = _INSTANT.fullmatch(text)
        if match is None:
            raise ValueError("not a time")
        year, month, day, hour, minute, second, fraction, offset = match.groups()
        naive = datetime(  # noqa: DTZ001 - `_parse_offset` returns the zone
            int(year), int(month), int(day), int(hour), int(minute), int(second or 0), int(f"{fraction or 0:0<6}"[:6])
        )
        return _in_utc(naive.replace(tzinfo=_parse_offset(offset)))
    except OverflowError as error:
        raise ValueError("not a time") from error


def instant_or_none(value: object) -> datetime | None:
    """Return `parse_instant` of ``value``; None if ``value`` is not a time."""
    try:
        return parse_instant(value)
    except ValueError:
        return None


def parse_kst(text: str) -> datetime:
    """Parse KIS's ``YYYY-MM-DD HH:MM:SS`` in Korea time. If ``text`` has another form, raises ValueError."""
    return _in_utc(datetime.strptime(text.strip(), "%Y-%m-%d %H:%M:%S").replace(tzinfo=KST))


def in_both_zones(moment: datetime) -> str:
    """Format a moment for people, in Korea time and in UTC."""
    return f"{moment.astimezone(KST):%Y-%m-%d %H:%M:%S} KST ({moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC)"


def in_hours(span: timedelta) -> str:
    """Format a span for people, in hours and whole minutes. The span must not be negative."""
    minutes = span // timedelta(minutes=1)
    return f"{minutes // 60} h {minutes % 60} min"


def claimed_time(claims: dict[str, object], name: str) -> datetime | None:
    """Return the time in the claim with the name ``name``; None if the claim is missing or is not a readable number."""
    value = claims.get(name)
    return instant_or_none(value) if isinstance(value, (int, float)) else None


def build_token(
    value: str,
    *,
    expiries: list[datetime],
    issued_at: datetime | None = None,
    version: int | None = None,
    app_key_id: str | None = None,
    environment: str | None = None,
) -> Token:
    """Build a token. Its expiry time is the earliest of ``expiries`` and of the expiry time in the token's claims.

    For the issue time and the app key, the token's claims take precedence over the arguments. Raises TokenUnusable if
    ``value`` does not look like a token, or if its expiry time is unknown.
    """
    if not looks_like_token(value):
        raise TokenUnusable("The value is not a token")
    claims = parse_claims(value)
    own_expiry, own_issue, own_key = claimed_time(claims, "exp"), claimed_time(claims, "iat"), claims.get("jti")
    ends = [*expiries, *([own_expiry] if own_expiry else [])]
    if not ends:
        raise TokenUnusable("The token has no readable expiry time")
    expires_at = min(ends)
    begun = own_issue or issued_at
    return Token(
        value=value,
        expires_at=expires_at,
        issued_at=begun if begun is not None and begun < expires_at else expires_at - USUAL_LIFETIME,
        version=version,
        app_key_id=fingerprint(own_key) if isinstance(own_key, str) and own_key else app_key_id,
        environment=environment,
    )


def parse_members(text: str) -> dict[str, Any]:
    """Return the members of a stored token's JSON. Raises TokenUnusable unless ``access_token`` is a string."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or not isinstance(data.get("access_token"), str):
        raise TokenUnusable("The stored value is not JSON with a member access_token")
    return data


def parse_stored(text: str, *, column: object = None, version: int | None = None) -> Token:
    """Return the token from its stored JSON and from the column ``expires_at``.

    The token's expiry time is the earliest of three expiry times: in the column ``expires_at``, in the JSON and in the
    token's claims. The column may be wrong, because some clients write the column in Korea time without an offset.
    Raises TokenUnusable if the JSON is broken or has no usable token.
    """
    data = parse_members(text)
    expiries = [time for time in map(instant_or_none, (column, data.get("expires_at"))) if time is not None]
    app_key_id, environment = data.get("app_key_id"), data.get("environment")
    return build_token(
        data["access_token"].strip(),
        expiries=expiries,
        issued_at=instant_or_none(data.get("issued_at")),
        version=version,
        app_key_id=app_key_id if isinstance(app_key_id, str) else None,
        environment=environment if isinstance(environment, str) else None,
    )


def _in_utc(moment: datetime) -> datetime:
    """Return ``moment`` in UTC. Raises ValueError for years before 1970, and from 9999 on, where sums can overflow."""
    if not 1970 <= moment.year < 9999:
        raise ValueError("not a time")
    return moment.astimezone(timezone.utc)


def _parse_offset(text: str | None) -> timezone:
    if text is None:
        return KST
    if text == "Z":
        return timezone.utc
    minutes = int(text[1:3]) * 60 + int(text[3:].lstrip(":") or 0)
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))
