"""A KIS whose answer the test chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kis_token.kis import api as kis_module
from kis_token.kis import session as kis_session
from kis_token.sandbox.loopback import Response
from tests.kis.scripted_kis import ScriptedKIS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def scripted() -> Iterator[ScriptedKIS]:
    """A server whose answer the test chooses."""
    with ScriptedKIS(Response(200)) as server:
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short limits for a call, so that a silent server costs little time."""
    monkeypatch.setattr(kis_session, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(kis_module, "ISSUE_SECONDS", 0.6)
