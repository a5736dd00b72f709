"""The report of a step that fails: annotations, outputs, and a summary with the remedy of each fault."""

from __future__ import annotations

import os
import re

from kis_token.errors import KOREAN_ENTRIES, KisTokenError, SettingsError
from kis_token.github.outputs import log_trace
from kis_token.github.summary import folded, page, plain, quoted, sources_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from kis_token.core.resolution import TraceEntry
    from kis_token.github.ports import Workflow

#: A SQL statement for the list of callers, at the end of a message.
_STATEMENT = re.compile(r"\b(?:insert into|update) public\.credential_callers .*;$")


def report_failure(error: KisTokenError, trace: tuple[TraceEntry, ...], workflow: Workflow) -> None:
    """Report the error's warnings, then each fault with its remedy, as annotations, outputs and summary."""
    faults = error.faults if isinstance(error, SettingsError) else [error]
    for warning in error.warnings:
        workflow.warning(warning)
    for fault in faults:
        workflow.error(fault.advice)
    log_trace(trace, workflow)
    # If GitHub's files cannot be written, only the annotations and the log report the error.
    try:
        workflow.output("error-code", ",".join(fault.code for fault in faults))
        workflow.output("error-hint", " ".join(dict.fromkeys(fault.hint for fault in faults)))
        workflow.summarize(describe_failure(faults, trace, error.warnings))
    except (OSError, KisTokenError):
        workflow.info("The output error-code and the summary could not be written.")


def describe_defect(error: Exception) -> KisTokenError:
    """Return an ``internal-error`` with the type and place of ``error``.

    The text of ``error`` is omitted, because that text may quote a secret.
    """
    import traceback

    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "kis_token" in frame.filename]
    place = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""  # noqa: PTH119 - text
    return KisTokenError("internal-error", f"Unexpected {type(error).__name__}{place}")


def describe_failure(faults: Sequence[KisTokenError], trace: Sequence[TraceEntry], warnings: Sequence[str] = ()) -> str:
    """Return the summary of a failure: each fault with its remedy, the warnings, and the results of the sources.

    The results of the sources are in a collapsed section. The error code of a fault is a hyperlink to the code's entry
    in the documents.
    """
    passes = all(fault.retryable for fault in faults)
    return page(
        *(
            [
                f"❌ [`{fault.code}`]({fault.entry}) {plain(fault.args[0])}\\",  # the backslash makes a line break
                f"**Next step:** {plain(fault.hint)} [한국어]({KOREAN_ENTRIES}#{fault.code})",
            ]
            for fault in faults
        ),
        *_statements(faults),
        ["This may be temporary: a later run may succeed."] if passes else [],
        *quoted(warnings),
        *(folded("Result of each source", sources_table(trace)) if trace else ()),
    )


def _statements(faults: Sequence[KisTokenError]) -> list[list[str]]:
    """Return the SQL statements in the messages as blocks of code.

    Users can copy the statements, because nothing is escaped.
    """
    found = (_STATEMENT.search(" ".join(f"{fault.args[0]}".split())) for fault in faults)
    return [["```sql", match[0], "```"] for match in found if match is not None]
