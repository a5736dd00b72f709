"""``kis-token init`` at a real terminal: it shows each prompt and no secret, and reads a whole paste."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.command import PROGRAM, Terminal, clean
from tests.leaks import LEAKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.github_network import GitHubNetwork
    from tests.setup.conftest import Laptop

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="terminals of this kind are POSIX's"),
    pytest.mark.usefixtures("plain_network"),
]

URL = b"Supabase project URL, or the address of the project's dashboard: "
SECRET_KEY = b"Supabase secret key: "
APP_KEY = b"KIS app key (or the path of a kis_devlp.yaml): "
APP_SECRET = b"KIS app secret: "
LAST_DAY = b"Last day of these keys at KIS, in Korea (Enter for 20"
PUBLIC_KEY = b"Supabase public key: "
REPOSITORY = b"GitHub repository for the workflows, OWNER/REPO (Enter for none): "
WAITING = b"Waiting until the SQL has been run."
KEEP = b"Keep URL, key and slot on this machine for later commands? f for a private file, n for no [f]: "
FIRST_TOKEN = b"The first token is ready."


class Session:
    """A user at a terminal in which the command runs. ``answers`` is the number of lines that were typed or pasted."""

    def __init__(self, laptop: Laptop, terminal: Terminal, *arguments: str, **env: str) -> None:
        self.terminal = terminal
        self.answers = 0
        self.seen = b""
        self._place = 0
        self.child = subprocess.Popen(
            [*PROGRAM, "init", *arguments],
            cwd=laptop.repository,
            env=clean(laptop.empty | env),
            stdin=terminal.inside,
            stdout=terminal.inside,
            stderr=terminal.inside,
            start_new_session=True,
        )

    def wait_for(self, text: bytes) -> None:
        """Wait until ``text`` is on the screen, after the text for which the last call waited."""
        while text not in self.seen[self._place :]:
            self.seen += self.terminal.read()
        self._place = self.seen.index(text, self._place) + len(text)

    def answer(self, prompt: bytes, text: str) -> None:
        """Wait for a prompt, and type or paste one answer."""
        self.wait_for(prompt)
        self.paste(text)

    def paste(self, text: str) -> None:
        """Paste one answer, of one line or several."""
        self.answers += 1
        self.terminal.type(f"{text}\n")

    def end(self) -> str:
        """Wait until the command has ended with status 0, and return all text that was on the screen."""
        status = self.child.wait(120)
        self.seen += self.terminal.rest()
        screen = self.seen.decode().replace("\r\n", "\n")
        LEAKS.hear("the screen of kis-token init", screen)
        assert status == 0, screen
        return screen


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Open a terminal for one child."""
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_five_answers_and_one_paste(laptop: Laptop, terminal: Terminal, network: GitHubNetwork) -> None:
    """Five answers and one paste of SQL lead to the first token, and no secret is on the screen or in GitHub."""
    laptop.use_git("https://github.com/acme/bot.git")
    laptop.install_gh()
    session = Session(laptop, terminal)

    session.answer(URL, laptop.project["SUPABASE_URL"])
    session.answer(SECRET_KEY, laptop.sandbox.service_key)
    session.wait_for(WAITING)
    laptop.paste_sql()
    session.answer(APP_KEY, laptop.account.app_key)
    session.answer(APP_SECRET, laptop.account.app_secret)
    session.answer(LAST_DAY, "")
    session.wait_for(FIRST_TOKEN)
    to_the_first_token = session.answers
    session.answer(PUBLIC_KEY, laptop.sandbox.anon_key)
    session.answer(KEEP, "")
    screen = session.end()

    assert to_the_first_token == 5
    assert laptop.sandbox.service_key not in screen
    assert laptop.account.app_secret not in screen
    assert "Query has destructive operations" in screen
    assert "(180 characters)" in screen
    first, second = screen.splitlines()[-2:]
    assert ("token: oauth, " in first, "token: supabase, the same token" in second) == (True, True)
    assert laptop.gh_has("variable")["SUPABASE_URL"] == laptop.sandbox.supabase.url
    assert laptop.sandbox.kis.counts("production").calls == 1
    assert network.asked


def test_second_run_asks_nothing(laptop: Laptop, terminal: Terminal, network: GitHubNetwork) -> None:
    """In a new terminal, a second run asks no question: profile, database and repository have all answers."""
    laptop.install_gh()
    laptop.make_tables()
    given = ("--repository", "acme/bot")
    keys = {**laptop.keys, "SUPABASE_PUBLISHABLE_KEY": laptop.sandbox.anon_key}
    laptop.init(*given, **keys)
    laptop.paste_sql()
    laptop.init(*given, "--keep", "file", **keys)

    screen = Session(laptop, terminal, *given).end()

    results = [line.split("m")[1].split()[0] for line in screen.splitlines() if line.startswith("\x1b[")]
    assert set(results) == {"ok"}
    assert laptop.sandbox.kis.counts("production").calls == 1
    assert network.asked


def test_without_gh(laptop: Laptop, terminal: Terminal, network: GitHubNetwork) -> None:
    """Without gh, the command does not ask for the public key: a printed command for the user asks for it."""
    laptop.make_tables()
    env = laptop.project | laptop.keys
    laptop.init("--repository", "acme/bot", SUPABASE_PUBLISHABLE_KEY=laptop.sandbox.anon_key, **laptop.keys)
    laptop.paste_sql()
    session = Session(laptop, terminal, "--repository", "acme/bot", "--keep", "no", **env)

    session.answer(LAST_DAY, "")
    screen = session.end()

    assert f"gh variable set SUPABASE_URL --repo acme/bot --body {laptop.sandbox.supabase.url}\n" in screen
    assert "gh variable set SUPABASE_PUBLISHABLE_KEY --repo acme/bot\n" in screen
    assert "https://github.com/acme/bot/settings/variables/actions" in screen
    assert network.asked


def test_paste_before_its_questions(ready_laptop: Laptop, terminal: Terminal) -> None:
    """If all lines are pasted at the first question, they answer all questions, and no secret is shown."""
    keys = (ready_laptop.account.app_key, ready_laptop.account.app_secret)
    session = Session(ready_laptop, terminal, "--with-secret")

    session.answer(
        URL,
        "\n".join(
            (
                f"SUPABASE_URL={ready_laptop.sandbox.supabase.url}",
                f"SUPABASE_SERVICE_ROLE_KEY='{ready_laptop.sandbox.service_key}'",
                "",  # no repository
                *keys,
                "2099-01-01",
                "n",
            )
        ),
    )
    screen = session.end()

    assert [secret for secret in (*keys, ready_laptop.sandbox.service_key) if secret in screen] == []
    assert ready_laptop.slot["app_key"] == keys[0]
    assert "last day 2099-01-01 in Korea" in screen
    assert "not written: no repository was named" in screen
    assert not (ready_laptop.repository / ".github").exists()


def test_wrong_answers_are_asked_again(ready_laptop: Laptop, terminal: Terminal) -> None:
    """After a wrong answer, the command shows the error at once and asks again.

    If a pasted answer is wrong, the rest of the paste is dropped.
    """
    account = ready_laptop.account
    other = ready_laptop.sandbox.kis.accounts["production"][1]
    session = Session(ready_laptop, terminal, "--with-secret", "--repository", "acme/bot")

    session.answer(URL, f"{ready_laptop.sandbox.service_key}\n{ready_laptop.sandbox.supabase.url}")
    session.wait_for(b"is a key: are supabase-url and supabase-key swapped?")
    session.wait_for(b"The remaining pasted lines were dropped.")
    session.answer(URL, "https://supabase.com/dashboard/projects")
    session.wait_for(b"is the dashboard's address, without a project's name")
    session.answer(URL, ready_laptop.sandbox.supabase.url)
    session.answer(SECRET_KEY, ready_laptop.sandbox.anon_key)
    session.wait_for(b"[anon-supabase-key]")
    session.answer(SECRET_KEY, "sb_secret_of_another_project")
    session.wait_for(b"[store-key-rejected]")
    session.answer(SECRET_KEY, ready_laptop.sandbox.service_key)
    session.answer(APP_KEY, account.app_secret)
    session.wait_for(b"[swapped-app-key]")
    session.answer(APP_KEY, account.app_key)
    session.answer(APP_SECRET, account.app_secret[:-1])
    session.wait_for(b"[invalid-app-secret]")
    session.answer(APP_SECRET, other.app_secret)
    session.wait_for(b"[kis-")  # KIS refuses the pair
    session.answer(APP_KEY, account.app_key)
    session.answer(APP_SECRET, account.app_secret)
    session.answer(LAST_DAY, "2020-01-01")
    session.wait_for(b"Enter a day that has not passed, as YYYY-MM-DD.")
    session.answer(LAST_DAY, "2099-12-31")
    session.answer(KEEP, "perhaps")
    session.answer(KEEP, "no")
    screen = session.end()

    secrets = (account.app_key, account.app_secret, other.app_secret, ready_laptop.sandbox.service_key)
    assert [secret for secret in secrets if secret in screen] == []
    assert ready_laptop.sandbox.kis.counts("production").calls == 1


def test_existing_file_is_replaced_after_a_yes(ready_laptop: Laptop, terminal: Terminal) -> None:
    """If a workflow has other contents, the command asks. The answer "y" replaces the file, and Enter keeps it."""
    for name in ("quote.yml", "rotate-token.yml"):
        ready_laptop.workflow(name).parent.mkdir(parents=True, exist_ok=True)
        ready_laptop.workflow(name).write_text("name: mine\n")
    env = ready_laptop.project | ready_laptop.keys
    session = Session(ready_laptop, terminal, "--with-secret", "--repository", "acme/bot", **env)

    session.answer(LAST_DAY, "")
    session.answer(b"quote.yml has other contents. Replace it? [y/N]: ", "y")
    session.answer(b"rotate-token.yml has other contents. Replace it? [y/N]: ", "")
    session.answer(KEEP, "n")
    session.end()

    assert "org/kis-token-action@v1" in ready_laptop.workflow("quote.yml").read_text()
    assert ready_laptop.workflow("rotate-token.yml").read_text() == "name: mine\n"


@pytest.mark.parametrize("is_found", [True, False], ids=["found", "named"])
def test_keys_of_the_official_samples(ready_laptop: Laptop, terminal: Terminal, *, is_found: bool) -> None:
    """The keys come from the samples' kis_devlp.yaml. Enter chooses the usual file, and a path chooses another file."""
    account, home = ready_laptop.account, ready_laptop.folder / "home"
    folder = home / "KIS" / "config" if is_found else ready_laptop.folder
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ("kis_devlp.yaml" if is_found else "other.yaml")
    file.write_text(
        f'# 홈페이지\nmy_app: "{account.app_key}"\nmy_sec: "{account.app_secret}"\n\npaper_app: "모의투자 앱키"\n'
    )
    file.chmod(0o600)
    session = Session(ready_laptop, terminal, "--with-secret", "--repository", "acme/bot", **ready_laptop.project)

    if is_found:
        session.answer(b"KIS app key (Enter for the app key in ", "")
    else:
        session.answer(APP_KEY, str(file))
    session.answer(LAST_DAY, "")
    session.answer(KEEP, "n")
    session.end()

    assert ready_laptop.slot["app_secret"] == account.app_secret
    file.unlink()


def test_interrupt_restores_the_terminal(ready_laptop: Laptop, terminal: Terminal) -> None:
    """Ctrl-C at a question ends the command with status 130. After Ctrl-C, the terminal shows typed text again."""
    import termios

    before = termios.tcgetattr(terminal.inside)
    session = Session(ready_laptop, terminal)
    session.wait_for(URL)
    during = termios.tcgetattr(terminal.inside)
    session.terminal.type("\x03")
    session.child.send_signal(2)  # a real terminal sends this signal itself, but only to its own session

    assert session.child.wait(60) == 130
    assert not during[3] & termios.ECHO
    assert termios.tcgetattr(terminal.inside) == before
