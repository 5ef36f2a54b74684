"""The source of the credentials for S3.

TensorStore can try all sources by itself. But it then logs each one that has none, in lines that no setting turns off,
and without the name of a profile it reads none of those in `~/.aws`. So the source is found here.
"""

import os
from configparser import ConfigParser, Error
from contextlib import suppress
from pathlib import Path
from typing import Final

from show1_jax.buckets.errors import CREDENTIALS, BucketError

_CONTAINER: Final = (
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
_ROLE: Final = "role_arn"
_ROLE_SOURCES: Final = ("source_profile", "credential_source")
"""TensorStore's source of profiles gets the credentials of a role with one of these, but not with a token in a file."""
_OTHER_KEYS: Final = (_ROLE, "credential_process", "sso_session", "sso_start_url")
_VENDOR: Final = Path("/sys/class/dmi/id/sys_vendor")


def s3_credentials() -> dict[str, str]:
    """Return the first source that has credentials, in the form of TensorStore's `aws_credentials`.

    Raises:
        BucketError: there are none, or no profile of the name that AWS_PROFILE has.
    """
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {"type": "environment"}
    named = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    name = named or "default"
    own = _file("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    config = _file("AWS_CONFIG_FILE", "~/.aws/config")
    keys = _profile(own, name) | _profile(config, f"profile {name}")
    keys |= _profile(config, name) if name == "default" else set()
    if "aws_access_key_id" in keys or (_ROLE in keys and keys.intersection(_ROLE_SOURCES)):
        return {
            "type": "profile",
            "profile": name,
            "credentials_file": _existing(own),
            "config_file": _existing(config),
        }
    if keys.intersection(_OTHER_KEYS) or any(os.environ.get(variable) for variable in _CONTAINER):
        return {"type": "default", "profile": name}
    if named and not keys:
        raise BucketError(f"AWS_PROFILE={named}: there is no such profile in {own} and {config}; correct the name")
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true" or not _may_be_ec2():
        raise BucketError(f"there are no credentials for S3; {CREDENTIALS['s3']}")
    return {"type": "imds"}  # the role of an EC2 machine


def _file(variable: str, default: str) -> Path:
    return Path(os.path.expanduser(os.environ.get(variable) or default))  # unchanged if there is no home directory


def _existing(path: Path) -> str:
    """Return a file for TensorStore, which logs a missing one."""
    return str(path) if path.is_file() else os.devnull


def _profile(path: Path, section: str) -> set[str]:
    """Return the names of the settings in a section of a file, none if it cannot be read."""
    parser = ConfigParser(interpolation=None, strict=False)
    with suppress(Error, OSError, UnicodeDecodeError):
        parser.read_string(path.read_text("utf-8"))
    return set(parser[section]) if parser.has_section(section) else set()


def _may_be_ec2() -> bool:
    """Return whether this may be a machine of EC2, which has a service that gives credentials."""
    if os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        return True
    with suppress(OSError, UnicodeDecodeError):
        vendor = _VENDOR.read_text().strip()
        return not vendor or "amazon" in vendor.lower() or vendor == "Xen"
    return True  # not known
