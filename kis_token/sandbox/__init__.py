"""Emulates KIS and Supabase on one machine, without an account, for trials and for tests of programs.

    from kis_token.sandbox import Sandbox

    with Sandbox() as sandbox:
        subprocess.run([...], env=sandbox.environment(os.environ))
        print(sandbox.kis.counts("production").issues)

`Sandbox` has all parts: the KIS emulator, the Supabase emulator, and a PostgreSQL with this project's tables and the
keys of two made-up accounts. `KISEmulator` emulates only KIS. For pytest there are the fixtures ``kis_sandbox`` and
``kis_emulator`` (`pytest_plugin`). The command ``kis-token sandbox`` runs a `Sandbox`. docs/sandbox.md lists the parts
that the sandbox emulates, and the parts that it omits.

`Sandbox` needs the extra ``sandbox``: ``pip install 'kis-token[sandbox]'``. All other names of this package work
without the extra ``sandbox``. If kis-token is installed, pytest imports this package in every project. So this package
loads a module only when a name of that module is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kis_token.sandbox.emulator import Counts, KISEmulator, SeenRequest
    from kis_token.sandbox.github_issuer import GitHubIssuer
    from kis_token.sandbox.kis_http import APPROVAL_PATH, PRICE_PATH, REVOKE_PATH, TOKEN_PATH, error_response
    from kis_token.sandbox.kis_rules import Account, Clock, Environment, Settings
    from kis_token.sandbox.loopback import Fault, LoopbackServer, Response
    from kis_token.sandbox.sandbox import Sandbox

__all__ = [
    "APPROVAL_PATH",
    "PRICE_PATH",
    "REVOKE_PATH",
    "TOKEN_PATH",
    "Account",
    "Clock",
    "Counts",
    "Environment",
    "Fault",
    "GitHubIssuer",
    "KISEmulator",
    "LoopbackServer",
    "Response",
    "Sandbox",
    "SeenRequest",
    "Settings",
    "error_response",
]

_HOMES = {
    "emulator": ("Counts", "KISEmulator", "SeenRequest"),
    "github_issuer": ("GitHubIssuer",),
    "kis_http": ("APPROVAL_PATH", "PRICE_PATH", "REVOKE_PATH", "TOKEN_PATH", "error_response"),
    "kis_rules": ("Account", "Clock", "Environment", "Settings"),
    "loopback": ("Fault", "LoopbackServer", "Response"),
    "sandbox": ("Sandbox",),
}


if not TYPE_CHECKING:  # because of this function, a type checker would accept any name

    def __getattr__(name: str) -> object:
        for home, names in _HOMES.items():
            if name in names:
                return getattr(importlib.import_module(f"{__name__}.{home}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
