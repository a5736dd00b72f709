"""The origin of each setting for ``kis-token check``: the command line, the environment, a profile or the default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.admin.finding import Finding, ok
from kis_token.settings.environment import SECRETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kis_token.local.profiles import Additions

#: The settings whose origin ``kis-token check`` shows, and their variables.
_SETTINGS = {
    "supabase-url": ("SUPABASE_URL",),
    "supabase-key": SECRETS["supabase-key"],
    "environment": ("KIS_ENVIRONMENT",),
    "service-name": ("KIS_SERVICE_NAME",),
}


def examine_sources(env: Mapping[str, str], additions: Additions | None) -> Finding:
    """Return a finding that names the origin of each setting.

    ``additions`` has the variables that the user's profile adds. ``env`` does not contain the variables of
    ``additions``.
    """
    found: dict[str, list[str]] = {}
    for setting, variables in _SETTINGS.items():
        found.setdefault(_source(env, additions, setting, variables), []).append(setting)
    said = "; ".join(f"{', '.join(settings)} from {source}" for source, settings in found.items())
    return ok("settings", said)


def _source(env: Mapping[str, str], additions: Additions | None, setting: str, variables: tuple[str, ...]) -> str:
    if env.get("INPUT_" + setting.upper().replace("-", "_"), "").strip():
        return "the command line"
    if any(env.get(name, "").strip() for name in variables):
        return "the environment"
    if additions is not None and any(name in additions.variables for name in variables):
        where = "the keyring" if additions.profile.place == "keyring" else "a private file"
        return f"the profile {additions.profile.name} ({where})"
    return "the default"
