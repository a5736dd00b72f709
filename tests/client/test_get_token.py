"""The package's public names, the modules that an import loads, and the fast path to a token."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kis_token
from kis_token import errors, get_token
from kis_token.token import fingerprint
from tests.resolver_harness import ENCRYPTION_KEY
from tests.support import MINUTE, make_token

if TYPE_CHECKING:
    from tests.resolver_harness import Chain

SOURCE = Path(kis_token.__file__)

#: The modules that a program loads only if a token must be issued, stored or unsealed.
EXPENSIVE = ("requests", "supabase", "httpx", "cryptography", "filelock", "actions_toolkit", "psycopg", "logging")


def declared() -> dict[str, str]:
    """The names that type checkers see, each with its module."""
    block = next(node for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_names_are_those_of_the_type_checkers() -> None:
    """``__all__``, the declarations for type checkers and the objects agree, in order."""
    assert list(kis_token.__all__) == sorted(declared())
    for name, module in declared().items():
        assert getattr(kis_token, name) is getattr(importlib.import_module(module), name)
    assert set(kis_token.__all__) <= set(dir(kis_token))


def test_errors_that_a_caller_can_meet_are_public() -> None:
    """Every error class is public, except internal ones and those of the action and the command."""
    tree = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert tree - set(kis_token.__all__) == {"AppKeyChanged", "CacheError", "EnvironmentFault"}


def test_unknown_name_is_an_attribute_error() -> None:
    """An unknown name raises AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(kis_token, "no_such_name")  # noqa: B009 - a type checker would report the attribute


def loaded_after(program: str, **env: str) -> list[str]:
    """The modules that a program has loaded: those of this package, and the expensive ones."""
    report = "\nimport sys; print([n for n in sys.modules if n.startswith('kis_token.') or n in sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-", *EXPENSIVE],
        input=program + report,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = ast.literal_eval(done.stdout)
    assert isinstance(found, list)
    return found


@pytest.mark.usefixtures("child_processes")
def test_importing_costs_nothing() -> None:
    """An import of the package loads no module of it and no expensive module; an error class loads one module."""
    assert loaded_after("import kis_token") == []
    assert loaded_after("from kis_token import StoreOutage") == ["kis_token.errors"]


def test_warm_token_is_cheap(chain: Chain) -> None:
    """If the stored token is fresh, get_token loads no expensive module and makes one read."""
    chain.database.put_token(make_token())
    chain.supabase.server.forget()

    loaded = loaded_after("from kis_token import get_token\nassert get_token().value", **chain.variables)

    assert "kis_token.store.slot_query" in loaded
    assert set(loaded).isdisjoint(EXPENSIVE)
    assert chain.store_calls == ["read"]


@pytest.mark.parametrize("sealing", [{}, {"KIS_TOKEN_ENCRYPTION_KEY": ENCRYPTION_KEY}], ids=["plain", "sealed"])
def test_token_is_issued_on_an_empty_slot(chain: Chain, sealing: dict[str, str]) -> None:
    """On an empty slot, get_token issues a token and stores it; a second call uses the stored token."""
    tokens = [get_token(chain.variables | sealing) for _ in range(2)]

    assert tokens[0].token_id == tokens[1].token_id
    assert chain.issue_calls == 1
    assert chain.database.row()["credential_value"].startswith("enc:v1:" if sealing else "{")


def test_outage_is_logged_and_the_cached_token_used(chain: Chain, caplog: pytest.LogCaptureFixture) -> None:
    """In an outage, get_token returns a valid cached token and logs a warning."""
    token = get_token(chain.variables)
    chain.supabase.stop()

    assert get_token(chain.variables).token_id == token.token_id

    assert "the cached token is used" in caplog.text
    assert chain.issue_calls == 1


def test_wait_is_logged(chain: Chain, caplog: pytest.LogCaptureFixture) -> None:
    """A caller that waits for another caller's lease logs the reason, and raises an error at its deadline."""
    chain.database.put_keys()
    caller = {"service": "kis", "label": "another bot", "min_remaining": 10 * MINUTE}
    ids = {"holder": "6f3e0f8e-6c5f-4f0c-9d0b-000000000001", "app_key_id": "0" * 16, "credential_id": "0" * 16}
    assert chain.database.call("begin_issuance", **caller, **ids)["status"] == "granted"

    with caplog.at_level("INFO", "kis_token"), pytest.raises(kis_token.IssuanceError) as caught:
        get_token(chain.variables | {"KIS_TOKEN_TIMEOUT": "2s"})

    assert caught.value.code == "wait-too-long"
    assert "another bot is issuing a token" in caplog.text


def test_program_of_the_page(chain: Chain) -> None:
    """The first program of docs/library.md runs unchanged."""
    page = (SOURCE.parents[1] / "docs" / "library.md").read_text(encoding="utf-8")
    program = page.split("```python\n")[1].split("```")[0]

    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        env=chain.variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "71500\n", "")
    assert chain.issue_calls == 1


def test_environment_of_the_process(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument, get_token uses the variables of the process."""
    for name, value in chain.variables.items():
        monkeypatch.setenv(name, value)
    assert fingerprint(get_token().value) == chain.database.stored_id()
