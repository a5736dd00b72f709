"""The check of a project's tables, functions, grants and policies against the files of sql/."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.admin.finding import Finding, ok, wrong, wrong_as
from kis_token.errors import StoreMisconfigured
from kis_token.remedies import REMEDIES
from kis_token.store.migrations import outdated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.store.supabase import SupabaseStore

_KINDS = {
    "tables": "the tables and their functions match the files of sql/",
    "grants": "the key has the needed rights; public roles and read-only keys have only the intended rights",
    "row level security": "on, with its policies",
}


def check_schema(store: SupabaseStore) -> Iterator[Finding]:
    """Yield the findings of check_setup(), the database's own check. Raises StoreOutage.

    If the database lacks check_setup(), the only finding is that not all files of sql/ were run.
    """
    try:
        is_old = outdated(store.schema_version())
        faults = store.setup_faults()
    except StoreMisconfigured as error:
        yield wrong_as("tables", error)
        return
    if is_old is not None:
        yield wrong_as("tables", is_old)
        return
    for what, said in faults:
        yield wrong(what, said, REMEDIES["store-table-missing"])
    for kind, said in _KINDS.items():
        if kind not in {what for what, _ in faults}:
            yield ok(kind, said)
