"""The SQL that a Supabase project needs: where its files are, and which version of them this package needs."""

from __future__ import annotations

from pathlib import Path

from kis_token.errors import StoreMisconfigured

#: What `credential_schema_version` answers in the database. An older one lacks something that this package relies on.
SCHEMA_VERSION = 2


def migrations_folder() -> Path:
    """This project's migrations: in the package when it is installed, at the top of a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "sql"
    return shipped if shipped.is_dir() else package.parent / "sql"


def migrations() -> list[Path]:
    """The files, in the order in which they are run."""
    return sorted(migrations_folder().glob("*.sql"))


def outdated(version: int | None) -> StoreMisconfigured | None:
    """The error for a database that is too old for this package; None when it is not.

    ``version`` is that of its functions, None when they are from before there was one.
    """
    if version is not None and version >= SCHEMA_VERSION:
        return None
    found = "has none" if version is None else f"is at {version}"
    files = ", ".join(path.name for path in migrations())
    return StoreMisconfigured(
        "store-schema-outdated",
        f"This release needs version {SCHEMA_VERSION} of the tables and functions, and Supabase {found}: run {files}",
    )
