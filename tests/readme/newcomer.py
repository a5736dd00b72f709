"""A user on the first day, as a class whose methods do exactly the steps of the pages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import yaml

from tests.readme.page import codes_of
from tests.workflows.conftest import readable

if TYPE_CHECKING:
    from kis_token.sandbox import Sandbox
    from tests.github_network import GitHubNetwork
    from tests.workflows.conftest import Project

#: The commands of the set-up by hand, in the order of the page.
INSTALL, PROJECT, KEYS, CHECK, REPOSITORY, STORED_KEY, ACCOUNTS = codes_of("docs/ko/setup.md", "sh")


class Newcomer:
    """A user with a new project, a terminal and a repository. The user does exactly the steps of the page."""

    def __init__(self, project: Project, sandbox: Sandbox, network: GitHubNetwork) -> None:
        self.project = project
        self.sandbox = sandbox
        self.network = network
        account = sandbox.kis.accounts["production"][0]
        self.keys = (account.app_key, account.app_secret)
        # Stand-ins for programs that this machine may lack, or that would send requests to other machines.
        self._add_command("uv", '#!/bin/sh\ntest "$*" = "tool install kis-token"\n')
        gh = Path(__file__).with_name("gh.py").read_text(encoding="utf-8")
        self._add_command("gh", f"#!{sys.executable}\n{gh}")

    @property
    def github_secrets(self) -> dict[str, str]:
        """The secrets that the stand-in for gh has stored, or, after a run, the secrets of the last run."""
        return self._stored("secrets")

    @property
    def github_variables(self) -> dict[str, str]:
        """The variables that the stand-in for gh has stored."""
        return self._stored("variables")

    @property
    def variables(self) -> dict[str, str]:
        """The terminal's environment. KIS_BASE_URL replaces KIS's own host by the sandbox's host."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KIS_", "SUPABASE_"))}
        paths = (self.project.commands, Path(sys.executable).parent, os.environ["PATH"])
        return kept | {
            "PATH": os.pathsep.join(map(str, paths)),
            "HOME": str(self.project.folder / "home"),
            "XDG_CACHE_HOME": str(self.project.folder / "home" / ".cache"),
            "KIS_BASE_URL": self.sandbox.kis.production_url,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    @property
    def exported(self) -> dict[str, str]:
        """The environment variables that the user has exported during the set-up."""
        return {"SUPABASE_URL": self.sandbox.supabase.url, "SUPABASE_SERVICE_ROLE_KEY": self.sandbox.service_key}

    def type(self, commands: str, *answers: str, **more: str) -> str:
        """Type commands into a terminal, and type answers to the commands' questions. Return the text on the screen."""
        return self._run(["bash", "-euo", "pipefail", "-c", commands], "".join(f"{each}\n" for each in answers), more)

    def python(self, program: str, **more: str) -> str:
        """Run a Python program, and return its output."""
        return self._run([sys.executable, "-"], program, more)

    @property
    def way_to_github(self) -> dict[str, str]:
        """The variables that lead GitHub's host names to the stand-in for GitHub."""
        names = ("HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE")
        return {name: value for name, value in self.network.variables.items() if name in names}

    def run_sql(self, file: str = "kis-token.sql") -> None:
        """Run a file in the SQL editor, as the project's owner."""
        with psycopg.connect(self.sandbox.owner_dsn) as connection:
            connection.execute((self.project.repository / file).read_bytes())

    def set_up(self) -> str:
        """Do the steps of the set-up by hand before the workflows. Return the output of the terminal."""
        self.type(INSTALL)
        self.run_sql()
        seen = self.type(PROJECT + KEYS + CHECK, *self.exported.values(), *self.keys)
        given = self.exported | self.way_to_github
        seen += self.type(REPOSITORY, self.sandbox.anon_key, **given)
        self.run_sql("kis-token-trust.sql")
        return seen

    def act(self, name: str, workflow: str, *arguments: str, event: str = "workflow_dispatch") -> str:
        """Commit and start a workflow. Check that the run succeeds and shows no secret. Return the log.

        As on GitHub, jobs get the stored secrets and variables, and ID tokens if each job has the permission.
        """
        kis = self.sandbox.kis
        (self.project.repository / ".github" / "workflows" / name).write_text(workflow)
        given = [f"--env=KIS_BASE_URL={kis.production_url}"]
        given += [f"--var={each}={value}" for each, value in self.github_variables.items()]
        if may_have_id_tokens(workflow):
            given += [f"--env={each}={value}" for each, value in self.sandbox.github.variables().items()]
        secrets = dict.fromkeys(self.exported, "") | self.github_secrets
        done = self.project.run(self.sandbox, name, event, *given, *arguments, secrets=secrets)

        assert done.returncode == 0, readable(done.stdout)
        shown = [secret for secret in (*self.keys, self.sandbox.service_key) if secret in done.stdout]
        assert len(shown) == 0
        return "\n".join(re.findall(r"\| (.*)$", done.stdout, re.MULTILINE))

    def real(self, seen: str) -> str:
        """Return ``seen`` with KIS's own host in place of the sandbox's host."""
        real = "https://openapi.koreainvestment.com:9443"
        return seen.replace(self.sandbox.kis.production_url, real).replace("(plain http, on this machine)", "(TLS)")

    def _stored(self, kind: str) -> dict[str, str]:
        file = self.project.folder / kind
        lines = file.read_text().splitlines() if file.exists() else []
        return dict(line.split("=", 1) for line in lines)

    def _run(self, command: list[str], given: str, more: dict[str, str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.project.repository,
            env=self.variables | more,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def _add_command(self, name: str, text: str) -> None:
        file = self.project.commands / name
        file.write_text(text)
        file.chmod(0o755)


def may_have_id_tokens(workflow: str) -> bool:
    """Whether each job has the permission ``id-token: write``, its own or the workflow's."""
    page = yaml.safe_load(workflow)
    permissions = [job.get("permissions", page["permissions"]) for job in page["jobs"].values()]
    return all(each.get("id-token") == "write" for each in permissions)


def assert_shown(picture: str, seen: str) -> None:
    """Check that ``seen`` has the lines of ``picture`` in order. ``…`` stands for other lines. Numbers may differ."""

    def comparable(line: str) -> str:
        line = re.sub(r"\d+", "0", line)
        return re.sub(r" +", " ", re.sub(r"\S+ run 0 \w+", "<job>", line)).strip()

    rest = iter([comparable(line) for line in seen.splitlines()])
    for line in picture.splitlines():
        if line != "…" and line:
            assert comparable(line) in rest, f"{line!r} was not seen, or not there:\n{seen}"
