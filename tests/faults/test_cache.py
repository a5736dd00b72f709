"""The cache file is spoilt, cannot be written or is locked: with Supabase it is never in the way, without it heals."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.errors import StoreOutage
from kis_token.sealing import make_vault
from kis_token.token import parse_stored
from tests.chain import ENCRYPTION_KEY, OTHER, dead_token, stale_token
from tests.faults.ground import HOLD_LOCK, assert_warned, error_of, stored_stays
from tests.support import MINUTE, make_settings, make_token
from tools.step import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kis_token.token import Token
    from tests.chain import Chain

posix = pytest.mark.skipif(os.name != "posix", reason="users, file sizes and signals of this kind are POSIX's")

NOBODY = 65534
SECONDS = 60


def _content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _leave_a_half_written_one(path: Path) -> None:
    """What a process that dies in the middle of writing leaves: nothing in the file's place, a part beside it."""
    path.with_name(f"{path.name}.0123456789abcdef.tmp").write_bytes(make_token().to_json().encode()[:100])


TOKEN = make_token().to_json()

#: What lies in the cache file's place. None of it is a token.
SPOILT: dict[str, Callable[[Path], object]] = {
    "missing": lambda _: None,
    "empty": _content(b""),
    "half-written": _content(TOKEN.encode()[: len(TOKEN) // 2]),
    "half-written-beside": _leave_a_half_written_one,
    "binary": _content(bytes(range(256))),
    "zeros": _content(bytes(4096)),
    "utf-16": _content(TOKEN.encode("utf-16")),
    "another-version": _content(json.dumps({"version": 2, "tokens": [json.loads(TOKEN)]}).encode()),
    "another-seal": _content(b"enc:v9:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
    "no-expiry": _content(b'{"access_token": "opaque.token-of-a-test_0123456789"}'),
    "expired": _content(dead_token().to_json().encode()),
    "too-large": _content(b" " * 100_000),
}

spoilt = pytest.mark.parametrize("name", SPOILT)


@spoilt
def test_with_supabase_it_is_not_in_the_way(chain: Chain, name: str) -> None:
    """A fresh stored token is handed out without a warning, after one read, and is in the cache afterwards."""
    SPOILT[name](chain.folder / "cache.json")
    token = make_token()
    chain.database.put_token(token)

    with stored_stays(chain):
        got = chain.resolve()

    assert (got.token.token_id, got.source, got.warnings, chain.store_calls) == (
        token.token_id,
        "supabase",
        (),
        ["read"],
    )
    assert chain.cached_id() == token.token_id


@spoilt
def test_without_supabase_it_heals(chain: Chain, name: str) -> None:
    """It is a miss with a reason: told to fail, that is all; else one call, and the next caller has the token."""
    SPOILT[name](chain.folder / "cache.json")
    chain.supabase.stop()

    assert isinstance(error_of(chain, on_store_outage="fail"), StoreOutage)
    assert chain.issue_calls == 0
    got = chain.resolve()
    again = chain.resolve()

    assert (got.source, again.source, chain.issue_calls) == ("oauth", "cache", 1)
    assert got.token.token_id == again.token.token_id == chain.cached_id()
    assert got.links[1].name == "cache"
    assert got.links[1].said


def _sealed(token: Token) -> str:
    return make_vault(make_settings(KIS_TOKEN_ENCRYPTION_KEY=ENCRYPTION_KEY).encryption_keys).seal(
        token.to_json(), "kis", "access_token"
    )


ANOTHER_KEY = base64.b64encode(bytes(32)).decode()

#: Living tokens that this caller must not use: how they lie there, with which key he comes, and his error.
NOT_HIS = {
    "sealed": (_sealed(make_token()), "", "sealed-without-key"),
    "sealed-with-another-key": (_sealed(make_token()), ANOTHER_KEY, "seal-broken"),
    "of-another-key": (make_token(OTHER.key).to_json(), "", "token-of-another-key"),
    "of-another-environment": (
        replace(make_token(), environment="paper").to_json(),
        "",
        "token-of-another-environment",
    ),
}


@pytest.mark.parametrize("name", NOT_HIS)
def test_a_token_that_is_not_his(chain: Chain, name: str) -> None:
    """Without Supabase it is an error, and stays: its owner may need it. With Supabase it is not in the way."""
    content, key, code = NOT_HIS[name]
    path = chain.folder / "cache.json"
    path.write_text(content)
    chain.supabase.stop()

    assert error_of(chain, encryption_key=key).code == code
    is_same = path.read_text() == content
    assert is_same, "the cache file has changed"
    assert chain.issue_calls == 0

    chain.supabase.start()
    got = chain.resolve(encryption_key=key)
    assert (got.source, got.warnings, chain.issue_calls) == ("oauth", (), 1)
    assert chain.cache(encryption_key=key).read().token_id == got.token.token_id


# where nothing can be written


@pytest.fixture
def no_folder(chain: Chain) -> str:
    """A path through a file: its folder cannot be made, not even by root."""
    (chain.folder / "file").write_text("")
    return str(chain.folder / "file" / "folder" / "cache.json")


def test_no_folder_with_supabase(chain: Chain, no_folder: str) -> None:
    """The token is handed out, with a warning that says what to change."""
    token = make_token()
    chain.database.put_token(token)

    with stored_stays(chain):
        got = chain.resolve(cache_path=no_folder)

    assert (got.token.token_id, got.source) == (token.token_id, "supabase")
    assert_warned(got, "[cache-unwritable]", "cache-path")


def test_no_folder_without_supabase(chain: Chain, no_folder: str) -> None:
    """One call, and the token with both warnings; told to fail, the outage is the error and not the cache."""
    chain.supabase.stop()
    assert isinstance(error_of(chain, cache_path=no_folder, on_store_outage="fail"), StoreOutage)

    got = chain.resolve(cache_path=no_folder)

    assert (got.source, chain.issue_calls) == ("oauth", 1)
    assert ["[store-unreachable]" in got.warnings[0], "[cache-unwritable]" in got.warnings[-1]] == [True, True]
    assert len(got.warnings) == 2


def child(chain: Chain, *, largest_file: int | None = None, user: int | None = None, **variables: str) -> Any:  # noqa: ANN401 - JSON
    """What a process under these limits gets."""
    task = {"env": chain.variables | variables, "largest_file": largest_file, "user": user}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("limited.py"))],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        input=json.dumps(task) + "\n",
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return json.loads(done.stdout)


@posix
@pytest.mark.parametrize("is_down", [False, True], ids=["supabase", "no-supabase"])
def test_a_full_disk(chain: Chain, *, is_down: bool) -> None:
    """Where no byte can be written there is a token and a warning, and nothing half-written is left."""
    token = make_token()
    chain.database.put_token(token)
    if is_down:
        chain.supabase.stop()

    got = child(chain, largest_file=0)

    assert (got["source"], chain.issue_calls) == (("oauth", 1) if is_down else ("supabase", 0))
    assert "[cache-unwritable]" in got["warnings"][-1]
    assert [path.name for path in chain.folder.iterdir() if path.stat().st_size] == []
    assert not (chain.folder / "cache.json").exists()


@posix
def test_a_full_disk_with_a_cached_token(chain: Chain) -> None:
    """The token that was cached before is not damaged by one that cannot be written, and still serves."""
    cached = stale_token()
    chain.cache_token(cached)
    before = (chain.folder / "cache.json").read_bytes()
    stored = make_token()
    chain.database.put_token(stored)

    first = child(chain, largest_file=10)
    chain.supabase.stop()
    second = child(chain, largest_file=10)

    assert (first["token_id"], second["token_id"], second["source"]) == (stored.token_id, cached.token_id, "cache")
    assert "[cache-unwritable]" in first["warnings"][-1]
    is_same = (chain.folder / "cache.json").read_bytes() == before
    assert is_same, "the cache file has changed"
    assert chain.issue_calls == 0


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system without a free byte; only root can make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.call(mount, stderr=subprocess.DEVNULL):
        pytest.skip("a file system can be mounted by root on Linux alone")
    try:
        (disk / "filler").write_bytes(bytes(4096))
        yield disk
    finally:
        subprocess.check_call(["umount", str(disk)])


@pytest.mark.parametrize("is_down", [False, True], ids=["supabase", "no-supabase"])
def test_a_file_system_without_a_free_byte(chain: Chain, tiny_disk: Path, *, is_down: bool) -> None:
    """The same on a file system that is really full: the token is handed out, and nothing is left beside it."""
    chain.database.put_token(make_token())
    if is_down:
        chain.supabase.stop()

    got = chain.resolve(cache_path=str(tiny_disk / "cache.json"))

    assert (got.source, chain.issue_calls) == (("oauth", 1) if is_down else ("supabase", 0))
    assert "[cache-unwritable]" in got.warnings[-1]
    assert {path.name for path in tiny_disk.iterdir()} <= {"filler", "cache.json.lock"}


@pytest.fixture
def others() -> Iterator[tuple[Path, int]]:
    """A folder of an ordinary user's, and that user: root, who may read everything, becomes somebody else."""
    if os.name != "posix":
        pytest.skip("modes of this kind are POSIX's")
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, user, -1)
        yield Path(folder), user


@pytest.mark.parametrize("is_down", [False, True], ids=["supabase", "no-supabase"])
def test_an_unreadable_file(chain: Chain, others: tuple[Path, int], *, is_down: bool) -> None:
    """A file that its owner may not read is a miss, and is replaced by one that he may."""
    folder, user = others
    path = folder / "cache.json"
    path.write_text(make_token(left=30 * MINUTE).to_json())
    path.chmod(0)
    os.chown(path, user, -1)
    token = make_token()
    chain.database.put_token(token)
    if is_down:
        chain.supabase.stop()

    got = child(chain, user=user if os.geteuid() == 0 else None, KIS_TOKEN_CACHE=str(path))

    assert (got["source"], chain.issue_calls) == (("oauth", 1) if is_down else ("supabase", 0))
    assert parse_stored(path.read_text()).token_id == got["token_id"]


@pytest.mark.parametrize("is_down", [False, True], ids=["supabase", "no-supabase"])
def test_a_folder_that_may_only_be_read(chain: Chain, others: tuple[Path, int], *, is_down: bool) -> None:
    """What cannot be replaced stays as it is and, while it lives, serves in an outage: also where nobody can lock."""
    folder, user = others
    path = folder / "cache.json"
    cached = make_token(left=30 * MINUTE)
    path.write_text(cached.to_json())
    os.chown(path, user, -1)
    folder.chmod(0o500)
    token = make_token()
    chain.database.put_token(token)
    if is_down:
        chain.supabase.stop()

    got = child(chain, user=user if os.geteuid() == 0 else None, KIS_TOKEN_CACHE=str(path))
    folder.chmod(0o700)

    if is_down:
        assert (got["token_id"], got["source"]) == (cached.token_id, "cache")
    else:
        assert (got["token_id"], "[cache-unwritable]" in got["warnings"][-1]) == (token.token_id, True)
    assert chain.issue_calls == 0
    is_same = json.loads(path.read_text()) == json.loads(cached.to_json())
    assert is_same, "the cache file has changed"


# the lock


@posix
def test_a_lock_of_a_dead_process(chain: Chain) -> None:
    """A process that was killed while it held the lock keeps nobody out: one call, at once."""
    command = [sys.executable, "-c", HOLD_LOCK, str(chain.folder / "cache.json")]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait(SECONDS)
    assert (chain.folder / "cache.json.lock").exists()
    chain.supabase.stop()

    # 21 s: one second is left for waiting, the rest is kept for the call.
    got = chain.resolve(timeout="21s")

    assert (got.source, chain.issue_calls, chain.cached_id()) == ("oauth", 1, got.token.token_id)


@posix
def test_a_lock_of_a_living_process(chain: Chain) -> None:
    """With Supabase, or with a cached token that lives, nobody takes or waits for the lock."""
    command = [sys.executable, "-c", HOLD_LOCK, str(chain.folder / "cache.json")]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        first = chain.resolve(timeout="30s")
        chain.supabase.stop()
        second = chain.resolve(timeout="30s")
        holder.kill()

    assert (first.source, second.source, chain.issue_calls) == ("oauth", "cache", 1)
    assert first.token.token_id == second.token.token_id
