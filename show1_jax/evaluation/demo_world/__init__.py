"""Agreement of synthetic-world videos with their prompts, measured by image analysis, and a report of it.

The world itself is in `data.synthetic`. Measuring uses no network.
"""
