"""Sample videos for prompts with the cascade.

  python sample.py --config demo --prompt "a red circle moves right"
  python sample.py --config full --prompt "a panda eating bamboo"
  python sample.py --config full --prompts prompts.txt --config.keyframes.num_steps=50

Each video has a directory OUT/<prompt, seed, and a hash of both>. It contains the exact result of every stage
(n_STAGE.safetensors), the same as .mp4 and .gif, a contact_sheet.png of all stages, and run.json with the request and
the settings. A small video also has a copy at four times the size. A video that exists already is skipped. Other files
in its place are refused without --overwrite.
With --strength or --invert, the stage of --from_stage starts from --video itself. Videos begin with --image, if given.
The stages: keyframes, interpolation, first_frame, superres_pixel, superres_latent.
"""

import sys
from collections.abc import Sequence

from absl import flags

from show1_jax import cli
from show1_jax.commands import environment
from show1_jax.files import storage_path
from show1_jax.sampling.request import Request, choose_edit, choose_prompts, choose_shard, choose_stages


def define_flags() -> flags.FlagValues:
    """Return the flags of this command; help texts start with the value's name."""
    values = cli.new_flags()
    text, number, toggle = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_bool
    flags.DEFINE_multi_string("prompt", [], "TEXT: the content of a video; may be repeated", flag_values=values)
    text(
        "prompts",
        None,
        "FILE: .txt with one prompt a line, or .json, .jsonl, .csv, .tsv with prompt, negative, seed",
        flag_values=values,
    )
    number("videos_per_prompt", 1, "N: videos of each prompt, with seeds SEED, SEED + 1, ...", flag_values=values)
    text("shard", None, "I/N: of all videos, only those of host I of N hosts, from 1", flag_values=values)
    text("negative_prompt", None, "TEXT: content that the video should not show", flag_values=values)
    number("seed", None, "SEED: seed of each prompt's first video", flag_values=values)
    cli.define_weight_flags(values)
    text("stages", None, "A,B: run only these stages", flag_values=values)
    text(
        "from_stage",
        None,
        "STAGE: resume from the saved results of the stages before, or from --video",
        flag_values=values,
    )
    text("video", None, "PATH: your own video, for --from_stage", flag_values=values)
    flags.DEFINE_float(
        "strength",
        None,
        "S: share of the stage's steps that run, from --video with noise; 0: --video itself",
        flag_values=values,
    )
    toggle(
        "invert",
        False,
        "start from the noise that DDIM inverts --video to; sample with DDIM",
        flag_values=values,
    )
    number("inversion_steps", None, "N: steps of --invert, 75 by default", flag_values=values)
    number("inversion_iterations", None, "N: evaluations in a step of --invert, 1 by default", flag_values=values)
    text("image", None, "PATH: your own picture, which the videos begin with", flag_values=values)
    number("batch_size", None, "N: videos that are sampled together", flag_values=values)
    toggle("dry_run", False, "print the memory that each device needs; sample nothing", flag_values=values)
    toggle("overwrite", False, "replace the results of another run", flag_values=values)
    toggle("version", False, "print the versions of this package and its libraries, and exit", flag_values=values)
    toggle("devices", False, "print the devices that JAX finds, with their memory, and exit", flag_values=values)
    cli.define_process_flags(values)
    return values


def sample(argv: Sequence[str]) -> None:
    """Run a command line; JAX is imported after the command line is checked.

    Raises:
        UserError: bad input, see `show1_jax.cli.run_command`.
    """
    values = define_flags()
    if environment.report("sample", argv):
        return
    config = cli.read_config(values, argv, __doc__, ["negative_prompt", "seed", "checkpoint", "adapter", "out"])
    if config is None:
        return
    edit = choose_edit(
        values.from_stage, values.strength, values.invert, values.inversion_steps, values.inversion_iterations
    )
    texts = [cli.decode_argument(text) for text in values.prompt]
    request = Request(
        prompts=choose_shard(choose_prompts(config, texts, values.prompts, values.videos_per_prompt), values.shard),
        stages=choose_stages(values.stages, values.from_stage),
        resume=values.from_stage is not None,
        video=None if values.video is None else storage_path(values.video),
        edit=edit,
        image=None if values.image is None else storage_path(values.image),
        batch_size=values.batch_size,
        overwrite=values.overwrite,
    )

    with cli.importing_jax("sample"):
        from show1_jax.parallel import initialize_distributed
        from show1_jax.sampling.job import print_memory, sample_videos

    if processes := cli.distributed_arguments(values):
        initialize_distributed(*processes)
    (print_memory if values.dry_run else sample_videos)(config, request)


def main() -> int:
    """Run the command line of this process and return its exit code: 2 after one line on stderr if the input is bad."""
    return cli.run_command("sample", lambda: sample(sys.argv))
