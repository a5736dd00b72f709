"""Adds the servers' certificate to the system's certificates, where a real machine has those of Supabase and KIS.

A hosted runner has no variable that names certificates, and such a variable would change how certificates are read. So
the benchmark starts again in a mount namespace. In this namespace, a copy replaces the system's folder of certificates.
Nothing changes for the rest of the machine. If the system is not Linux, or if the benchmark may not mount, variables
name the certificates. In this case, the figures include the time to read all certificates.
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

#: The benchmark's second start has the path of the copy in this variable.
_COPY = "KIS_BENCH_CERTIFICATES"

_MOUNT = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


def enter(module: str, arguments: list[str]) -> None:
    """Run ``module`` again with a folder of certificates that it may change.

    Returns only in the second run, or if a second run is impossible.
    """
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
    """Add ``certificate`` to the system's certificates. Returns False if there is no copy of these certificates."""
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
