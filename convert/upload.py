"""`python -m convert upload`: copy a checkpoint or an adapter to a bucket."""

from pathlib import Path

from show1_jax.buckets.upload import bucket_target, upload_existing
from show1_jax.checkpoints.manifest import CHECKPOINT


def upload_checkpoint(checkpoint: Path, out: Path, *, overwrite: bool = False) -> None:
    """Copy a local checkpoint to a bucket, where it counts when its manifest is there, written last.

    Args:
        checkpoint: the checkpoint's directory; its files are compared with its manifest.
        out: the folder to make, in a bucket.
        overwrite: replace a checkpoint there.

    Raises:
        UserError: no checkpoint, a damaged one, `out` exists or is not in a bucket, or the bucket does not answer.
    """
    upload_existing(checkpoint, bucket_target(out), CHECKPOINT, overwrite=overwrite)
    print(f"{out}: written")
