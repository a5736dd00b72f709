"""Secret keys in the system's keyring: macOS's Keychain, Windows's Credential Locker, or a Secret Service on Linux.

Needs the extra: ``pip install 'kis-token[keyring]'``. Each backend of the keyring has its own errors, and an error's
text may quote the key. So this module catches all errors of the backend, and never shows the text of an error.
"""

from __future__ import annotations

from kis_token.errors import SettingsError

#: The service name under which the keyring lists the keys.
SERVICE = "kis-token"


def is_available() -> bool:
    """Whether the package keyring is installed and finds a keyring of the system."""
    try:
        import keyring

        return bool(keyring.get_keyring().priority >= 1)
    except Exception:  # noqa: BLE001 - see above
        return False


def read_key(profile: str) -> str:
    """Return the key of a profile. The system may ask the user to unlock the keyring. Raises SettingsError."""
    try:
        import keyring

        key = keyring.get_password(SERVICE, profile)
    except Exception as error:  # noqa: BLE001 - see above
        said = f"The system's keyring does not give the key of the profile {profile} ({type(error).__name__})"
        raise SettingsError([("profile-unusable", said)]) from None
    if not key:
        raise SettingsError([("profile-unusable", f"The system's keyring has no key for the profile {profile}")])
    return key


def write_key(profile: str, key: str) -> None:
    """Store the key of a profile. Raises SettingsError."""
    try:
        import keyring

        keyring.set_password(SERVICE, profile, key)
    except Exception as error:  # noqa: BLE001 - see above
        said = f"The system's keyring does not store the key ({type(error).__name__})"
        raise SettingsError([("profile-unusable", said)]) from None
