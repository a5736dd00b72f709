"""Everything a job talks to, on one machine and without an account: the KIS emulator, and a whole sandbox around it."""

from __future__ import annotations

from kis_token.sandbox.emulator import KISEmulator
from kis_token.sandbox.kis_rules import Account
from kis_token.sandbox.loopback import Fault
from kis_token.sandbox.whole import Sandbox

__all__ = ["Account", "Fault", "KISEmulator", "Sandbox"]
