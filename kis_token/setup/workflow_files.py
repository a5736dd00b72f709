"""The two workflows of a new repository: one asks KIS for a price, and one rotates the token each night.

The workflows' texts are in docs/examples/init, so the tests of the examples run the same files that a user gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kis_token.config import DEFAULT_SERVICES
from kis_token.errors import EnvironmentFault

if TYPE_CHECKING:
    from kis_token.config import Settings

#: The file names of the workflows in the repository. For each workflow, there are two example files. The first
#: file is for a repository that stores no key, and the second file is for a repository that stores a key.
EXAMPLES = {
    "quote.yml": ("quote.yml", "quote-with-secret.yml"),
    "rotate-token.yml": ("rotate-token.yml", "rotate-token-with-secret.yml"),
}
#: If the slot is not the default slot, `_for_slot` inserts the environment and the slot into the example file: after
#: the text _CALL or, if the file has no text _CALL, after the text _STEP.
_STEP = "        with:\n"
_CALL = "/.github/workflows/rotate-token.yml@v1\n"


@dataclass(frozen=True, slots=True)
class WorkflowFile:
    """The path and the text of one workflow."""

    path: Path
    text: str

    @property
    def shown(self) -> str:
        """The file's path in the repository."""
        return f".github/workflows/{self.path.name}"

    def state(self) -> Literal["missing", "same", "different"]:
        """Whether the file is missing, has this text, or has a different text."""
        try:
            found = self.path.read_bytes()
        except FileNotFoundError:
            return "missing"
        except OSError:  # the path is a folder or cannot be read
            return "different"
        return "same" if found.replace(b"\r\n", b"\n") == self.text.encode() else "different"

    def write(self) -> None:
        """Write the file, and make missing folders. Raises EnvironmentFault."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # If the path is a link to a missing file, the mode "xb" makes `open` fail. Without this failure, `open`
            # would make a file at the link's target, which may be outside the repository.
            with self.path.open("wb" if self.path.exists() else "xb") as file:
                file.write(self.text.encode())
        except OSError as error:
            raise EnvironmentFault(
                "file-unwritable", f"The workflow {self.shown} cannot be written ({error.strerror})"
            ) from error


def examples_folder() -> Path:
    """Return the folder of the example workflows: in the installed package or, in a Git checkout, in docs/."""
    package = Path(__file__).parents[1]
    shipped = package / "workflows"
    return shipped if shipped.is_dir() else package.parent / "docs" / "examples" / "init"


def workflow_files(directory: Path, settings: Settings, *, with_secret: bool) -> list[WorkflowFile]:
    """Return the workflows to write into the repository in ``directory``.

    The workflows use the environment and the slot of ``settings``.
    """
    folder, texts = directory / ".github" / "workflows", examples_folder()
    return [
        WorkflowFile(folder / name, _for_slot((texts / examples[with_secret]).read_text(encoding="utf-8"), settings))
        for name, examples in EXAMPLES.items()
    ]


def _for_slot(text: str, settings: Settings) -> str:
    """Insert environment and slot into ``text``, and return the result. If a value is the default, do not insert it."""
    named: dict[str, str] = {}
    if settings.environment != "production":
        named["environment"] = settings.environment
    if settings.service_name != DEFAULT_SERVICES[settings.environment]:
        named["service-name"] = settings.service_name
    if not named:
        return text
    if _CALL in text:
        given = ", ".join(f"{name}: {value}" for name, value in named.items())
        return text.replace(_CALL, f"{_CALL}    with: {{ {given} }}\n")
    return text.replace(_STEP, _STEP + "".join(f"          {name}: {value}\n" for name, value in named.items()))
