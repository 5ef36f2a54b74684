"""The work of `train.py`: a new or resumed run, its loop, metrics, samples, progress bar and stop signals.

The mathematics of a step is in `show1_jax.training`.
"""
