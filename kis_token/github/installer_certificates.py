"""The certificates that uv and pip go by: those that this project goes by, see `trust`."""

from __future__ import annotations

import sys
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from typing import TYPE_CHECKING

from kis_token.network.trust import VARIABLES
from kis_token.network.trusted_certificates import collect

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def with_certificates(env: dict[str, str], temporary: Path) -> dict[str, str]:
    """The environment in which uv and pip trust the same certificates as this project; see `trust`.

    By themselves, uv takes SSL_CERT_FILE and SSL_CERT_DIR in the place of the system's certificates and does not know
    the other variables. pip before 24.2 does not know the system's certificates, and takes REQUESTS_CA_BUNDLE in the
    place of all others. So both get one file with all of them, uv as the only file of a folder.
    """
    # uv brings certificates of its own, which a company's proxy does not go by.
    env = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"} | env
    own = [env.get("PIP_CERT", ""), *_of_pip_s_settings(env)]
    is_told = any([*map(env.get, VARIABLES), *own])
    if not is_told and sys.platform in ("win32", "darwin"):
        return env  # these systems' stores are no files; uv and newer pips know them
    certificates = collect(env, own)
    if not certificates:
        return env
    file = temporary / "certificates" / "00000000.0"  # a name by which uv takes it for a folder's certificate
    file.parent.mkdir(mode=0o700)
    file.write_bytes(certificates)
    kept = {name: value for name, value in env.items() if name not in VARIABLES or (name == "SSL_CERT_FILE" and value)}
    return kept | {"PIP_CERT": f"{file}"} | ({"SSL_CERT_DIR": f"{file.parent}"} if is_told else {})


def _of_pip_s_settings(env: Mapping[str, str]) -> list[str]:
    """The files that ``cert`` names in pip's settings, which PIP_CERT hides."""
    homes = [env["HOME"]] if env.get("HOME") else []
    folders = [env.get("XDG_CONFIG_HOME"), env.get("APPDATA"), *(f"{home}/.config" for home in homes)]
    folders += [f"{home}/Library/Application Support" for home in homes]
    files = [f"{folder}/pip/{name}" for folder in folders if folder for name in ("pip.conf", "pip.ini")]
    settings = ConfigParser(interpolation=None, strict=False)
    with suppress(ConfigError, OSError, ValueError):
        settings.read(["/etc/pip.conf", f"{sys.prefix}/pip.conf", *(f"{home}/.pip/pip.conf" for home in homes), *files])
        settings.read(env.get("PIP_CONFIG_FILE", ""))
    return [settings.get(section, "cert", fallback="") for section in ("global", "install")]
