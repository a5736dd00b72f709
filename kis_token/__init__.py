"""One KIS access token a day, shared by every job and every machine.

The names of this module are the public interface, and stay the same. A name's module is imported at the first use of
the name, so importing the package is fast.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kis_token.client.credential_manager import (
        SupabaseCredentialManager,
        get_kis_credentials_from_supabase,
        get_kis_token_from_supabase,
        get_kis_valid_token_from_supabase,
        get_supabase_manager,
        save_kis_token_to_supabase,
    )
    from kis_token.client.get_token import get_token
    from kis_token.client.httpx_auth import KISAuth
    from kis_token.client.kis_client import KISClient
    from kis_token.errors import (
        GitHubError,
        IssuanceError,
        IssuerError,
        IssuerOutage,
        IssuerRateLimited,
        IssuerRefused,
        KisTokenError,
        SettingsError,
        StoreError,
        StoreMisconfigured,
        StoreOutage,
        TokenError,
        TokenRefreshLimitError,
        TokenUnusable,
    )
    from kis_token.token import Token

__all__ = [
    "GitHubError",
    "IssuanceError",
    "IssuerError",
    "IssuerOutage",
    "IssuerRateLimited",
    "IssuerRefused",
    "KISAuth",
    "KISClient",
    "KisTokenError",
    "SettingsError",
    "StoreError",
    "StoreMisconfigured",
    "StoreOutage",
    "SupabaseCredentialManager",
    "Token",
    "TokenError",
    "TokenRefreshLimitError",
    "TokenUnusable",
    "get_kis_credentials_from_supabase",
    "get_kis_token_from_supabase",
    "get_kis_valid_token_from_supabase",
    "get_supabase_manager",
    "get_token",
    "save_kis_token_to_supabase",
]

#: The module that defines each public name. This table does not contain the error classes.
_HOMES = {
    "KISAuth": "client.httpx_auth",
    "KISClient": "client.kis_client",
    "SupabaseCredentialManager": "client.credential_manager",
    "Token": "token",
    "get_kis_credentials_from_supabase": "client.credential_manager",
    "get_kis_token_from_supabase": "client.credential_manager",
    "get_kis_valid_token_from_supabase": "client.credential_manager",
    "get_supabase_manager": "client.credential_manager",
    "get_token": "client.get_token",
    "save_kis_token_to_supabase": "client.credential_manager",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
