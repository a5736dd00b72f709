"""Controls a running emulator over HTTP, for tests in another process or language.

The bodies of requests and answers are JSON. An invalid request gets status 400, and an unknown address gets 404. Error
answers have the body ``{"error": text}``.

| request             | members of the body                 | answer                                             |
|---------------------|-------------------------------------|----------------------------------------------------|
| GET /clock          |                                     | ``now`` (ISO 8601, UTC)                            |
| POST /clock         | ``advance`` (seconds)               | as GET                                             |
| GET /requests       |                                     | ``requests``, a list of `SeenRequest`              |
| GET /counts         |                                     | `Counts` of each environment                       |
| GET /settings       |                                     | `Settings` of each environment                     |
| POST /settings      | any `Settings`, ``environment``     | as GET; changed in both if no environment is given |
| POST /tokens/kill   | ``token``, or ``app_key`` for all   | ``{}``; EGW00121 for them from now on              |
| POST /tokens/expire | ``token``, or ``app_key`` for all   | ``{}``; EGW00123 for them from now on              |
| POST /faults        | ``environment``, ``kind``, as below | ``{}``                                             |
| DELETE /faults      |                                     | ``{}``; all remaining faults are removed           |

In ``environment``, a fault affects the next ``times`` (default 1) requests with a path that starts with ``path``
(default "/"). If ``after`` is true (default false), the request takes effect, and only its answer is lost. The
following list has the values of the member ``kind``. After each value, the list names the other members of the
request's body, with default values in brackets:

- ``code``: an error with ``code``, such as EGW00133; ``status`` (403 for /oauth2, 500 elsewhere); ``path`` is
  required, because the form of the error depends on it
- ``html``: a page instead of JSON; ``status`` (503)
- ``stall``: no answer for ``seconds`` (300), then the connection closes
- ``reset``: the connection closes without an answer
- ``truncate``: half of the normal answer, then the connection closes
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from kis_token.sandbox.kis_http import error_response, html_response
from kis_token.sandbox.kis_rules import ENVIRONMENTS
from kis_token.sandbox.loopback import LONGEST_STALL_SECONDS, Fault, Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from kis_token.sandbox.emulator import KISEmulator
    from kis_token.sandbox.kis_rules import Environment

_T = TypeVar("_T", str, int, bool)


class ControlWire:
    """Answers the requests that tests send to the control server."""

    def __init__(self, emulator: KISEmulator) -> None:
        self._emulator = emulator
        self._routes: dict[tuple[str, str], Callable[[_Members], object]] = {
            ("GET", "/clock"): self._clock,
            ("POST", "/clock"): self._advance,
            ("GET", "/requests"): self._requests,
            ("GET", "/counts"): self._counts,
            ("GET", "/settings"): self._settings,
            ("POST", "/settings"): self._configure,
            ("POST", "/tokens/kill"): self._kill,
            ("POST", "/tokens/expire"): self._expire,
            ("POST", "/faults"): self._add_fault,
            ("DELETE", "/faults"): self._clear_faults,
        }

    def handle(self, request: Request) -> Response:
        """Return the answer to a request."""
        route = self._routes.get((request.method, request.path))
        if route is None:
            known = ", ".join(" ".join(each) for each in self._routes)
            return Response(404, {"error": f"no such address; there are {known}"})
        try:
            return Response(200, route(_Members(request)))
        except ValueError as error:
            return Response(400, {"error": str(error)})

    def _clock(self, members: _Members) -> object:
        members.end()
        return {"now": self._emulator.now().isoformat()}

    def _advance(self, members: _Members) -> object:
        seconds = members.number("advance")
        members.end()
        self._emulator.advance(seconds)
        return {"now": self._emulator.now().isoformat()}

    def _requests(self, members: _Members) -> object:
        members.end()
        return {"requests": [{**asdict(seen), "at": seen.at.isoformat()} for seen in self._emulator.requests]}

    def _counts(self, members: _Members) -> object:
        members.end()
        return {name: asdict(self._emulator.counts(name)) for name in ENVIRONMENTS}

    def _settings(self, members: _Members) -> object:
        members.end()
        return {name: asdict(self._emulator.settings(name)) for name in ENVIRONMENTS}

    def _configure(self, members: _Members) -> object:
        environment = members.environment() if "environment" in members else None
        self._emulator.configure(environment, **members.rest())
        return {name: asdict(self._emulator.settings(name)) for name in ENVIRONMENTS}

    def _kill(self, members: _Members) -> object:
        return _end(members, self._emulator.kill_token, self._emulator.kill_tokens)

    def _expire(self, members: _Members) -> object:
        return _end(members, self._emulator.expire_token, self._emulator.expire_tokens)

    def _add_fault(self, members: _Members) -> object:
        server = self._emulator.server(members.environment())
        fault = _fault(members)
        members.end()
        server.add_fault(fault)
        return {}

    def _clear_faults(self, members: _Members) -> object:
        members.end()
        for name in ENVIRONMENTS:
            self._emulator.server(name).clear_faults()
        return {}


class _Members:
    """The members of a JSON object. Each member is read once, and its type is checked. Errors raise ValueError."""

    def __init__(self, request: Request) -> None:
        body = request.json() if request.body else {}
        if type(body) is not dict:
            raise ValueError("the body must be a JSON object")
        self._left: dict[str, object] = body

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, kind: type[_T], default: _T | None = None) -> _T:
        value = self._left.pop(name, default)
        # isinstance would accept a bool as an int.
        if type(value) is not kind:
            raise ValueError(f"{name} must be given as {kind.__name__}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._left.pop(name, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        raise ValueError(f"{name} must be given as a number")

    def environment(self) -> Environment:
        name = self.take("environment", str)
        if name not in ENVIRONMENTS:
            raise ValueError(f"environment must be one of {', '.join(ENVIRONMENTS)}")
        return name

    def rest(self) -> dict[str, object]:
        left, self._left = self._left, {}
        return left

    def end(self) -> None:
        if self._left:
            raise ValueError(f"unknown here: {', '.join(self._left)}")


def _end(members: _Members, one: Callable[[str], None], every: Callable[[str], None]) -> object:
    end, name = (every, "app_key") if "app_key" in members else (one, "token")
    value = members.take(name, str)
    members.end()
    end(value)
    return {}


def _fault(members: _Members) -> Fault:
    kind = members.take("kind", str)
    path = members.take("path", str, None if kind == "code" else "/")
    times = members.take("times", int, 1)
    after = members.take("after", bool, default=False)
    if times < 1:
        raise ValueError("times must be at least 1")
    if not path.startswith("/"):
        raise ValueError("path must start with /")
    if kind == "code":
        code = members.take("code", str)
        response = error_response(code, path, status=_status(members, 403 if path.startswith("/oauth2") else 500))
        return Fault("answer", path, times, response, after=after)
    if kind == "html":
        return Fault("answer", path, times, html_response(_status(members, 503)), after=after)
    if kind == "stall":
        seconds = members.number("seconds", LONGEST_STALL_SECONDS)
        if not seconds >= 0:  # this condition is also true for NaN
            raise ValueError("seconds must not be negative")
        return Fault("stall", path, times, seconds=seconds, after=after)
    if kind == "reset":
        return Fault("reset", path, times, after=after)
    if kind == "truncate":
        return Fault("truncate", path, times, after=after)
    raise ValueError("kind must be one of code, html, stall, reset, truncate")


def _status(members: _Members, default: int) -> int:
    status = members.take("status", int, default)
    if not 200 <= status <= 599:
        raise ValueError("status must be from 200 to 599")
    return status
