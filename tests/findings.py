"""A plugin that fails a run, even if all tests pass, for a shown secret or for an exception outside of all tests.

With pytest-xdist, each worker examines itself and sends its findings to the process that started the worker. The
starting process runs no tests.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.threadexception import collect_thread_exception
from _pytest.unraisableexception import collect_unraisable

from tests import leaks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

#: The rounds of garbage collection. An object can be collected only in the round after its owner's.
ROUNDS = 5


class Findings:
    """The findings of this process and of its workers. The functions ``looks`` run when all tests are over."""

    def __init__(self, *looks: Callable[[pytest.Config], Iterable[str]]) -> None:
        self._looks = looks
        self._found: set[str] = set()

    def pytest_collection_finish(self) -> None:
        """Exempt tests and modules from garbage collection, because their number makes each collection slow."""
        gc.freeze()

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Run the functions ``looks``. A finding fails the run."""
        try:
            return (yield)
        finally:
            for look in self._looks:
                self._found.update(look(session.config))
            if hasattr(session.config, "workeroutput"):
                session.config.workeroutput["findings"] = sorted(self._found)
            if self._found and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:  # noqa: ANN401 - a private class of pytest-xdist
        """Take the findings of an ended worker. A crashed worker sends no findings, but a crash also fails the run."""
        sent = getattr(node, "workeroutput", {})
        self._found.update(sent.get("findings", ()))
        if "shared" in sent:
            leaks.LEAKS.shared = Path(sent["shared"])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the findings."""
        if self._found:
            terminalreporter.section("not any test's failure, and fails the run", sep="=", red=True, bold=True)
            for finding in sorted(self._found):
                terminalreporter.write_line(finding)


def watch(config: pytest.Config) -> None:
    """Watch the tests of this process, or gather the workers' findings.

    A conftest.py calls this function in its pytest_configure.
    """
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Findings(leaks.look_at_shared_files), "findings")
        return
    config.pluginmanager.register(leaks, "leaks")
    config.pluginmanager.register(Findings(leaks.last_look, hidden_exceptions), "findings")


def hidden_exceptions(config: pytest.Config) -> Iterator[str]:
    """Yield the exceptions of threads and finalizers after the last test.

    pytest itself reports these exceptions only after a worker has reported its result, which is too late.
    """
    for _ in range(ROUNDS):
        gc.collect()
    yield from _errors_of(collect_thread_exception, config)
    yield from _errors_of(collect_unraisable, config)


def _errors_of(collect: Callable[[pytest.Config], None], config: pytest.Config) -> Iterator[str]:
    try:
        collect(config)
    except Exception as error:  # noqa: BLE001 - a warning as an exception, or a group of them
        yield f"HIDDEN {type(error).__name__}: {error}"
