"""The token: what one is, when it ends, and which of its three states it is in. The one owner of that rule.

All times are aware and in UTC. Korea time exists only in what is parsed here: KIS writes its expiry as
``YYYY-MM-DD HH:MM:SS`` in Korea time (UTC+9, no summer time) without saying so.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any

from kis_token.errors import TokenUnusable
from kis_token.pasted_values import parse_claims

KST = timezone(timedelta(hours=9), "KST")

#: A token with less life than this is not worth handing out: the caller's first request would outlive it.
LEAST_USEFUL = timedelta(seconds=30)

#: Tokens of individuals and ordinary companies live this long. Only a guess for tokens that do not say when they began.
USUAL_LIFETIME = timedelta(hours=24)

#: A token younger than this was made for the call that brought it; KIS's clock may be off by some minutes.
JUST_NOW = timedelta(minutes=5)

#: Asked again within this time of an issue, KIS answers with the same token.
REISSUE_WINDOW = timedelta(hours=6)

_INSTANT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)? ?(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)
_EPOCH = re.compile(r"\d{9,11}(\.\d{1,9})?", re.ASCII)
_TOKEN_SHAPE = re.compile(r"[A-Za-z0-9._~+/=-]{20,4096}", re.ASCII)


class State(Enum):
    """How much life a token has left, compared with what the caller needs."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Token:
    """A token and what is known of it.

    ``issued_at`` is never guessed from the present. ``version`` is the store's number for the row it was read from.
    ``app_key_id`` is the fingerprint of the app key it belongs to, ``environment`` production or paper; both None when
    nobody said.
    """

    value: str = field(repr=False)
    expires_at: datetime
    issued_at: datetime
    version: int | None = None
    app_key_id: str | None = None
    environment: str | None = None

    @property
    def token_id(self) -> str:
        """The fingerprint by which tokens are compared without being shown."""
        return fingerprint(self.value)

    def remaining(self, now: datetime) -> timedelta:
        """How long it still lives; negative when it is dead."""
        return self.expires_at - now

    def is_valid(self, now: datetime) -> bool:
        """Whether it can still be used: it is fresh or stale."""
        return self.remaining(now) >= LEAST_USEFUL

    def is_new(self, now: datetime) -> bool:
        """Whether KIS made it for the call that just brought it. For 6 hours it gives the same one, whoever asks."""
        return self.issued_at > now - JUST_NOW

    def state(self, now: datetime, min_validity: timedelta) -> State:
        """Fresh has more life left than ``min_validity``; stale has less, but enough to be used; expired has not."""
        remaining = self.remaining(now)
        if remaining > max(min_validity, LEAST_USEFUL):
            return State.FRESH
        return State.STALE if self.is_valid(now) else State.EXPIRED

    def to_json(self, **further: str) -> str:
        """The form in which it is stored: clients written against the guide read the first three members."""
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
    """Key and secret of one KIS account. ``slot`` is where they are stored; None for those that the caller gave."""

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
    # JSON can hold half a surrogate pair, which has no UTF-8 form.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def looks_like_token(text: str) -> bool:
    """Whether ``text`` has the shape of a token. What has not must not be masked: "1" would shred the log."""
    return _TOKEN_SHAPE.fullmatch(text) is not None


def parse_instant(value: object) -> datetime:
    """A point in time as clients have written it: ISO 8601 with ``Z``, an offset or neither, or epoch seconds.

    A time without an offset is taken as Korea time: on the machines where such times come from it is either that or
    UTC, and of the two it is the earlier. So a dead token never looks alive. Raises ValueError for anything else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("not a time")  # noqa: TRY004 - one kind of error for "cannot be read"
    text = value.strip()
    try:
        if _EPOCH.fullmatch(text):
            return datetime.fromtimestamp(float(text), timezone.utc)
        match = _INSTANT.fullmatch(text)
        if match is None:
            raise ValueError("not a time")
        year, month, day, hour, minute, second, fraction, offset = match.groups()
        naive = datetime(  # noqa: DTZ001 - its zone follows in the next line
            int(year), int(month), int(day), int(hour), int(minute), int(second or 0), int(f"{fraction or 0:0<6}"[:6])
        )
        return _in_utc(naive.replace(tzinfo=_parse_offset(offset)))
    except OverflowError as error:
        raise ValueError("not a time") from error


def instant_or_none(value: object) -> datetime | None:
    """The same; None for anything else."""
    try:
        return parse_instant(value)
    except ValueError:
        return None


def parse_kst(text: str) -> datetime:
    """``YYYY-MM-DD HH:MM:SS`` in Korea time, as KIS writes it. Raises ValueError for anything else."""
    return _in_utc(datetime.strptime(text.strip(), "%Y-%m-%d %H:%M:%S").replace(tzinfo=KST))


def in_both_zones(moment: datetime) -> str:
    """A moment for people, in Korea time and in UTC."""
    return f"{moment.astimezone(KST):%Y-%m-%d %H:%M:%S} KST ({moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC)"


def in_hours(span: timedelta) -> str:
    """A length of time for people, in hours and whole minutes. It is not negative."""
    minutes = span // timedelta(minutes=1)
    return f"{minutes // 60} h {minutes % 60} min"


def claimed_time(claims: dict[str, object], name: str) -> datetime | None:
    """A time among a token's claims, which is a number there; None when there is none that can be read."""
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
    """A token that ends at the earliest of ``expiries`` and of what it says itself.

    Its own claims win for ``issued_at`` and for the app key. Raises TokenUnusable when ``value`` does not look like a
    token or nothing says when it ends.
    """
    if not looks_like_token(value):
        raise TokenUnusable("The value has not the form of a token")
    claims = parse_claims(value)
    own_expiry, own_issue, own_key = claimed_time(claims, "exp"), claimed_time(claims, "iat"), claims.get("jti")
    ends = [*expiries, *([own_expiry] if own_expiry else [])]
    if not ends:
        raise TokenUnusable("Nothing says when the token ends")
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
    """The members of a stored token's JSON, of which ``access_token`` is a text. Raises TokenUnusable."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or not isinstance(data.get("access_token"), str):
        raise TokenUnusable("The stored value is not JSON with a member access_token")
    return data


def parse_stored(text: str, *, column: object = None, version: int | None = None) -> Token:
    """A token from its stored JSON and the ``expires_at`` column beside it.

    The earliest expiry of column, JSON and token wins: the column has been written with Korea times without an offset.
    Raises TokenUnusable when the JSON is broken or holds no usable token.
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
    """``moment`` in UTC. Raises ValueError for "never" and "always": on the calendar's edge no sum is possible."""
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
