"""Training of every stage: plan, objectives, losses, optimiser, state, the compiled step and its inputs.

The run with its loop, metrics, samples and signals is in `training.run`. Saved steps are in `checkpoints.run_steps`,
clips in `data`.
"""
