"""The answers of GitHub's ID token endpoint: a token, or an error that repeats no text of the answer."""

from __future__ import annotations

import pytest

from kis_token.errors import StoreError
from kis_token.process.caller_identity import IDTokenRequest
from kis_token.sandbox.loopback import LoopbackServer, Request, Response
from kis_token.store.id_token import LARGEST_TOKEN, IDTokens

AUDIENCE = "https://abcdefghijklmnopqrst.supabase.co"


def ask(answer: Response) -> tuple[str, list[str], list[Request]]:
    """Ask for a token. Return the token or the error's code, the masks, and the requests."""
    seen: list[Request] = []
    masks: list[str] = []

    def respond(request: Request) -> Response:
        seen.append(request)
        return answer

    with LoopbackServer(respond) as server:
        request = IDTokenRequest(f"{server.url}/126/idtoken?api-version=2.0", "request-secret-of-a-job")
        try:
            got, said = IDTokens(request, AUDIENCE, lambda: 5.0, masks.append).get(), ""
        except StoreError as error:
            got, said = error.code, f"{error!r} {error.__context__!r}"
    assert [text for text in ("text-of-the-answer", "request-secret") if text in said] == []
    return got, masks, seen


def test_token_is_masked_and_returned() -> None:
    """The request has the audience and the job's secret, and the token is masked."""
    got, masks, seen = ask(Response(200, {"value": "eyJh.eyJp.c2ln"}))

    assert (got, masks) == ("eyJh.eyJp.c2ln", ["eyJh.eyJp.c2ln"])
    assert dict(seen[0].query) == {"api-version": "2.0", "audience": AUDIENCE}
    assert seen[0].headers["Authorization"] == "Bearer request-secret-of-a-job"


@pytest.mark.parametrize(
    "value",
    ["..", "a\n.b\n.c", "a.b.c\n", " a.b.c", "a.b", "a.b.c.d", "a.b.c=", "é.b.c", "", None, 1, ["a.b.c"]],
    ids=repr,
)
def test_value_that_is_no_token(value: object) -> None:
    """A value of another form is an error and is not masked, because a short mask would blank much of the log."""
    got, masks, _ = ask(Response(200, {"value": value}))
    assert (got, masks) == ("id-token-missing", [])


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Response(302, {"value": "a.b.c"}, headers={"Location": "http://127.0.0.1:1/"}), "id-token-unavailable"),
        (Response(200, {"value": "a" * LARGEST_TOKEN + ".b.c"}), "id-token-missing"),
        (Response(200, ["text-of-the-answer"]), "id-token-missing"),
        (Response(201, {"value": "a.b.c"}), "id-token-unavailable"),
        (Response(500, {"message": "text-of-the-answer"}), "id-token-unavailable"),
        (Response(429, {"message": "text-of-the-answer"}), "id-token-unavailable"),
        (Response(403, {"message": "text-of-the-answer"}), "id-token-refused"),
        (Response(404, {"message": "text-of-the-answer"}), "id-token-refused"),
    ],
    ids=lambda part: str(part.status) if isinstance(part, Response) else part,
)
def test_answer_that_has_no_token(answer: Response, code: str) -> None:
    """A refusal, an outage and a missing token have different codes. A redirect is not followed."""
    got, masks, seen = ask(answer)
    assert (got, masks, len(seen)) == (code, [], 1)
