"""The work of `sample.py`: a request, its prompts and run directories, the job that fills them, progress and dry runs.

How a video is computed is not here but in `cascade`; flags are in `sample.py` and `show1_jax.cli`.
"""
