"""Keys for the tests of settings."""

from __future__ import annotations

import base64
import json

from tests.support import ACCOUNT

SEALING_KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.urlsafe_b64encode(bytes(range(224, 256))).decode()
KEYS = {"KIS_APP_KEY": ACCOUNT.app_key, "KIS_APP_SECRET": ACCOUNT.app_secret}


def supabase_jwt(payload: object) -> str:
    """A key of Supabase in the older form, a JWT with ``payload``."""
    return f"eyJhbGciOiJIUzI1NiJ9.{base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip('=')}.c2ln"


READER_JWT = supabase_jwt({"role": "kis_token_reader"})
