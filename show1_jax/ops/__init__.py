"""Operations that have several implementations: attention, group norm and the quantile of dynamic thresholding.

`choice` is the only place that decides which implementation, called a variant, a shape gets on a device. Each operation
is a module with a table of its variants; one of them is plain XLA, runs everywhere and is the reference of the others.
"""
