"""The findings of ``kis-token check`` about app key and secret: their source, their slots, and their last day."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kis_token.admin.finding import Finding, note, ok, wrong, wrong_as
from kis_token.config import ENVIRONMENTS, Settings
from kis_token.core.app_key_expiry import RENEWAL, last_day_of, warn_of_key_end
from kis_token.core.slot import KEY_TYPES, TOKEN_TYPE, given_app_key, stored_app_key
from kis_token.errors import KisTokenError, StoreMisconfigured, TokenError
from kis_token.settings.pasted_values import pasted, unusual_lengths
from kis_token.token import AppKey, instant_or_none

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from kis_token.core.ports import Vault
    from kis_token.core.slot import Slot
    from kis_token.store.supabase import SupabaseStore


@dataclass
class Opened:
    """The slot's unsealed values by type, and the app key that is used. The repr shows no value."""

    values: dict[str, str] = field(default_factory=dict, repr=False)
    app_key: AppKey | None = field(default=None, repr=False)


def examine_keys(slot: Slot, settings: Settings, vault: Vault, opened: Opened) -> Iterator[Finding]:
    """Check the stored and the given app key. Sets ``opened.app_key`` to the stored app key, or to the given one."""
    given = given_app_key(settings)
    try:
        stored = stored_app_key(slot, settings, vault)
    except TokenError:
        return  # the finding "sealing" reports the error
    except StoreMisconfigured as error:
        yield wrong("app key", f"{error.args[0]}", "Run kis-token set-keys.", error.code)
        return
    opened.app_key = stored or given
    if stored is not None and given not in (None, stored):
        yield wrong(
            "app key",
            f"the given key is not used, because it differs from the stored key of {settings.service_name}",
            "Remove KIS_APP_KEY and KIS_APP_SECRET, or store them with kis-token set-keys.",
        )
    elif stored is not None:
        end = instant_or_none(slot.rows["app_key"].expires_at)
        last_day = "" if end is None else f", last day {last_day_of(end)} in Korea"
        yield ok("app key", "stored" + (", and equal to the given key" if given else "") + last_day)
    elif given is None:
        said = "no app key: Supabase lacks the app key, the app secret or both, and no keys were passed in"
        yield wrong_as("app key", KisTokenError("missing-app-key", said))
    elif any(pasted(opened.values.get(name, "")) for name in KEY_TYPES):
        said = "app key and app secret are given, but Supabase has only one of the two"
        yield note("app key", said, "Run kis-token set-keys.")
    else:
        yield ok("app key", "given, not stored")
    lengths = unusual_lengths(opened.app_key.key, opened.app_key.secret) if opened.app_key is not None else ""
    if lengths:
        yield note("app key", lengths, "Compare the keys with the KIS developers' site.")


def examine_other_slots(store: SupabaseStore, settings: Settings, opened: Opened, now: datetime) -> Iterator[Finding]:
    """Find other slots with the same app key. Check the environment that is recorded for this slot's app key."""
    try:
        found = store.issuance_status(None, 0)
    except StoreMisconfigured:
        return  # the finding "tables" reports the error
    valid = {
        row["service_name"]
        for row in found["rows"]
        if row["credential_type"] == TOKEN_TYPE and row["is_active"] and _ends_after(row["expires_at"], now)
    }
    for lease in found["leases"]:
        is_other = lease["service_name"] != settings.service_name and lease["service_name"] in valid
        if is_other and opened.app_key is not None and lease["app_key_id"] == opened.app_key.key_id:
            said = f"the slot {lease['service_name']} has a valid token of this app key"
            yield wrong_as("app key", KisTokenError("key-in-two-slots", said))
    recorded = {
        row["environment"]
        for row in found["rows"]
        if row["service_name"] == settings.service_name and row["credential_type"] == "app_key" and row["is_active"]
    } & set(ENVIRONMENTS)
    if recorded == {settings.environment}:
        yield ok("environment", f"the stored key is recorded as a key for {settings.environment}")
    elif recorded:
        said = f"the stored key is recorded as a key for {recorded.pop()}, but the setting is {settings.environment}"
        remedy = "Correct KIS_ENVIRONMENT or KIS_SERVICE_NAME, or run kis-token set-keys."
        # Another client may store a key for paper accounts without a value for the column ``environment``. The column
        # ``environment`` in the row of such a key has the default value, which is "production".
        judge = wrong if settings.environment == "production" else note
        yield judge("environment", said, remedy)


def _ends_after(column: object, now: datetime) -> bool:
    end = instant_or_none(column)
    return end is not None and end > now


def examine_key_end(slot: Slot, service_name: str, opened: Opened, now: datetime) -> Iterator[Finding]:
    """Yield a note if the app key's stored last day is near or has passed.

    The day on which the app key expires at KIS may differ from the stored last day.
    """
    if not pasted(opened.values.get("app_key", "")):
        return
    said = warn_of_key_end(service_name, instant_or_none(slot.rows["app_key"].expires_at), now)
    if said:
        yield note("app key", said, RENEWAL)
