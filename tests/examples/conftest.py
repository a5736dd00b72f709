"""What the tests of examples share."""

from __future__ import annotations

from tests.workflows.conftest import project

__all__ = ["project"]
