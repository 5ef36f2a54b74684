"""Errors of buckets, as one line."""

import re
from typing import Final

from show1_jax.errors import UserError

NO_ANSWER: Final = ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
CREDENTIALS: Final = {
    "gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}
_MAX_REASON: Final = 160


class BucketError(UserError):
    """A bucket that does not exist, denies access or does not answer; a missing object is no such error."""


class OutOfRangeError(BucketError):
    """An object has fewer bytes than were read."""


def translate_error(text: str, scheme: str, bucket: str) -> BucketError:
    """Return TensorStore's error as one line for the user.

    Args:
        text: TensorStore's text; it begins with the code of the error.
        scheme: "gs" or "s3".
        bucket: name of the bucket.
    """
    code, reason, url = text.partition(":")[0], _short_reason(text), f"{scheme}://{bucket}"
    if code == "OUT_OF_RANGE":
        return OutOfRangeError(f"{url}: an object is shorter than expected; try again")
    if code in ("PERMISSION_DENIED", "UNAUTHENTICATED") or "credentials" in reason:
        return BucketError(f"{url}: access is denied ({reason}); {CREDENTIALS[scheme]}, or use an account that may")
    if code == "NOT_FOUND":
        return BucketError(f"{url}: there is no such bucket; make it, or correct its name")
    if code in NO_ANSWER:
        return BucketError(f"{url}: the server does not answer ({reason}); resume later with the same command")
    return BucketError(f"{url}: the server refuses ({reason}); correct the path, or resume later")


def _short_reason(text: str) -> str:
    """Return TensorStore's text without its code, the names of its layers and its details in brackets."""
    words = " ".join(re.sub(r"\[[a-z_-]+='.*", "", text, flags=re.DOTALL).split())
    retried = re.search(r"All \d+ retry attempts failed: .*", words)
    words = retried[0] if retried else re.sub(r"^[A-Z_]+: ", "", words)
    return words if len(words) <= _MAX_REASON else f"{words[:_MAX_REASON]}..."
