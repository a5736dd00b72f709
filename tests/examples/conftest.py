"""Fixtures for the tests of examples."""

from __future__ import annotations

from tests.workflows.conftest import project

__all__ = ["project"]
