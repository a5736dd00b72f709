"""The variables that make uv and pip trust the same certificates as this project: the certificates of `tls_trust`."""

from __future__ import annotations

import sys
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from typing import TYPE_CHECKING

from kis_token.network.tls_trust import VARIABLES
from kis_token.network.trusted_certificates import collect

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def with_certificates(env: dict[str, str], temporary: Path) -> dict[str, str]:
    """Return the environment in which uv and pip trust the same certificates as this project.

    By default, uv replaces the system's certificates by those of SSL_CERT_FILE and SSL_CERT_DIR, and ignores all other
    variables with certificates. pip before 24.2 ignores the system's certificates, and replaces its own certificates by
    those of REQUESTS_CA_BUNDLE. So pip gets one file with all certificates, in PIP_CERT. If a variable or a setting
    of pip names a certificate, SSL_CERT_DIR for uv is the folder that contains only the file with all certificates.
    """
    # uv's built-in certificates do not include the certificate of a company's proxy.
    env = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"} | env
    own = [env.get("PIP_CERT", ""), *_of_pip_s_settings(env)]
    is_told = any([*map(env.get, VARIABLES), *own])
    if not is_told and sys.platform in ("win32", "darwin"):
        # Windows and macOS do not keep certificates in files, but uv and newer versions of pip find the certificates.
        return env
    certificates = collect(env, own)
    if not certificates:
        return env
    file = temporary / "certificates" / "00000000.0"  # in a folder, uv reads only files that are named by a hash
    file.parent.mkdir(mode=0o700)
    file.write_bytes(certificates)
    kept = {name: value for name, value in env.items() if name not in VARIABLES or (name == "SSL_CERT_FILE" and value)}
    return kept | {"PIP_CERT": f"{file}"} | ({"SSL_CERT_DIR": f"{file.parent}"} if is_told else {})


def _of_pip_s_settings(env: Mapping[str, str]) -> list[str]:
    """Return the files that the setting ``cert`` of pip's configuration files names.

    If PIP_CERT is set, pip does not use the setting ``cert``.
    """
    homes = [env["HOME"]] if env.get("HOME") else []
    folders = [env.get("XDG_CONFIG_HOME"), env.get("APPDATA"), *(f"{home}/.config" for home in homes)]
    folders += [f"{home}/Library/Application Support" for home in homes]
    files = [f"{folder}/pip/{name}" for folder in folders if folder for name in ("pip.conf", "pip.ini")]
    settings = ConfigParser(interpolation=None, strict=False)
    with suppress(ConfigError, OSError, ValueError):
        settings.read(["/etc/pip.conf", f"{sys.prefix}/pip.conf", *(f"{home}/.pip/pip.conf" for home in homes), *files])
        settings.read(env.get("PIP_CONFIG_FILE", ""))
    return [settings.get(section, "cert", fallback="") for section in ("global", "install")]
