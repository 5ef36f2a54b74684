"""`python -m convert upload`: copy a checkpoint or an adapter to a bucket."""

from pathlib import Path

from show1_jax.buckets.path import BucketPath
from show1_jax.buckets.upload import check_upload_target, upload_folder
from show1_jax.checkpoints.manifest import CHECKPOINT, read_manifest
from show1_jax.errors import UserError
from show1_jax.files import locked_folder


def upload_checkpoint(checkpoint: Path, out: Path, *, overwrite: bool = False) -> None:
    """Copy a local checkpoint to a bucket, where it counts when its manifest is there, written last.

    Args:
        checkpoint: the checkpoint's directory; its files are compared with its manifest.
        out: the folder to make, in a bucket.
        overwrite: replace a checkpoint there.

    Raises:
        UserError: no checkpoint, a damaged one, `out` exists or is not in a bucket, or the bucket does not answer.
    """
    if not isinstance(out, BucketPath):
        raise UserError(f"--out={out} is not in a bucket; give gs://BUCKET/FOLDER or s3://BUCKET/FOLDER")
    check_upload_target(out, CHECKPOINT, overwrite=overwrite, new=read_manifest(checkpoint).files)
    with locked_folder(out):
        upload_folder(checkpoint, out, CHECKPOINT)
    print(f"{out}: written")
