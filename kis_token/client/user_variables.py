"""The variables of a program: those of its environment and, on a laptop, those that the user's profile adds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kis_token.settings.environment import needs_profile

if TYPE_CHECKING:
    from collections.abc import Mapping


def user_variables() -> Mapping[str, str]:
    """The environment of this process. If the environment lacks the project's URL or key, the profile adds them.

    Raises SettingsError.
    """
    if not needs_profile(os.environ):
        return os.environ
    from kis_token.local.profiles import completed

    return completed(os.environ)
