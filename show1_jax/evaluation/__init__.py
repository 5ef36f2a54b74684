"""Measures of video quality. `demo_world` compares the demo's videos with their prompts.

Sampling is in `cascade` and `sampling`; training losses are in `training`.
"""
