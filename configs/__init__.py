"""Config files of the commands: `full` (the paper's cascade), `fast`, `demo`, and recipes of training."""
