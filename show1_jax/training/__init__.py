"""Training of every stage: objectives, losses, optimizer, state, the compiled step and its inputs, and plans of a run.

A run with its loop, metrics, samples and signals is in `training.run`, its saved steps in `checkpoints.run_steps`;
clips come from `data`.
"""
