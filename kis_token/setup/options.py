"""The options of ``kis-token init``, and the parts that all its steps use."""

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
    """``repository`` and ``keep`` are None if they were not given. With ``is_dry``, this run changes nothing."""

    directory: Path
    repository: str | None = None
    with_secret: bool = False
    keep: Choice | None = None
    is_dry: bool = False


@dataclass
class Setup:
    """One run: the variables of the caller, the user's answers so far, the options. The repr shows no variable."""

    env: Mapping[str, str] = field(repr=False)
    options: Options
    dialogue: Dialogue
    clock: Clock
    answers: dict[str, str] = field(default_factory=dict, repr=False)

    def settings(self, **answers: str) -> Settings:
        """The settings of the variables and of all answers; ``answers``, by the inputs' names, win.

        Raises SettingsError.
        """
        return Settings.from_env({**self.env, **self.answers, **_inputs(answers)})

    def path(self, text: str) -> Path:
        """The path that a user's text names; "~" is the user's home folder, if that is known."""
        try:
            return Path(text).expanduser()
        except RuntimeError:
            return Path(text)

    def remember(self, **answers: str) -> None:
        """Keep answers for the rest of the run, by the inputs' names."""
        self.answers |= _inputs(answers)


def _inputs(answers: Mapping[str, str]) -> dict[str, str]:
    return {f"INPUT_{name.upper()}": value for name, value in answers.items()}
