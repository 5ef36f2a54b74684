"""The work of `train.py`: a run that is opened or resumed, its loop, metrics, samples, progress, and a stop on request.

The mathematics of a step is not here but in `show1_jax.training`.
"""
