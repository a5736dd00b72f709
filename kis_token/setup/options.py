"""The options of ``kis-token init``, and the data of one run that all steps use."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kis_token.config import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kis_token.core.ports import Clock
    from kis_token.setup.dialogue import Dialogue
    from kis_token.setup.keep import Choice


@dataclass(frozen=True, slots=True)
class Options:
    """``repository`` and ``keep`` are None if they were not given. If ``is_dry`` is true, this run changes nothing."""

    directory: Path
    repository: str | None = None
    with_secret: bool = False
    keep: Choice | None = None
    is_dry: bool = False


@dataclass
class Setup:
    """One run of init: the variables, the options, and the user's answers so far. The repr shows no variable."""

    env: Mapping[str, str] = field(repr=False)
    options: Options
    dialogue: Dialogue
    clock: Clock
    answers: dict[str, str] = field(default_factory=dict, repr=False)

    def settings(self, **answers: str) -> Settings:
        """Read the settings from the variables and from the user's answers so far. ``answers`` take precedence.

        The keyword arguments ``answers`` have the names of the action's inputs. Raises SettingsError.
        """
        return Settings.from_env({**self.env, **self.answers, **_inputs(answers)})

    def path(self, text: str) -> Path:
        """Return the path that ``text`` names. If the home folder is known, "~" means the home folder."""
        try:
            return Path(text).expanduser()
        except RuntimeError:
            return Path(text)

    def remember(self, **answers: str) -> None:
        """Keep ``answers``, keyword arguments with the names of the action's inputs, for the rest of the run."""
        self.answers |= _inputs(answers)


def _inputs(answers: Mapping[str, str]) -> dict[str, str]:
    return {f"INPUT_{name.upper()}": value for name, value in answers.items()}
