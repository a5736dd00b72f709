"""The cache file is private and written atomically, and a link in its place is not followed."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from kis_token.core.resolution import Resolution, remember
from kis_token.core.slot import SEALED_PREFIX, PlainVault
from kis_token.errors import CacheError, TokenError
from kis_token.local.cache import LARGEST_FILE, FileCache
from kis_token.store.sealing import SealingVault
from kis_token.token import build_token
from tests.support import make_token, utc_now

CHECKOUT = Path(__file__).resolve().parents[2]
NAME = ".kis_token_cache.json"
HOUR = timedelta(hours=1)

posix = pytest.mark.skipif(os.name == "nt", reason="modes, links and pipes of this kind are POSIX's")

HOLD_LOCK = """
import sys
from pathlib import Path
from kis_token.local.cache import FileCache
from kis_token.core.slot import PlainVault
with FileCache(Path(sys.argv[1]), PlainVault(), "kis").lock(10):
    print("held", flush=True)
    sys.stdin.read()
"""

WRITE_OFTEN = """
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from kis_token.local.cache import FileCache
from kis_token.core.slot import PlainVault
from kis_token.token import build_token
cache = FileCache(Path(sys.argv[1]), PlainVault(), "kis")
end = datetime.now(timezone.utc) + timedelta(hours=2)
for number in range(100):
    cache.write(build_token(f"of-no-use-to-anybody-{number}", expiries=[end + timedelta(seconds=number)]))
"""


def file_cache(path: Path) -> FileCache:
    """A cache without sealing."""
    return FileCache(path, PlainVault(), "kis")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The cache file's path; its folder does not exist yet."""
    return tmp_path / "folder" / NAME


@pytest.fixture
def cache(path: Path) -> FileCache:
    """An empty cache."""
    return file_cache(path)


def put(path: Path, content: bytes) -> None:
    """Write ``content`` into the cache file."""
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)


def miss(cache: FileCache) -> str:
    """The reason of a failed read."""
    with pytest.raises(TokenError) as caught:
        cache.read()
    return f"{caught.value.args[0]}"


def test_token_survives_a_round_trip(cache: FileCache) -> None:
    """A token that was written is read with the same end and issue time."""
    token = make_token()
    cache.write(token)
    again = cache.read()
    assert again.token_id == token.token_id
    assert (again.expires_at, again.issued_at) == (token.expires_at, token.issued_at)


@posix
def test_file_is_for_its_owner_alone(cache: FileCache, path: Path) -> None:
    """The file has mode 0600 and its folder 0700, for any umask, and no other file is in the folder."""
    before = os.umask(0)
    try:
        cache.write(make_token())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == [NAME]


@posix
def test_open_file_is_closed_to_others_by_the_next_write(cache: FileCache, path: Path) -> None:
    """If other users can read the file, the next write makes the file private."""
    put(path, b"")
    path.chmod(0o644)
    cache.write(make_token())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@posix
@pytest.mark.parametrize("left", [HOUR, 2 * HOUR], ids=["the same token", "a longer one"])
def test_open_file_is_closed_to_others_although_it_stays(cache: FileCache, path: Path, left: timedelta) -> None:
    """If other users can read the file, the next write makes it private, even if the token in it stays."""
    token = make_token(left=HOUR)
    kept = token if left == HOUR else make_token(left=left)
    put(path, kept.to_json().encode())
    path.chmod(0o644)

    cache.write(token)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cache.read().token_id == kept.token_id


def test_no_file_is_a_miss(cache: FileCache) -> None:
    """A missing file is a miss with a reason."""
    assert miss(cache) == "there is no cache file"


USELESS = {
    "empty": b"",
    "half written": make_token().to_json().encode()[:100],
    "binary": bytes(range(256)),
    "zeros": bytes(1024),
    "text": b"token",
    "a list": b"[]",
    "too big": b" " * (LARGEST_FILE + 1),
    "deep": b"[" * LARGEST_FILE,
}


@pytest.mark.parametrize("case", USELESS)
def test_useless_file_is_a_miss_and_healed_by_the_next_write(cache: FileCache, path: Path, case: str) -> None:
    """Any unusable file is a miss with a reason, and the next token replaces it."""
    put(path, USELESS[case])
    assert miss(cache)
    token = make_token()
    cache.write(token)
    assert cache.read().token_id == token.token_id


def test_guide_s_flat_json_is_read(cache: FileCache, path: Path) -> None:
    """A file that the guide's code wrote, with times without a zone, is read; the times count as Korea time."""
    token = make_token()
    end = (token.expires_at + timedelta(hours=5)).replace(tzinfo=None)
    put(path, json.dumps({"access_token": token.value, "expires_at": end.isoformat(), "issued_at": "x"}).encode())
    assert cache.read().token_id == token.token_id
    assert cache.read().expires_at == token.expires_at - timedelta(hours=4)


@posix
def test_link_is_not_read_through(cache: FileCache, path: Path, tmp_path: Path) -> None:
    """A symbolic link in the file's place is a miss, for any target."""
    put(tmp_path / "folder" / "elsewhere.json", make_token().to_json().encode())
    path.symlink_to("elsewhere.json")
    assert miss(cache).startswith("the cache file cannot be read")


@posix
def test_link_is_not_written_through(cache: FileCache, path: Path, tmp_path: Path) -> None:
    """A write replaces a symbolic link by a file; the link's target stays unchanged."""
    target = tmp_path / "precious"
    target.write_text("keep me")
    path.parent.mkdir()
    path.symlink_to(target)
    cache.write(make_token())
    assert target.read_text() == "keep me"
    assert not path.is_symlink()


@posix
def test_pipe_in_its_place_does_not_hang(cache: FileCache, path: Path) -> None:
    """A pipe in the file's place is a miss at once, and the next write replaces it."""
    path.parent.mkdir()
    os.mkfifo(path)
    started = time.monotonic()
    assert miss(cache)
    cache.write(make_token())
    assert path.is_file()
    assert time.monotonic() - started < 10


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make a device")
def test_device_in_its_place_is_left_alone(cache: FileCache, path: Path) -> None:
    """A device in the file's place, such as /dev/null, is a miss; a write raises CacheError and does not replace it."""
    path.parent.mkdir()
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    assert miss(cache)
    with pytest.raises(CacheError):
        cache.write(make_token())
    assert path.is_char_device()


def test_folder_in_its_place_is_a_miss_and_cannot_be_replaced(cache: FileCache, path: Path) -> None:
    """If a folder has the file's name, a read is a miss, and a write fails and leaves no half-written file."""
    path.mkdir(parents=True)
    assert miss(cache)
    with pytest.raises(CacheError) as caught:
        cache.write(make_token())
    assert caught.value.code == "cache-unwritable"
    assert [each.name for each in path.parent.iterdir()] == [NAME]


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_file_of_another_user_is_a_miss(cache: FileCache, path: Path) -> None:
    """Another user's file is a miss, and the next write replaces it."""
    put(path, make_token().to_json().encode())
    os.chown(path, 65534, 65534)
    assert "PermissionError" in miss(cache)
    cache.write(make_token())
    assert path.stat().st_uid == os.geteuid()


def test_folder_that_cannot_be_made_is_a_cache_error(tmp_path: Path) -> None:
    """If a file is in the path of the folder, the error is cache-unwritable and does not show the token."""
    (tmp_path / "file").write_text("")
    token = make_token()
    with pytest.raises(CacheError) as caught:
        file_cache(tmp_path / "file" / NAME).write(token)
    assert caught.value.code == "cache-unwritable"
    assert token.value not in f"{caught.value!r}", "the token is shown"


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written_is_a_cache_error(cache: FileCache, path: Path) -> None:
    """In a read-only folder, a write raises CacheError."""
    path.parent.mkdir(mode=0o500)
    with pytest.raises(CacheError):
        cache.write(make_token())


def test_token_with_a_later_end_is_kept(cache: FileCache) -> None:
    """A token does not replace a cached token that ends later, for example when a slow job writes last."""
    longer, shorter = make_token(left=20 * HOUR), make_token(left=10 * HOUR)
    cache.write(longer)
    cache.write(shorter)
    assert cache.read().token_id == longer.token_id
    longest = make_token(left=21 * HOUR)
    cache.write(longest)
    assert cache.read().token_id == longest.token_id


def test_token_of_another_account_does_not_block_the_file(cache: FileCache) -> None:
    """Another app key's token is replaced, even if it ends later."""
    cache.write(make_token("PSzyxwvutsrqponmlkjihgfedcba76543210", left=20 * HOUR))
    own = make_token(left=10 * HOUR)
    cache.write(own)
    assert cache.read().token_id == own.token_id


def test_same_token_is_not_written_again(cache: FileCache, path: Path) -> None:
    """If the file already has the token, the file is not written again."""
    token = make_token()
    cache.write(token)
    before = path.stat()
    cache.write(token)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_threads_never_see_half_a_file(cache: FileCache) -> None:
    """While threads write many tokens, each read returns a complete token."""
    tokens = [make_token(left=HOUR + timedelta(seconds=number)) for number in range(60)]
    cache.write(tokens[0])
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(cache.write, token) for token in tokens]
        reads = [pool.submit(cache.read) for _ in range(200)]
        seen = {read.result().token_id for read in reads}
        for write in writes:
            write.result()
    assert seen <= {token.token_id for token in tokens}


@pytest.mark.usefixtures("child_processes")
def test_processes_never_see_half_a_file(cache: FileCache, path: Path) -> None:
    """While processes write many tokens, each read returns a complete token, and no other file remains."""
    cache.write(build_token("opaque.token-of-a-test_0", expiries=[utc_now() + HOUR]))
    command = [sys.executable, "-c", WRITE_OFTEN, str(path)]
    writers = [subprocess.Popen(command, cwd=CHECKOUT) for _ in range(2)]
    while any(writer.poll() is None for writer in writers):
        assert cache.read().expires_at > utc_now()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [each.name for each in path.parent.iterdir()] == [NAME]


def test_sealed_cache_shows_nothing(path: Path) -> None:
    """With an encryption key the file is sealed; without that key, or for another slot, the file is a miss."""
    token = make_token()
    sealed = FileCache(path, SealingVault((bytes(range(32)),)), "kis")
    sealed.write(token)
    assert path.read_text().startswith(SEALED_PREFIX)
    assert token.value not in path.read_text(), "the token is in the file"
    assert sealed.read().token_id == token.token_id
    assert "sealed" in miss(file_cache(path))
    assert "another row" in miss(FileCache(path, SealingVault((bytes(range(32)),)), "kis-paper"))


def resolution_of(*, expired: bool = False) -> Resolution:
    """A resolution with a token from the store."""
    return Resolution(make_token(), "supabase", None, (), utc_now(), expired=expired)


def test_valid_token_is_remembered(cache: FileCache) -> None:
    """`remember` caches a valid token, and returns the resolution unchanged."""
    found = resolution_of()
    assert remember(cache, found) is found
    assert cache.read().token_id == found.token.token_id


def test_expired_token_is_not_remembered(cache: FileCache) -> None:
    """An expired token is not cached, and no token is cached if the cache is off."""
    remember(cache, resolution_of(expired=True))
    assert miss(cache)
    found = resolution_of()
    assert remember(None, found) is found


def test_token_that_cannot_be_kept_is_still_handed_out(tmp_path: Path) -> None:
    """If the cache is unwritable, the resolution keeps its token and gets a warning with the remedy."""
    (tmp_path / "file").write_text("")
    kept = remember(file_cache(tmp_path / "file" / NAME), resolution_of())
    assert len(kept.warnings) == 1
    assert "[cache-unwritable]" in kept.warnings[0]
    assert "cache-path" in kept.warnings[0]


@posix
def test_file_that_any_user_may_have_written_is_a_miss(cache: FileCache, path: Path) -> None:
    """A file that all users can write may have another user's token: it is a miss, and the next write replaces it."""
    put(path, make_token().to_json().encode())
    path.chmod(0o666)
    assert "cannot be read" in miss(cache)

    token = make_token()
    cache.write(token)

    assert cache.read().token_id == token.token_id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@posix
def test_every_folder_that_is_made_is_private(tmp_path: Path) -> None:
    """New folders are private for any umask, because a user who can rename a folder could replace it."""
    path = tmp_path / "one" / "two" / NAME
    before = os.umask(0)
    try:
        file_cache(path).write(make_token())
    finally:
        os.umask(before)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, path.parent.parent)] == [0o700, 0o700]


def test_file_of_another_service_is_not_used(path: Path) -> None:
    """If two slots use one cache path, the second slot gets an error and does not use the first slot's token."""
    file_cache(path).write(make_token())
    with pytest.raises(TokenError) as caught:
        FileCache(path, PlainVault(), "kis-second").read()
    assert caught.value.code == "token-of-another-key"
