"""``kis-token set-keys`` as a user calls it: the values that it refuses, and the day that it stores."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from kis_token.core.app_key_expiry import default_last_day
from kis_token.sandbox.kis_http import APPROVAL_PATH
from kis_token.token import KST
from tests.command import kis_token, kis_token_here
from tests.resolver_harness import OTHER, put_key_end
from tests.support import ACCOUNT, make_token, utc_now

if TYPE_CHECKING:
    import subprocess

    from kis_token.sandbox import Account
    from tests.resolver_harness import Chain

KEY, SECRET = ACCOUNT.app_key, ACCOUNT.app_secret


def set_keys(chain: Chain, key: str, secret: str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``set-keys`` with key and secret on two lines of standard input, without variables for the keys."""
    keyless = {name: value for name, value in chain.variables.items() if not name.startswith("KIS_APP_")}
    return kis_token_here({**keyless, **env}, "set-keys", *options, standard_input=f"{key}\n{secret}\n")


def ends_of(chain: Chain) -> list[datetime | None]:
    """Return the column expires_at of the stored key and of the stored secret."""
    rows = chain.database.owner.execute(
        "select expires_at from public.api_credentials where credential_type in ('app_key', 'app_secret')"
    ).fetchall()
    return [row["expires_at"] for row in rows]


def is_empty(chain: Chain) -> bool:
    """Whether no key is stored."""
    rows = chain.database.owner.execute("select from public.api_credentials").fetchall()
    return not rows


@pytest.mark.parametrize(
    ("key", "secret", "code"),
    [
        (SECRET, KEY, "swapped-app-key"),
        (KEY[:-1], SECRET, "invalid-app-key"),
        (KEY, SECRET[:-1], "invalid-app-secret"),
        ("*" * 8, "*" * 8, "swapped-app-key"),
        ("*" * 36, SECRET, "invalid-app-key"),
        (KEY, "your_app_secret", "invalid-app-secret"),
    ],
    ids=["swapped", "cut key", "cut secret", "masked", "masked key", "placeholder"],
)
def test_wrong_values_are_not_stored(chain: Chain, key: str, secret: str, code: str) -> None:
    """If key or secret has a wrong form, the command fails, stores nothing, and sends KIS no request."""
    ended = set_keys(chain, key, secret)

    assert (ended.returncode, ended.stdout, f"[{code}]" in ended.stderr) == (1, "", True)
    assert (is_empty(chain), chain.kis.requests) == (True, ())


def test_quotes_are_cut_off(chain: Chain) -> None:
    """Quotes around the values are removed. The keys are stored after one call that issues no token."""
    ended = set_keys(chain, f'"{KEY}"', f"'{SECRET}'")

    assert (ended.returncode, ended.stderr) == (0, "")
    look = chain.resolver(app_key="", app_secret="").look()
    is_stored = look.app_key is not None and (look.app_key.key, look.app_key.secret) == (KEY, SECRET)
    assert is_stored
    assert [seen.path for seen in chain.kis.requests] == [APPROVAL_PATH]
    assert chain.issue_calls == 0


def test_paper_keys_are_not_stored_as_real_ones(chain: Chain) -> None:
    """If KIS refuses paper keys for a real account, the error names both environments, and nothing is stored."""
    paper: Account = chain.kis.accounts["paper"][0]
    ended = set_keys(chain, paper.app_key, paper.app_secret)

    assert (ended.returncode, "[kis-key-refused]" in ended.stderr) == (1, True)
    assert "warning: Nothing was stored.\n" in ended.stderr
    assert "real accounts (실전)" in ended.stderr
    assert "paper accounts (모의) are for the environment paper" in ended.stderr
    assert is_empty(chain)
    right = set_keys(chain, paper.app_key, paper.app_secret, "--environment", "paper", KIS_BASE_URL=chain.kis.paper_url)
    assert (right.returncode, right.stdout.startswith("stored plain for kis-paper (paper)")) == (0, True)


def test_outage_of_kis_stores_nothing_unless_told(chain: Chain) -> None:
    """If KIS does not answer, ``set-keys`` stores nothing. With ``--no-verify``, it stores the unchecked keys."""
    chain.kis.production.stop()
    ended = set_keys(chain, KEY, SECRET)
    assert (ended.returncode, "[kis-unreachable]" in ended.stderr) == (1, True)
    assert "warning: Nothing was stored, because KIS did not check the keys." in ended.stderr
    assert "--no-verify" in ended.stderr
    assert is_empty(chain)

    assert set_keys(chain, KEY, SECRET, "--no-verify").returncode == 0
    assert not is_empty(chain)


def test_supabase_is_needed_before_the_keys(chain: Chain) -> None:
    """If the settings of Supabase are missing, the command fails before it asks for a key."""
    ended = kis_token_here({}, "set-keys", standard_input=f"{KEY}\n{SECRET}\n")
    asked = kis_token({"SUPABASE_URL": chain.supabase.url}, "set-keys")

    assert (ended.returncode, "[missing-supabase-url]" in ended.stderr) == (1, True)
    assert (asked.returncode, "[missing-supabase-key]" in asked.stderr, "app key" in asked.stderr) == (1, True, False)


def test_new_key_ends_a_year_from_today(chain: Chain) -> None:
    """Both rows get the end of the day in Korea one year from today, and the command prints this day."""
    ended = set_keys(chain, KEY, SECRET)

    last_day = default_last_day(utc_now())
    assert f"last day {last_day} in Korea" in ended.stdout
    assert [end and end.astimezone(KST).isoformat() for end in ends_of(chain)] == [f"{last_day}T23:59:59+09:00"] * 2


def test_given_day_is_stored(chain: Chain) -> None:
    """``--expires`` is a day in Korea.

    If the same key is stored again, the key keeps its day. Another key does not get the previous key's day.
    """
    set_keys(chain, KEY, SECRET, "--expires", "2999-03-01")
    chosen = datetime(2999, 3, 1, 14, 59, 59, tzinfo=timezone.utc)
    assert ends_of(chain) == [chosen] * 2

    again = set_keys(chain, KEY, SECRET)
    assert (ends_of(chain), "last day 2999-03-01" in again.stdout) == ([chosen] * 2, True)

    set_keys(chain, OTHER.key, OTHER.secret, "--no-verify")
    assert chosen not in ends_of(chain)


def test_key_without_a_day_stays_without_one(chain: Chain) -> None:
    """If a stored key has no day, and the same key is stored again, the key gets no day, because it is not new."""
    chain.database.put_keys()
    ended = set_keys(chain, KEY, SECRET)
    assert (ended.stdout, ends_of(chain)) == ("stored plain for kis (production)\n", [None, None])


@pytest.mark.parametrize("text", ["2020-01-01", "2027-02-30", "tomorrow", "01.03.2999", "2999-3", ""])
def test_other_texts_are_no_days(chain: Chain, text: str) -> None:
    """For a day that has passed, does not exist or has another form, the error names the form YYYY-MM-DD."""
    ended = set_keys(chain, KEY, SECRET, "--expires", text)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.endswith("error: --expires takes a day that has not passed, as YYYY-MM-DD\n")
    assert is_empty(chain)


def test_passed_day_does_not_end_a_key(chain: Chain) -> None:
    """A key is used after its stored day, because only KIS decides whether the key is valid."""
    chain.database.put_keys()
    put_key_end(chain, utc_now() - timedelta(days=3))
    got = chain.resolve(app_key="", app_secret="")
    assert (got.source, got.token.app_key_id) == ("oauth", make_token().app_key_id)
