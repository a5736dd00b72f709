"""The parts that most commands share: the environment, the options that change it, and the resolution of a token."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kis_token.cli.terminal import Progress, say
from kis_token.config import ENVIRONMENTS, Settings
from kis_token.settings.environment import PROFILE, needs_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kis_token.core.resolution import Resolution
    from kis_token.local.profiles import Additions

_Command = TypeVar("_Command", bound="Callable[..., Any]")


@dataclass
class Caller:
    """A call of the command: its environment variables, start time and slot. The repr does not show the variables."""

    env: dict[str, str] = field(repr=False)
    started: float = field(default_factory=time.monotonic)
    service: str | None = None
    _additions: list[Additions | None] = field(default_factory=list, repr=False)

    def settings(self, **inputs: str) -> Settings:
        """Read the settings. ``inputs``, whose names have underscores, take precedence over the environment.

        Raises SettingsError.
        """
        given = {f"INPUT_{name.upper()}": value for name, value in inputs.items()}
        return Settings.from_env({**self.variables(), **given})

    def variables(self) -> Mapping[str, str]:
        """Return the environment with the variables that the user's profile adds. Raises SettingsError."""
        additions = self.additions()
        return self.env if additions is None else {**self.env, **additions.variables}

    def additions(self) -> Additions | None:
        """Return the variables that the user's profile adds, or None if no profile is needed or found.

        Raises SettingsError.
        """
        if not needs_profile(self.env):
            return None
        from kis_token.local.profiles import find_additions  # not needed if the environment variables are complete

        if not self._additions:  # The profile is read only once, because the keyring may ask the user at each read.
            self._additions.append(find_additions(self.env))
        return self._additions[0]

    def resolve(self, settings: Settings) -> Resolution:
        """Resolve a token in the settings' mode, and print warnings. Raises KisTokenError."""
        from kis_token.wiring import open_resolver

        with (
            Progress(sys.stderr, is_plain=self.env.get("TERM") == "dumb") as progress,
            open_resolver(settings, self.started, progress.tell) as resolver,
        ):
            resolution = resolver.resolve()
        for warning in resolution.warnings:
            say(f"warning: {warning}")
        return resolution


def slot_options(command: _Command) -> _Command:
    """Add --service, --environment and --profile. Each option takes precedence over the setting's variable."""

    def take_service(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            context.obj.service = value
            context.obj.env["INPUT_SERVICE_NAME"] = value

    service = click.option(
        "--service",
        metavar="NAME",
        callback=take_service,
        expose_value=False,
        help="The slot to use, instead of KIS_SERVICE_NAME.",
    )
    environment = click.option(
        "--environment",
        type=click.Choice(ENVIRONMENTS),
        callback=_into("INPUT_ENVIRONMENT"),
        expose_value=False,
        help="The KIS environment, instead of KIS_ENVIRONMENT.",
    )
    profile = click.option(
        "--profile",
        metavar="NAME",
        callback=_into(PROFILE),
        expose_value=False,
        help="The profile to use, instead of KIS_PROFILE. kis-token init makes profiles.",
    )
    return service(environment(profile(command)))


def _into(variable: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    """Return a callback that sets ``variable`` to the value of an option, if the option is given."""

    def take(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            context.obj.env[variable] = value

    return take
