"""``kis-token check``: stored and cached keys and tokens, seals, clocks and folders."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from kis_token.admin.finding import conclude
from kis_token.core.app_key_expiry import RENEWAL
from kis_token.store.sealing import SealingVault, make_vault
from kis_token.token import KST
from tests.admin.check_findings import faults, findings
from tests.resolver_harness import ENCRYPTION_KEY, OTHER, Chain, expired_token, put_key_end
from tests.support import APP_KEY, HOUR, TurnedClock, make_token, utc_now

if TYPE_CHECKING:
    from pathlib import Path


OLDER_KEY = base64.b64encode(bytes(range(32))).decode()


def test_keys_that_cannot_be_keys(sound: Chain) -> None:
    """A stored app key that the chain does not accept, or ignores, is wrong."""
    for value, code in (("a b", "invalid-app-key"), ("\u2026", "invalid-app-key"), (" ", "missing-app-key")):
        sound.database.put("app_key", value)
        assert ("app key", code) in faults(findings(sound, app_key="", app_secret=""))
    assert findings(sound)["app key"][0].state == "note"


def test_an_app_key_in_two_slots(sound: Chain) -> None:
    """If a second slot has a valid token of the same app key, the finding is wrong: the first slot cannot issue."""
    assert faults(findings(sound, service_name="kis-second")) == [("app key", "key-in-two-slots")]


def test_a_cached_token_is_replaced_by_itself(sound: Chain) -> None:
    """A cached token of another app key, or a plain one in a sealed slot, is a note: the next run replaces it."""
    sound.cache_token(make_token(OTHER.key))
    assert findings(sound)["cached token"][0].state == "note"
    sound.cache_token(make_token())
    vault = make_vault(sound.settings(encryption_key=ENCRYPTION_KEY).encryption_keys)
    assert isinstance(vault, SealingVault)
    for name, value in (("app_key", APP_KEY.key), ("app_secret", APP_KEY.secret)):
        sound.database.put(name, vault.seal(value, "kis", name))
    token = make_token()
    sound.database.put("access_token", vault.seal(token.to_json(), "kis", "access_token"), token.expires_at)
    found = findings(sound, encryption_key=ENCRYPTION_KEY)
    assert (faults(found), found["cached token"][0].state) == ([], "note")


def test_a_rejected_token(sound: Chain) -> None:
    """A stored or cached token that is rejected is a note. The row rejected_tokens is not checked as a credential."""
    token = sound.resolve().token
    sound.database.call("revoke_token", service="kis", version=0, token_id=token.token_id, label="an owner")
    found = findings(sound)

    assert (faults(found), found["token"][0].state, found["cached token"][0].state) == ([], "note", "note")
    assert "KIS rejects" in found["token"][0].said
    assert "rejected_tokens" not in found["sealing"][0].said


def test_seals(sound: Chain) -> None:
    """If an encryption key is set, plain values are wrong. Without the right encryption key, sealed values are wrong.

    Each fault of sealing has its own code.
    """
    assert ("sealing", "plain-with-key") in faults(findings(sound, encryption_key=ENCRYPTION_KEY))
    vault = make_vault(sound.settings(encryption_key=OLDER_KEY).encryption_keys)
    sound.database.put("app_key", vault.seal(APP_KEY.key, "kis", "app_key"))
    sound.database.put("app_secret", vault.seal(APP_KEY.secret, "kis", "app_secret"))
    assert ("sealing", "sealed-without-key") in faults(findings(sound))
    assert ("sealing", "seal-broken") in faults(findings(sound, encryption_key=ENCRYPTION_KEY))


def test_a_seal_that_is_to_be_changed(chain: Chain) -> None:
    """A value that only an older encryption key unseals is a note."""
    chain.resolve(encryption_key=OLDER_KEY)
    both = findings(chain, encryption_key=f"{ENCRYPTION_KEY}\n{OLDER_KEY}")

    assert faults(both) == []
    assert [(finding.state, finding.remedy) for finding in both["sealing"]] == [("note", "Run kis-token seal.")]
    assert [finding.state for finding in findings(chain, encryption_key=OLDER_KEY)["sealing"]] == ["ok"]


@pytest.mark.parametrize(("hours", "direction"), [(1, "ahead"), (-1, "behind")])
def test_a_clock_that_is_wrong(sound: Chain, hours: int, direction: str) -> None:
    """If this machine's clock differs much from Supabase's clock, the finding is wrong and names the direction."""
    found = findings(sound, clock=TurnedClock(wrong_by=hours * HOUR))

    assert ("clock", "") in faults(found)
    assert direction in found["clock"][0].said


def test_a_supabase_that_tells_no_time(sound: Chain) -> None:
    """If Supabase sends no Date header, the finding on the clock is a note."""
    sound.supabase.server.send_date = False
    assert findings(sound)["clock"][0].state == "note"


def test_cache_folders(sound: Chain, tmp_path: Path) -> None:
    """An unwritable cache folder, a folder that others can change, and a file that others can read are wrong.

    The check does not make a missing cache folder.
    """
    file = tmp_path / "file"
    file.write_text("x")
    assert faults(findings(sound, cache_path=str(file / "cache.json"))) == [("cache", "cache-unwritable")]

    cached = sound.folder / "cache.json"
    cached.chmod(0o644)
    assert faults(findings(sound)) == [("cache", "")]
    cached.chmod(0o600)

    new = tmp_path / "new" / "folder" / "cache.json"
    assert faults(findings(sound, cache_path=str(new))) == []
    assert not (tmp_path / "new").exists()

    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)  # for any umask
    assert faults(findings(sound, cache_path=str(shared / "cache.json"))) == [("cache", "")]

    assert findings(sound, cache_path="off")["cache"][0].state == "note"
    for other in (shared, tmp_path / "link"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(cached)
        (found,) = findings(sound, cache_path=str(other))["cache"]
        assert (found.state, "a folder, a link" in found.said) == ("wrong", True)


def test_keys_that_do_not_match(sound: Chain) -> None:
    """The check reports a given key that differs from the stored key, half a key, no key, and an older key's token."""
    assert faults(findings(sound, app_key=OTHER.key, app_secret=OTHER.secret)) == [("app key", "")]
    sound.database.put_keys(OTHER)
    assert faults(findings(sound, app_key="", app_secret="")) == [
        ("token", "token-of-another-key"),
    ]
    sound.database.put("app_secret", OTHER.secret, active=False)
    assert ("app key", "missing-app-key") in faults(findings(sound, app_key="", app_secret=""))
    sound.database.clear()
    assert faults(findings(sound, app_key="", app_secret="")) == [("app key", "missing-app-key")]
    assert faults(findings(sound)) == []


def test_a_key_of_the_other_environment(sound: Chain) -> None:
    """In production, a key stored for paper is wrong. In paper, a key stored for production is a note."""
    sound.database.owner.execute("update public.api_credentials set environment = 'paper'")
    assert faults(findings(sound)) == [("environment", "")]
    sound.database.owner.execute("update public.api_credentials set environment = 'production'")
    paper = findings(sound, environment="paper", service_name="kis", base_url=sound.kis.paper_url)
    assert paper["environment"][0].state == "note"


def test_a_token_of_the_other_environment(sound: Chain) -> None:
    """If a token was issued for the other environment, the finding is wrong."""
    paper = findings(sound, environment="paper", service_name="kis", base_url=sound.kis.paper_url)
    assert ("token", "token-of-another-environment") in faults(paper)


def test_tokens_that_are_replaced_are_not_wrong(chain: Chain) -> None:
    """A missing, expired or unreadable token is a note, because the next caller issues a new token."""
    chain.database.put_keys()
    assert findings(chain)["token"][0].state == "note"
    chain.database.put_token(expired_token())
    assert findings(chain)["token"][0].state == "note"
    chain.database.put("access_token", "{")
    assert findings(chain)["token"][0].state == "note"
    assert faults(findings(chain)) == []


def test_a_rotation_that_has_not_run(chain: Chain) -> None:
    """If a rotation should have renewed the token long ago, the finding is a note."""
    chain.database.put_token(make_token(left=HOUR, age=40 * HOUR))
    assert findings(chain)["rotation"][0].state == "note"


@pytest.mark.parametrize(("days", "states"), [(31, ["ok"]), (29, ["ok", "note"]), (-1, ["ok", "note"])])
def test_app_key_that_ends_soon(sound: Chain, days: int, states: list[str]) -> None:
    """From 30 days before the app key's stored day on, a note has the day and the next step."""
    end = utc_now() + timedelta(days=days)
    put_key_end(sound, end)

    found = findings(sound)
    assert ([finding.state for finding in found["app key"]], faults(found)) == (states, [])
    assert f"last day {end.astimezone(KST):%Y-%m-%d} in Korea" in found["app key"][0].said
    notes = [f"{finding}" for finding in found["app key"] if finding.state == "note"]
    assert all(f"on {end.astimezone(KST):%Y-%m-%d} in Korea" in said and said.endswith(RENEWAL) for said in notes)
    assert conclude([each for every in found.values() for each in every]).startswith("Ready: no fault was found")
