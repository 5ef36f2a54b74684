"""The mathematics of diffusion: noise schedules, samplers, dynamic thresholds and random draws.

Every function is pure and cites its equation. Networks are in `nn`, the noise of each stage in `cascade.noise`.
"""
