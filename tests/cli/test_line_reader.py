"""The line reader: keys, pastes, and the text on the screen. tests/setup tests the line reader in a real terminal."""

from __future__ import annotations

import io

import click
import pytest

from kis_token.cli.line_reader import LineReader


class ScriptedReader(LineReader):
    """A reader whose terminal sends the texts ``sent``, one for each read."""

    def __init__(self, *sent: str) -> None:
        self.screen = io.StringIO()
        super().__init__(self.screen)
        self._sent = list(sent)

    def _more(self) -> str:
        return self._sent.pop(0)

    def _pending(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (("abc\n",), "abc"),
        (("a", "b", "c", "\r"), "abc"),
        (("abx\x7fc\r\n",), "abc"),
        (("abx\b", "\x7f\x7f\x7f", "abc\n"), "abc"),
        (("wrong\x15abc\n",), "abc"),
        (("a\x1b[Db\x1b", "[200~c\x1b[201", "~\n"), "abc"),
        (("한글\n",), "한글"),
        (("a\tb\n",), "a\tb"),
        (("\n",), ""),
    ],
    ids=["whole", "keys", "backspace", "too many", "Ctrl-U", "arrows and pastes", "Korean", "tab", "Enter"],
)
@pytest.mark.parametrize("is_hidden", [True, False], ids=["hidden", "visible"])
def test_keys(sent: tuple[str, ...], line: str, *, is_hidden: bool) -> None:
    """The returned line has the typed text after all corrections."""
    assert ScriptedReader(*sent).read("? ", is_hidden=is_hidden) == line


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
def test_paste_of_several_lines(end: str) -> None:
    """Each pasted line answers the next question, and is not shown before its question."""
    reader = ScriptedReader(end.join(("one", "sb_secret_two", "three", "")))

    assert reader.read("1: ") == "one"
    assert "two" not in reader.screen.getvalue()
    assert (reader.read("2: ", is_hidden=True), reader.read("3: ")) == ("sb_secret_two", "three")
    assert "two" not in reader.screen.getvalue()
    assert "(13 characters)" in reader.screen.getvalue()
    assert not reader.drop()


def test_dropped_lines() -> None:
    """``drop`` removes the other lines of a paste. The next question gets the next input."""
    reader = ScriptedReader("wrong\nsecond\nthird\n", "right\n")

    assert (reader.read("1: "), reader.drop(), reader.read("1: ")) == ("wrong", True, "right")
    assert "second" not in reader.screen.getvalue()


@pytest.mark.parametrize(
    "secret",
    ["sb_secret_abc", "eyJhbGciOi.x.y", "PSabcdefghijklmnopqrstuvwxyz01234567", "A1+/" * 45],
    ids=["secret key", "JWT", "app key", "app secret"],
)
def test_secret_at_a_visible_question(secret: str) -> None:
    """If a secret is pasted at a question with visible input, the secret is shown as bullets."""
    reader = ScriptedReader(f"{secret}\n")

    assert reader.read("URL: ") == secret
    assert secret not in reader.screen.getvalue()
    assert "\u2022" * len(secret) in reader.screen.getvalue()


def test_url_is_shown() -> None:
    """A URL is shown, although its long project name could look like a secret."""
    url = "https://abcdefghijklmnopqrst.supabase.co"
    reader = ScriptedReader(f"{url}\n")
    reader.read("URL: ")

    assert reader.screen.getvalue() == f"URL: {url}\n"


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_end_of_the_dialogue(key: str) -> None:
    """Ctrl-C ends the dialogue, and so does Ctrl-D in an empty line."""
    with pytest.raises(click.Abort):
        ScriptedReader(key).read("? ")
