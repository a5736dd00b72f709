"""Writes the results of a workflow step. A secret is masked, and the log is flushed, before any output."""

from __future__ import annotations

from kis_token.errors import EnvironmentFault, KisTokenError
from kis_token.github.summary import describe_success
from kis_token.settings.pasted_values import parse_claims, payload_of
from kis_token.token import in_both_zones, looks_like_token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from kis_token.config import Settings
    from kis_token.core.resolution import Resolution, TraceEntry, View
    from kis_token.github.ports import Workflow
    from kis_token.token import AppKey, Token

#: A text with fewer characters than this is not masked. A mask of a short text, such as a common word, would hide the
#: word in the whole log. Each key and each token is longer than SHORTEST_SECRET.
SHORTEST_SECRET = 16


def mask_secrets(secrets: Iterable[str], workflow: Workflow) -> None:
    """Mask each line of ``secrets`` that has at least SHORTEST_SECRET characters.

    The caller must mask a secret before any other use of that secret.
    """
    for line in dict.fromkeys(line for secret in secrets for line in secret.splitlines()):
        if len(line) >= SHORTEST_SECRET:
            workflow.mask(line)


def mask_token(token: Token, workflow: Workflow) -> None:
    """Mask a token, the app key inside it, and the part of the token that decodes to the app key."""
    workflow.mask(token.value)
    app_key = parse_claims(token.value).get("jti")
    if isinstance(app_key, str) and looks_like_token(app_key):
        mask_secrets([app_key, payload_of(token.value)], workflow)


def mask_view(view: View, workflow: Workflow) -> None:
    """Mask all tokens and keys of store and cache, also the tokens and keys that no output will contain."""
    for token in (view.stored, view.cached):
        if token is not None:
            mask_token(token, workflow)
    if view.app_key is not None:
        mask_secrets([view.app_key.key, view.app_key.secret], workflow)


def publish(
    resolution: Resolution, settings: Settings, workflow: Workflow, env: Mapping[str, str], now: datetime
) -> None:
    """Mask token and keys, write the token files, then set the outputs and variables and write the summary.

    ``env`` (the environment) and ``now`` (the machine's time) are used for the token files. Raises:

    - KisTokenError ``missing-app-key``, before any output, if keys must be exported and no keys are known
    - the errors that ``export`` raises for the token files
    - EnvironmentFault if the files that GitHub provides for outputs, variables or the summary cannot be written;
      callers should call ``require_file`` first

    Each raised error also has the warnings of ``resolution``.
    """
    try:
        _put_out(resolution, settings, workflow, env, now)
    except KisTokenError as error:
        error.warn(resolution.warnings)
        raise
    for warning in resolution.warnings:
        workflow.warning(warning)
    log_trace(resolution.trace, workflow)
    workflow.info(f"token from {resolution.source}, valid until {in_both_zones(resolution.token.expires_at)}")
    try:
        workflow.summarize(describe_success(resolution, settings))
    except EnvironmentFault as error:
        workflow.warning(error.brief)  # the step succeeds, because the outputs are set already


def _put_out(
    resolution: Resolution, settings: Settings, workflow: Workflow, env: Mapping[str, str], now: datetime
) -> None:
    """Set masks, write token files, then set outputs and variables."""
    token, app_key = resolution.token, resolution.app_key
    if settings.export_credentials and app_key is None:
        raise KisTokenError("missing-app-key", "export-credentials is set but no app key is known")
    mask_token(token, workflow)
    if app_key is not None:
        mask_secrets([app_key.key, app_key.secret], workflow)
    if settings.token_files:
        _write_token_files(resolution, settings, workflow, env, now)

    exported = app_key if settings.export_credentials else None
    for name, value in outputs_of(resolution, settings).items():
        workflow.output(name.replace("_", "-"), _text(value))
    if exported is not None:
        workflow.output("app-key", exported.key)
        workflow.output("app-secret", exported.secret)
    if settings.export_env:
        for name, value in variables_of(resolution, settings, exported).items():
            workflow.export(name, value)


def outputs_of(resolution: Resolution, settings: Settings) -> dict[str, str | int | bool]:
    """Return the outputs of a resolution, without keys. The names are those of action.yml, with underscores.

    Times are ISO 8601 in UTC, in whole seconds. ``expires_in`` is in seconds, and 0 for an expired token.
    """
    token = resolution.token
    return {
        "access_token": token.value,
        "expires_at": token.expires_at.isoformat(timespec="seconds"),
        "issued_at": token.issued_at.isoformat(timespec="seconds"),
        "expires_in": max(int(token.remaining(resolution.now).total_seconds()), 0),
        "source": resolution.source,
        "refreshed": resolution.refreshed,
        "expired": resolution.expired,
        "environment": settings.environment,
        "base_url": settings.base_url,
    }


def variables_of(resolution: Resolution, settings: Settings, app_key: AppKey | None = None) -> dict[str, str]:
    """Return the variables for programs: the token, its host and, if ``app_key`` is given, key and secret."""
    variables = {"KIS_ACCESS_TOKEN": resolution.token.value, "KIS_BASE_URL": settings.base_url}
    if app_key is not None:
        variables |= {"KIS_APP_KEY": app_key.key, "KIS_APP_SECRET": app_key.secret}
    return variables


def _write_token_files(
    resolution: Resolution, settings: Settings, workflow: Workflow, env: Mapping[str, str], now: datetime
) -> None:
    if resolution.expired:
        workflow.warning("No token file was written: the clients would not use an expired token.")
        return
    from kis_token.local.token_files import export

    export(resolution.token, resolution.app_key, settings, env, now)
    # The log gets the clients' names only, because the name of a file may contain an account's id.
    workflow.info(f"token files written for {', '.join(settings.token_files)}")


def log_trace(trace: tuple[TraceEntry, ...], workflow: Workflow) -> None:
    """Add the result of each source to the log."""
    for entry in trace:
        workflow.info(f"{entry.source}: {entry.text}")


def _text(value: str | int | bool) -> str:  # noqa: FBT001 - an output can be a boolean
    """Return the text of an output. A boolean becomes true or false, the words that workflows compare."""
    return f"{value}".lower() if isinstance(value, bool) else f"{value}"
