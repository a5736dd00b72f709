"""The key of a Supabase project as a value: one part for a key with write access, two for a read-only key."""

from __future__ import annotations

import pytest

from kis_token.settings.supabase_project import SupabaseKey
from tests.support import SERVICE_KEY, make_settings

PUBLIC, JWT = "sb_publishable_opaque-0123456789", "header.claims-of-the-role.signature"


def test_key_that_may_write_opens_gateway_and_postgrest() -> None:
    """A key of one word is sent unchanged in both headers."""
    key = SupabaseKey.parse(SERVICE_KEY)
    assert (key.reads_only, key.parts) == (False, (SERVICE_KEY,))
    assert key.headers() == {"apikey": SERVICE_KEY, "Authorization": f"Bearer {SERVICE_KEY}"}


def test_read_only_key_has_a_part_for_each() -> None:
    """The gateway gets the public key of a read-only key, and PostgREST gets the JWT of this key."""
    key = SupabaseKey.parse(f"{PUBLIC} {JWT}")
    assert (key.reads_only, key.parts) == (True, (PUBLIC, JWT))
    assert key.headers() == {"apikey": PUBLIC, "Authorization": f"Bearer {JWT}"}


@pytest.mark.parametrize("text", [SERVICE_KEY, f"{PUBLIC} {JWT}"], ids=["writes", "reads"])
def test_key_is_shown_by_no_repr(text: str) -> None:
    """The repr of a key, and the repr of settings with the key, show no part of the key."""
    key = SupabaseKey.parse(text)
    shown = f"{key!r}" + f"{make_settings(SUPABASE_SERVICE_ROLE_KEY=SERVICE_KEY)!r}"
    assert not any(part in shown for part in (*key.parts, SERVICE_KEY))
