#!/usr/bin/env bash
# Train on a TPU pod slice: the same command runs on all of its hosts, which find each other.
#
#   TPU_NAME=my-slice ZONE=us-central2-b WORKDIR=/mnt/shared/keyframes launch/tpu_pod.sh
#
# The same command resumes the run, on this slice or another. Run it in tmux: it ends when the connection ends.
# Arguments are passed on to train.py, e.g. --config.train.data.path=/mnt/shared/webvid.
set -euo pipefail

: "${TPU_NAME:?name of the slice, e.g. TPU_NAME=my-slice}"
: "${ZONE:?zone of the slice, e.g. ZONE=us-central2-b}"
: "${WORKDIR:?folder of the run, which all hosts see, e.g. a Filestore mount}"
CONFIG=${CONFIG:-configs/full.py}
STAGE=${STAGE:-keyframes}
# Folder of the checkout on every host, relative to the home folder; installed with `pip install '.[tpu]'`.
CHECKOUT=${CHECKOUT:-show1_jax}

printf -v train '%q ' python train.py --config "$CONFIG" --stage "$STAGE" --workdir "$WORKDIR" --distributed "$@"
printf -v checkout '%q' "$CHECKOUT"

exec gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all --command="cd $checkout && exec $train"
