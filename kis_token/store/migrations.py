"""The SQL files that a Supabase project must run, and the version of the SQL that this package needs."""

from __future__ import annotations

from pathlib import Path

from kis_token.errors import StoreMisconfigured

#: The version that `credential_schema_version` returns in a database with the current files of sql/. A database with a
#: lower version lacks a part that this package needs.
SCHEMA_VERSION = 2


def migrations_folder() -> Path:
    """The folder of the SQL files.

    An installed package contains the folder kis_token/sql. A checkout has the folder sql at the top level.
    """
    package = Path(__file__).parents[1]
    shipped = package / "sql"
    return shipped if shipped.is_dir() else package.parent / "sql"


def migrations() -> list[Path]:
    """The SQL files, in the order in which they must be run."""
    return sorted(migrations_folder().glob("*.sql"))


def outdated(version: int | None) -> StoreMisconfigured | None:
    """The error for a database that is too old for this package; None if the database is new enough.

    ``version`` is the version of the database's functions; None if the functions are too old to have a version.
    """
    if version is not None and version >= SCHEMA_VERSION:
        return None
    found = "has none" if version is None else f"is at {version}"
    files = ", ".join(path.name for path in migrations())
    return StoreMisconfigured(
        "store-schema-outdated",
        f"This release needs version {SCHEMA_VERSION} of the tables and functions, and Supabase {found}: run {files}",
    )
