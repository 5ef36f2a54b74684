"""The measurements of `python -m benchmarks.gpu`, by subject; none of them needs a checkpoint or data."""
