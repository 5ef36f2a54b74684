"""Command lines: the entry points of all console commands, and the flags of `sample.py` and `train.py`.

The other commands are the `__main__` modules of their packages. The work itself is in `sampling` and `training`.
"""
