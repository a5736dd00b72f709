"""The packages python-kis and kis-trader find the token in the file, and do not call tokenP.

Both packages call only KIS's own host, so each program first replaces the package's constant by the emulator's address.
Apart from this constant, the programs use only the public interface of a package.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kis_token.sandbox.kis_rules import Environment
    from tests.local.clients.conftest import Machine

PYTHON_KIS = """
import os
import pykis.kis
from pykis import KisAuth, PyKis

pykis.kis.REAL_DOMAIN, pykis.kis.VIRTUAL_DOMAIN = os.environ["REAL_URL"], os.environ["PAPER_URL"]

def auth(kind):
    return KisAuth(
        id=os.environ["KIS_HTS_ID"],
        appkey=os.environ[f"KIS_{kind}_APP_KEY"],
        secretkey=os.environ[f"KIS_{kind}_APP_SECRET"],
        account="00000000-01",
        virtual=kind == "PAPER",
    )

is_paper = os.environ["ENVIRONMENT"] == "paper"
kis = PyKis(auth("REAL"), *[auth("PAPER")] * is_paper, keep_token=True, use_websocket=False)
answer = kis.fetch(
    "/uapi/domestic-stock/v1/quotations/inquire-price",
    api="FHKST01010100",
    params={"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": "005930"},
    domain="virtual" if is_paper else "real",
)
print(answer.output.stck_prpr)
"""

KIS_TRADER = """
import os
from kis_trader import KISClient
from kis_trader._internal import _endpoints

_endpoints._BASE_URL_BY_ENVIRONMENT.update(real=os.environ["REAL_URL"], paper=os.environ["PAPER_URL"])

kind = "paper" if os.environ["ENVIRONMENT"] == "paper" else "real"
kis = KISClient(
    app_key=os.environ[f"KIS_{kind.upper()}_APP_KEY"],
    app_secret=os.environ[f"KIS_{kind.upper()}_APP_SECRET"],
    environment=kind,
)
answer = kis.transport.request(
    method="GET",
    path="/uapi/domestic-stock/v1/quotations/inquire-price",
    tr_id="FHKST01010100",
    params={"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": "005930"},
    idempotent=True,
)
print(answer.body["output"]["stck_prpr"])
"""

PROGRAMS = [
    pytest.param("python-kis", PYTHON_KIS, id="python-kis"),
    pytest.param(
        "kis-trader",
        KIS_TRADER,
        id="kis-trader",
        marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="kis-trader wants Python 3.11"),
    ),
]
both_packages = pytest.mark.parametrize(("client", "program"), PROGRAMS)
both_environments = pytest.mark.parametrize("environment", ["production", "paper"])


@both_packages
@both_environments
def test_token_is_taken_from_the_file(machine: Machine, client: str, program: str, environment: Environment) -> None:
    """The package gets a quotation, and the only tokenP call is the one that issued the token."""
    machine.write(client, environment)

    done = machine.run(program, environment)

    assert (done.returncode, done.stdout) == (0, "71500\n"), done.stderr
    assert machine.quotes(environment) == 1
    assert machine.calls() == 1


@both_packages
@both_environments
def test_without_the_file_they_issue(machine: Machine, client: str, program: str, environment: Environment) -> None:
    """If there is no file, the same program calls tokenP, so it is the file that prevents this call."""
    done = machine.run(program, environment)

    assert (done.returncode, done.stdout) == (0, "71500\n"), f"{client}: {done.stderr}"
    assert machine.calls() == 1


@both_packages
def test_file_is_the_one_that_the_package_writes(machine: Machine, client: str, program: str) -> None:
    """The export writes a file with the name and content that the package writes after its own issue."""
    machine.run(program, "production")
    theirs = {path.relative_to(machine.home): json.loads(path.read_text()) for path in machine.home.rglob("*.json")}
    machine.kis.advance(61)  # KIS repeats the token
    machine.write(client, "production")
    ours = {path.relative_to(machine.home): json.loads(path.read_text()) for path in machine.home.rglob("*.json")}

    assert list(ours) == list(theirs)
    (our,), (their,) = ours.values(), theirs.values()
    same = our.pop("access_token") == their.pop("access_token")
    assert same, "another token"
    ends = [each.pop("expires_at", 0) for each in (our, their)]
    assert abs(ends[0] - ends[1]) < 60  # kis-trader counts the end from the arrival of the answer
    assert our == their


@both_packages
def test_token_near_its_end_is_not_used(machine: Machine, client: str, program: str) -> None:
    """With less than ten minutes left, both packages call tokenP.

    Therefore docs/clients.md recommends a longer min-validity.
    """
    machine.kis.configure(expires_in=590)
    machine.write(client, "production")

    machine.run(program, "production")

    assert machine.calls() == 2
