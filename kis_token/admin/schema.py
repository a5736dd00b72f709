"""Whether a project's tables, functions, grants and policies are as the migrations leave them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kis_token.admin.finding import Finding, ok, wrong, wrong_as
from kis_token.errors import REMEDIES, StoreMisconfigured
from kis_token.store.migrations import outdated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kis_token.store.supabase import SupabaseStore

_KINDS = {
    "tables": "they and their functions are there, as the files of sql/ leave them",
    "grants": "the key may do what is needed; the public roles, and a reader, have no more than they should",
    "row level security": "it is on, with its policies",
}


def check_schema(store: SupabaseStore) -> Iterator[Finding]:
    """The database looks itself; its last file brought the functions for that, so without them not all have been run.

    Raises StoreOutage.
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
