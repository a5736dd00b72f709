"""Emulates the KIS Open API for tests: the real and the paper environment, and a clock that can be set forward.

    with KISEmulator() as kis:
        account = kis.accounts["production"][0]
        ...                            # call kis.production_url with account.app_key and account.app_secret
        kis.advance(7 * 3600)          # seven hours later
        kis.refuse("EGW00201", PRICE_PATH)  # the next quotation exceeds the calls per second
        kis.production.add_fault(Fault("reset", TOKEN_PATH, after=True))  # a token is issued, its answer is lost

No request leaves the machine. `kis_rules` has the emulated rules. `kis_http` has the addresses, and the forms of
requests and answers. With `kis_control`, other processes control the emulator.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from kis_token.clock import SystemClock
from kis_token.sandbox.kis_control import ControlWire
from kis_token.sandbox.kis_http import TOKEN_PATH, KISWire, error_code, error_response
from kis_token.sandbox.kis_rules import ENVIRONMENTS, Account, Clock, Environment, KISRules, Settings
from kis_token.sandbox.loopback import Fault, LoopbackServer, Request, Response

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

_DEFAULTS: Final[Mapping[Environment, Settings]] = MappingProxyType(
    {"production": Settings(calls_per_second=20), "paper": Settings(calls_per_second=2)}
)


class ShiftedClock:
    """A clock that can be set forward.

    The clock starts at the time of ``base`` or, without ``base``, of the machine.
    """

    def __init__(self, base: Clock | None = None) -> None:
        self._base = base or SystemClock()
        self._offset = timedelta()
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the emulated time, timezone-aware UTC."""
        return self._base.now() + self._offset

    def advance(self, seconds: float) -> None:
        """Set the clock forward.

        Raises ValueError if ``seconds`` is negative or if the new time is after the year 9999.
        """
        if not seconds >= 0:  # this condition is also true for NaN
            raise ValueError("the clock can only be set forward")
        with self._lock:
            try:
                offset = self._offset + timedelta(seconds=seconds)
                self._base.now() + offset
            except OverflowError:
                raise ValueError("the new time is beyond the end of the calendar") from None
            self._offset = offset


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request to a KIS environment. This record has no headers and no body, so it contains no secret.

    Attributes:
        environment: The KIS environment (production or paper) whose server got the request.
        method: The HTTP method.
        path: The path, without the query.
        status: The HTTP status of the answer, even if the client did not get the answer because of a fault. If the
            server made no answer because of a fault, ``status`` is None.
        code: The KIS error code in the answer, or None if the answer has no error code.
        at: The emulated time of the answer, timezone-aware, in UTC.
    """

    environment: Environment
    method: str
    path: str
    status: int | None
    code: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Counts:
    """The results of the tokenP calls of one environment.

    ``calls`` counts all calls, including calls with a fault. ``accepted`` counts the calls that got a token, and
    ``issues`` counts the calls that got a new token. KIS sends the owner of a real account a KakaoTalk message for each
    new token.
    """

    calls: int
    accepted: int
    issues: int


class KISEmulator:
    """Runs the servers of both KIS environments and a control server on 127.0.0.1.

    Use an emulator in a ``with`` block, or call ``start`` and ``stop``. After ``stop`` and a new ``start``, the
    emulator still has its tokens and settings. `production`, `paper` and `control` are the servers. Each server can be
    stopped separately, and the server's ``add_fault`` adds a fault to its next requests. `accounts` has the accounts of
    each environment. If no account is given for an environment, the environment gets a made-up account. With ``tls``,
    both environments are served over https. The control server always uses http. ``clock`` replaces the machine's
    clock.

    Raises ValueError if two accounts have the same app key.
    """

    def __init__(
        self,
        *,
        production: Account | Sequence[Account] | None = None,
        paper: Account | Sequence[Account] | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.accounts: Mapping[Environment, tuple[Account, ...]] = MappingProxyType(
            {"production": _accounts(production), "paper": _accounts(paper)}
        )
        keys = [account.app_key for accounts in self.accounts.values() for account in accounts]
        if len(set(keys)) < len(keys):
            raise ValueError("an app key belongs to one account, real or paper")
        self._clock = ShiftedClock(clock)
        self._rules = {name: KISRules(self.accounts[name], self._clock, _DEFAULTS[name]) for name in ENVIRONMENTS}
        self._seen: list[SeenRequest] = []
        self.production = self._server("production", tls)
        self.paper = self._server("paper", tls)
        self.control = LoopbackServer(ControlWire(self).handle)

    @property
    def production_url(self) -> str:
        """The base address of the real environment. Before the first ``start``, the port in the address is 0."""
        return self.production.url

    @property
    def paper_url(self) -> str:
        """The base address of the paper environment. Before the first ``start``, the port in the address is 0."""
        return self.paper.url

    @property
    def control_url(self) -> str:
        """The base address of the control server. Before the first ``start``, the port in the address is 0."""
        return self.control.url

    def start(self) -> None:
        """Start the servers of both environments and the control server. A server keeps its address after a restart."""
        for server in (self.production, self.paper, self.control):
            server.start()

    def stop(self) -> None:
        """Stop the servers of both environments and the control server. A stopped server refuses connections."""
        for server in (self.production, self.paper, self.control):
            server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def server(self, environment: Environment) -> LoopbackServer:
        """Return the server of an environment."""
        return self.production if environment == "production" else self.paper

    def now(self) -> datetime:
        """Return the emulated time, timezone-aware UTC."""
        return self._clock.now()

    def advance(self, seconds: float) -> None:
        """Set the emulated clock forward.

        Raises ValueError if ``seconds`` is negative or if the new time is after the year 9999.
        """
        self._clock.advance(seconds)

    def settings(self, environment: Environment) -> Settings:
        """Return the settings of an environment."""
        return self._rules[environment].settings

    def configure(self, /, environment: Environment | None = None, **changes: object) -> None:
        """Change the named `Settings` in ``environment`` or, if ``environment`` is None, in both environments.

        The changes affect later calls only: issued tokens keep their expiry.

        Raises:
            ValueError: A name is unknown or a value is invalid. If ``configure`` raises an error, no setting changes.
        """
        unknown = changes.keys() - {each.name for each in fields(Settings)}
        if unknown:
            raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
        names = ENVIRONMENTS if environment is None else (environment,)
        # `Settings` checks the types, because a value may come from an HTTP request.
        changed = {name: replace(self.settings(name), **changes) for name in names}  # type: ignore[arg-type]
        for name, settings in changed.items():
            self._rules[name].settings = settings

    def kill_token(self, token: str) -> None:
        """From now on, reject the token with the error EGW00121.

        Raises ValueError if this emulator has not issued the token.
        """
        self._rules_of_token(token).end_token(token, "EGW00121")

    def kill_tokens(self, app_key: str) -> None:
        """From now on, reject all existing tokens of an app key. The error is EGW00121.

        Raises ValueError if the key is unknown.
        """
        self._rules_of_key(app_key).end_tokens(app_key, "EGW00121")

    def expire_token(self, token: str) -> None:
        """From now on, reject the token with the error EGW00123, as if the token had expired.

        Raises ValueError if this emulator has not issued the token.
        """
        self._rules_of_token(token).end_token(token, "EGW00123")

    def expire_tokens(self, app_key: str) -> None:
        """From now on, reject all existing tokens of an app key. The error is EGW00123.

        Raises ValueError if the key is unknown.
        """
        self._rules_of_key(app_key).end_tokens(app_key, "EGW00123")

    def refuse(
        self,
        code: str,
        path: str,
        *,
        environment: Environment = "production",
        times: int = 1,
        status: int | None = None,
    ) -> None:
        """Answer the next ``times`` calls of ``path`` with the error ``code``, such as EGW00133.

        ``status`` replaces KIS's HTTP status, which is 403 for paths below /oauth2 and 500 for all other paths.
        """
        response = error_response(code, path, status=status)
        self.server(environment).add_fault(Fault("answer", path, times, response))

    @property
    def requests(self) -> tuple[SeenRequest, ...]:
        """The log of the real and the paper environment: an entry for each request, in the order of the answers."""
        return tuple(self._seen)

    def counts(self, environment: Environment) -> Counts:
        """Return the counts of all past tokenP calls of an environment."""
        issuances = self._rules[environment].issuances
        calls = sum(seen.environment == environment and seen.path == TOKEN_PATH for seen in self.requests)
        return Counts(calls, issuances.accepted, issuances.issues)

    def _server(self, environment: Environment, tls: ssl.SSLContext | None) -> LoopbackServer:
        def observe(request: Request, response: Response) -> None:
            status, code = response.status or None, error_code(response)
            self._seen.append(SeenRequest(environment, request.method, request.path, status, code, self.now()))

        return LoopbackServer(KISWire(self._rules[environment]).handle, tls=tls, observe=observe)

    def _rules_of_token(self, token: str) -> KISRules:
        for rules in self._rules.values():
            if rules.owns_token(token):
                return rules
        raise ValueError("no such token was issued")

    def _rules_of_key(self, app_key: str) -> KISRules:
        for rules in self._rules.values():
            if rules.owns_key(app_key):
                return rules
        raise ValueError("no account has this app key")


def _accounts(given: Account | Sequence[Account] | None) -> tuple[Account, ...]:
    if given is None:
        return (Account(),)
    return (given,) if isinstance(given, Account) else tuple(given)
