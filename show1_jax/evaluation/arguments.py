"""Flags that the commands which score videos share."""

from argparse import ArgumentParser

from show1_jax.cli import number_between


def add_speed_arguments(parser: ArgumentParser) -> None:
    """Add the flags of `show1_jax.evaluation.extraction.ExtractionOptions` that change the speed only."""
    count, threads = number_between(1, 100_000), number_between(1, 4096)
    add = parser.add_argument_group("speed").add_argument
    add("--batch_size", type=count, metavar="N", help="clips at once; default 4 a device")
    add("--num_workers", type=threads, metavar="N", help="threads that decode; default: the CPUs")
