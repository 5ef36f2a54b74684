"""The mathematics of diffusion: noise schedules, samplers, dynamic thresholds and random draws.

Every function is pure and cites its equation. Networks are unknown here; a stage's own draws are in `cascade.noise`.
"""
