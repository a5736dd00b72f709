"""The cache cannot be read or written: the disk is full, the folder cannot be made, or the file is unreadable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kis_token.errors import StoreOutage
from kis_token.token import parse_stored
from tests.faults.helpers import assert_warned, error_of, stored_stays
from tests.prepared_processes import process
from tests.races.caller_processes import SECONDS
from tests.resolver_harness import stale_token
from tests.support import MINUTE, make_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.resolver_harness import Chain

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX users and file sizes")

NOBODY = 65534


@pytest.fixture
def no_folder(chain: Chain) -> str:
    """A cache path whose folder cannot be made, not even by root, because a file is in the path."""
    (chain.folder / "file").write_text("")
    return str(chain.folder / "file" / "folder" / "cache.json")


def test_no_folder_with_supabase(chain: Chain, no_folder: str) -> None:
    """If the cache folder cannot be made, the caller gets the stored token, and a warning names the setting."""
    token = make_token()
    chain.database.put_token(token)

    with stored_stays(chain):
        got = chain.resolve(cache_path=no_folder)

    assert (got.token.token_id, got.source) == (token.token_id, "supabase")
    assert_warned(got, "[cache-unwritable]", "cache-path")


def test_no_folder_without_supabase(chain: Chain, no_folder: str) -> None:
    """Without Supabase and cache folder, a caller issues once, with two warnings. With `fail`, the outage is raised."""
    chain.supabase.stop()
    assert isinstance(error_of(chain, cache_path=no_folder, on_store_outage="fail"), StoreOutage)

    got = chain.resolve(cache_path=no_folder)

    assert (got.source, chain.issue_calls) == ("oauth", 1)
    assert ["[store-unreachable]" in got.warnings[0], "[cache-unwritable]" in got.warnings[-1]] == [True, True]
    assert len(got.warnings) == 2


def child(chain: Chain, *, largest_file: int | None = None, user: int | None = None, **variables: str) -> Any:  # noqa: ANN401 - JSON
    """Run a caller in a process with these limits; return its result."""
    # Most of this time is kept for issuing, so the caller waits for about a second.
    env = chain.variables | {"KIS_TOKEN_TIMEOUT": "23s"} | variables
    # Another user gets a temporary folder of its own for the files of the machine's lock.
    machine = os.environ | ({"TMPDIR": str(Path(env["KIS_TOKEN_CACHE"]).parent)} if user is not None else {})
    task = {"env": env, "largest_file": largest_file, "user": user, "machine": machine}
    with process(Path(__file__).with_name("restricted_process.py"), task) as (running, connection):
        assert connection.poll(SECONDS), "the process sends nothing"
        answer = connection.recv()
        running.join(SECONDS)
    assert running.exitcode == 0
    return answer


@posix
@pytest.mark.parametrize("is_down", [False, True], ids=["supabase", "no-supabase"])
def test_a_full_disk(chain: Chain, *, is_down: bool) -> None:
    """If the disk accepts no byte, the caller gets a token and a warning, and no half-written file remains."""
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
    """If a token cannot be written, the cached token is not damaged, and is used in an outage."""
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
    """A real file system without a free byte. Only root can make such a file system."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.call(mount, stderr=subprocess.DEVNULL):
        pytest.skip("only root on Linux can mount a file system")
    try:
        (disk / "filler").write_bytes(bytes(4096))
        yield disk
    finally:
        subprocess.check_call(["umount", str(disk)])


@pytest.mark.parametrize("is_down", [False, True], ids=["supabase", "no-supabase"])
def test_a_file_system_without_a_free_byte(chain: Chain, tiny_disk: Path, *, is_down: bool) -> None:
    """If the file system is full, the caller gets a token and a warning, and no temporary file remains."""
    chain.database.put_token(make_token())
    if is_down:
        chain.supabase.stop()

    got = chain.resolve(cache_path=str(tiny_disk / "cache.json"))

    assert (got.source, chain.issue_calls) == (("oauth", 1) if is_down else ("supabase", 0))
    assert "[cache-unwritable]" in got.warnings[-1]
    assert {path.name for path in tiny_disk.iterdir()} <= {"filler", "cache.json.lock"}


@pytest.fixture
def others() -> Iterator[tuple[Path, int]]:
    """A folder of an ordinary user, and the user's id. Root may read every file, so the tests change to this user."""
    if os.name != "posix":
        pytest.skip("needs POSIX modes")
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, user, -1)
        yield Path(folder), user


@pytest.mark.parametrize("is_down", [False, True], ids=["supabase", "no-supabase"])
def test_an_unreadable_file(chain: Chain, others: tuple[Path, int], *, is_down: bool) -> None:
    """A cache file that its owner may not read is a miss, and the next token replaces it."""
    folder, user = others
    path = folder / "cache.json"
    path.touch(mode=0o600)
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
    """If the cache folder is read-only, the cache file stays. In an outage, the valid token in the file is used."""
    folder, user = others
    path = folder / "cache.json"
    cached = make_token(left=30 * MINUTE)
    path.touch(mode=0o600)
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
