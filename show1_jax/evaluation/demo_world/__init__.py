"""Agreement of videos of the synthetic world with their prompts, measured by image analysis, and a report of it.

The world itself is in `data.synthetic`. No network is used to measure.
"""
