"""The SQL that lists a repository's jobs as callers without a key, and that stores the keys of their issuer.

Only the database's owner can write the list of callers; no key of the API can. So ``kis-token trust`` prints SQL for
the SQL editor. This module checks that each value has the form that sql/007 requires for its column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from kis_token.admin.github_server import GITHUB_ISSUER
from kis_token.errors import KisTokenError

if TYPE_CHECKING:
    from kis_token.admin.github_repository import Repository
    from kis_token.admin.issuer_keys import PublishedKeys

Access = Literal["token", "keys", "issue"]

#: The values of the column ``access``; the first value is the default.
ACCESSES: tuple[Access, ...] = get_args(Access)
#: The events that `issuance_events` in sql/007 returns. The default of the column ``events`` is the first three entries
#: of EVENTS.
EVENTS = ("schedule", "workflow_dispatch", "push", "repository_dispatch", "release")
DEFAULT_EVENTS = EVENTS[:3]

_ALLOWED = {
    "token": "read the token",
    "keys": "read the token, the app key and the app secret",
    "issue": "read the token, the app key and the app secret, and issue tokens",
}
# The patterns below accept the same texts as `issuance_is_ref`, `issuance_is_audience` and the constraints of
# credential_callers in sql/.
_REF = re.compile(
    r"refs/(heads|tags)/"
    r"[^\x01-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f"
    r"\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff~^:?*\[\\]{1,244}"
)
_OTHERS_REF = re.compile(r"refs/heads/(dependabot|gh-readonly-queue)/")
_AUDIENCE = re.compile(
    r"(https://([a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])|http://(127\.0\.0\.1|localhost|\[::1\]))"
    r"(:[0-9]{1,5})?"
)
_GITHUBS_AUDIENCE = re.compile(r"https://([a-z0-9.-]+\.)?(github\.com|githubusercontent\.com|ghe\.com)(:|\Z)")
_WORKFLOW = re.compile(r"\.github/workflows/[^\s\x00-\x1f\x7f-\x9f/@*?]{1,200}\.ya?ml")
_ID = re.compile(r"[1-9][0-9]{0,19}", re.ASCII)
#: The columns of the unique index credential_callers_once.
_ONCE = (
    "service_name, repository_id, ref, issuer, audience, runner_environment, "
    "coalesce(environment, ''), coalesce(workflow, ''), coalesce(job_workflow_ref, '')"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """A checked row of ``credential_callers``.

    Raises KisTokenError ``invalid-caller`` if the database could not store the row.
    """

    service_name: str
    audience: str
    repository: Repository
    ref: str
    access: Access = "token"
    events: tuple[str, ...] = DEFAULT_EVENTS
    runner_environment: Literal["github-hosted", "self-hosted"] = "github-hosted"
    environment: str | None = None
    workflow: str | None = None
    issuer: str = GITHUB_ISSUER

    def __post_init__(self) -> None:
        checks = (
            ("--supabase-url", is_audience(self.audience)),
            ("--repository-id", _ID.fullmatch(self.repository.repository_id)),
            ("--owner-id", _ID.fullmatch(self.repository.owner_id)),
            ("--branch or --tag", is_ref(self.ref)),
            ("--events", self.events and set(self.events) <= set(EVENTS)),
            ("--environment", self.environment is None or is_environment(self.environment)),
            ("--workflow", self.workflow is None or _WORKFLOW.fullmatch(self.workflow)),
        )
        for option, fits in checks:
            if not fits:
                raise unfit(option)


def unfit(option: str) -> KisTokenError:
    """Return the error for an option whose value the list of callers cannot hold.

    The error does not quote the value.
    """
    return KisTokenError("invalid-caller", f"The list of callers cannot hold the value of {option}")


def is_ref(text: str) -> bool:
    """Whether the list of callers accepts ``text`` as a branch or tag. `issuance_is_ref` in sql/ has the same rule."""
    return _REF.fullmatch(text) is not None and _OTHERS_REF.match(text) is None and "\0" not in text


def is_audience(text: str) -> bool:
    """Whether the list of callers accepts ``text`` as an audience. `issuance_is_audience` in sql/ has the same rule."""
    return _AUDIENCE.fullmatch(text) is not None and _GITHUBS_AUDIENCE.match(text) is None


def is_environment(text: str) -> bool:
    """Whether the list of callers accepts ``text`` as the name of a GitHub environment."""
    return 0 < len(text) <= 255 and text.isprintable() and not set(text) & set("*?")


def quote(text: str) -> str:
    """Return ``text`` as an SQL literal, in the form that PostgreSQL's quote_literal writes."""
    doubled = text.replace("'", "''")
    return " E'" + doubled.replace("\\", "\\\\") + "'" if "\\" in text else f"'{doubled}'"


def caller_sql(caller: Caller) -> str:
    """Return the SQL statement that adds a caller to the list, or that changes access and events of a listed caller."""
    values = {
        "service_name": caller.service_name,
        "access": caller.access,
        "audience": caller.audience,
        "repository_owner_id": caller.repository.owner_id,
        "repository_id": caller.repository.repository_id,
        "ref": caller.ref,
        "events": "{" + ",".join(caller.events) + "}",
        "runner_environment": caller.runner_environment,
        "environment": caller.environment,
        "workflow": caller.workflow,
        "issuer": caller.issuer,
        "note": caller.repository.name,
    }
    given = {name: value for name, value in values.items() if value is not None}
    changed = ("access", "repository_owner_id", "events", "note")
    return (
        f"-- {caller.repository.name}, {caller.ref}: its jobs may {_ALLOWED[caller.access]} of the slot"
        f" {caller.service_name}.\n"
        f"insert into public.credential_callers\n    ({', '.join(given)})\n"
        f"values\n    ({', '.join(quote(value).strip() for value in given.values())})\n"
        f"on conflict ({_ONCE})\n"
        f"do update set {', '.join(f'{name} = excluded.{name}' for name in changed)};\n"
    )


def keys_sql(published: PublishedKeys) -> str:
    """Return the SQL statement that adds an issuer's keys to the stored keys, and that replaces changed keys."""
    rows = ",\n".join(
        f"    ({quote(published.issuer)}, {quote(key.kid)}, '\\x{key.modulus.hex()}')" for key in published.keys
    )
    left_out = (
        f"-- Left out: {published.unusable}. The table can hold only RSA keys of 2048 to 4096 bits with the exponent"
        " 65537.\n"
        if published.unusable
        else ""
    )
    return (
        f"-- The keys that {published.issuer} publishes.\n{left_out}"
        f"insert into public.credential_issuer_keys (issuer, kid, modulus)\nvalues\n{rows}\n"
        "on conflict (issuer, kid) do update set modulus = excluded.modulus, added_at = now()\n"
        "where credential_issuer_keys.modulus <> excluded.modulus;\n"
    )


def transaction(*statements: str) -> str:
    """Return the statements as one transaction for the SQL editor: all statements take effect, or none does."""
    head = "-- Printed by kis-token trust, for the SQL editor of the Supabase project. Run the files of sql/ first.\n"
    return "\n".join((f"{head}begin;\n", *statements, "commit;\n"))
