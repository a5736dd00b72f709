"""The servers' certificate among the system's own, as a real machine has those of Supabase and KIS.

A hosted runner has no variable that names certificates, and a variable changes the way in which they are read. So the
benchmark runs itself again in a mount namespace, where a copy of the system's folder takes its place: nothing changes
for the rest of the machine. Without that, on a system other than Linux or without the right to mount, variables name
the certificates, and the figures include the time to read all of them.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

from kis_token.network.tls_trust import VARIABLES
from tools.certificate import make_hashed_folder

#: The variable of the second start, with the copy's path.
_COPY = "KIS_BENCH_CERTIFICATES"

_MOUNT = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


def enter(module: str, arguments: list[str]) -> None:
    """Run ``module`` again with a folder of certificates that it may change. Returns if that is done or impossible."""
    paths = ssl.get_default_verify_paths()
    folder, bundle = (Path(os.path.realpath(path)) for path in (paths.openssl_capath, paths.openssl_cafile))
    namespace = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    if _COPY in os.environ or sys.platform != "linux" or bundle.parent != folder or not bundle.is_file():
        return
    with tempfile.TemporaryDirectory(prefix="kis-bench-certificates-") as name:
        copy = Path(name, "certs")
        shutil.copytree(folder, copy, ignore_dangling_symlinks=True)
        command = [*namespace, "sh", "-c", _MOUNT, "sh", f"{copy}", f"{folder}"]
        if not shutil.which("unshare") or subprocess.run([*command, "true"], check=False).returncode:  # noqa: S603 - ours
            return
        again = [*command, sys.executable, "-m", module, *arguments]
        sys.exit(subprocess.call(again, env=os.environ | {_COPY: f"{copy}"}))  # noqa: S603 - our own program


def add(certificate: Path) -> bool:
    """Add ``certificate`` to the system's certificates. Returns False if the program has no copy of them."""
    name = os.environ.get(_COPY)
    if name is None:
        return False
    hashed = make_hashed_folder(f"{certificate}", certificate.with_name("hashed"))
    for link in hashed.iterdir():
        shutil.copy(link, name)
    bundle = Path(os.path.realpath(ssl.get_default_verify_paths().openssl_cafile))
    with bundle.open("ab") as file:
        file.write(certificate.read_bytes())
    return True


def without_variables(env: dict[str, str]) -> dict[str, str]:
    """Return ``env`` without the variables that name certificates."""
    return {name: value for name, value in env.items() if name not in VARIABLES}
