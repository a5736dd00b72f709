"""The order of the steps of ``kis-token init``.

Each step first checks whether its work is done, so a later run continues where an earlier run ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.admin.check import examine
from kis_token.errors import SettingsError
from kis_token.kis.api import KISIssuer
from kis_token.setup.account import ensure_app_key
from kis_token.setup.connection import connect
from kis_token.setup.first_token import get_twice
from kis_token.setup.github_steps import PUBLIC_KEYS, check_public_key, set_repository_settings, write_workflows
from kis_token.setup.keep import keep_settings
from kis_token.setup.repository import choose_name, find_access
from kis_token.setup.sql_paste import ensure_sql
from kis_token.wiring import open_store

if TYPE_CHECKING:
    from kis_token.config import Settings
    from kis_token.setup.options import Setup
    from kis_token.setup.tables import Access


def run(setup: Setup) -> bool:
    """Set everything up, and get the first token. Returns False if the check of the set-up finds a fault.

    This function can be called again at any time: it does not change the parts that are already set up. Raises
    KisTokenError.
    """
    options, dialogue = setup.options, setup.dialogue
    if dialogue.is_absent:
        require_all(setup)
    settings = connect(setup)
    name = choose_name(setup)
    access = None if options.with_secret or name is None else find_access(setup, settings, name)
    if not ensure_sql(setup, settings, access):
        dialogue.tell("Without --dry-run, these steps follow: app key, check, token, workflows and repository.")
        return True
    with open_store(settings, setup.clock.monotonic(), dialogue.warn, setup.clock) as store:
        ensure_app_key(setup, settings, store)
    settings = setup.settings()
    if options.is_dry:
        dialogue.report("would", "token", "get the token, and issue one if no valid token is stored")
        lines = []
    else:
        if not _is_sound(setup, settings):
            return False
        lines = get_twice(setup, settings)
        dialogue.tell(f"The {'first ' if lines[0][0] == 'new' else ''}token is ready.\n")
    _set_up_repository(setup, settings, name, access)
    keep_settings(setup, settings)
    for state, said in lines:
        dialogue.report(state, "token", said)
    return True


def require_all(setup: Setup) -> None:
    """If variables or options are missing or invalid, raise one SettingsError that lists all of them."""
    faults = []
    try:
        settings: Settings | None = setup.settings()
    except SettingsError as error:
        settings = None
        faults = [(fault.code, f"{fault.args[0]}") for fault in error.faults]
        if not setup.env.get("KIS_APP_KEY") and any(code.startswith("missing-supabase-") for code, _ in faults):
            faults.append(("missing-app-key", "No app key and secret are given"))
    if not setup.options.with_secret:
        if choose_name(setup) is None:
            faults.append(("missing-repository", "No repository is given, and the folder has no remote at github.com"))
        try:
            check_public_key(
                next(filter(None, map(setup.env.get, PUBLIC_KEYS)), ""), settings.supabase_url if settings else ""
            )
        except SettingsError as error:
            faults += [(fault.code, f"{fault.args[0]}") for fault in error.faults]
    if faults:
        raise SettingsError(list(dict.fromkeys(faults)))


def _is_sound(setup: Setup, settings: Settings) -> bool:
    """Check the set-up as ``kis-token check`` does. Show each fault, and each note that has a remedy."""
    findings = []
    issuer = KISIssuer(settings.base_url, settings.environment)
    with open_store(settings, setup.clock.monotonic(), setup.dialogue.warn, setup.clock) as store:
        for finding in examine(settings, store, issuer, setup.clock):
            findings.append(finding)
            if finding.state == "wrong" or (finding.state == "note" and finding.remedy):
                setup.dialogue.warn(f"{finding}")
    is_sound = all(finding.state != "wrong" for finding in findings)
    if is_sound:
        number = sum(finding.state == "ok" for finding in findings)
        setup.dialogue.report("ok", "check", f"{number} checks passed; kis-token check lists them")
    else:
        setup.dialogue.warn(
            "No token was issued. Correct the lines that begin with wrong, and run kis-token init again."
        )
    return is_sound


def _set_up_repository(setup: Setup, settings: Settings, name: str | None, access: Access | None) -> None:
    if access is not None:
        name = access.caller.repository.name
    if name is None and not setup.dialogue.is_absent:
        setup.dialogue.report("note", "workflow", "not written: no repository was named")
        return
    write_workflows(setup, settings)
    if settings.encryption_keys:
        setup.dialogue.tell(
            "The stored values are sealed. Set the secret KIS_TOKEN_ENCRYPTION_KEY of the repository. Pass the secret "
            "to the action as the input encryption-key, and to the workflow of the rotation in its list of secrets."
        )
    set_repository_settings(setup, settings, name)
