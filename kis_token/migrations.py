"""The SQL that a Supabase project needs: where its files are."""

from __future__ import annotations

from pathlib import Path


def migrations_folder() -> Path:
    """This project's migrations: in the package when it is installed, at the top of a checkout."""
    package = Path(__file__).parent
    shipped = package / "sql"
    return shipped if shipped.is_dir() else package.parent / "sql"


def migrations() -> list[Path]:
    """The files, in the order in which they are run."""
    return sorted(migrations_folder().glob("*.sql"))
