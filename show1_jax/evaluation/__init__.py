"""Measures of how good videos are. `demo_world` compares the demo's videos with their prompts.

Sampling the videos is in `cascade` and `sampling`; losses of training are in `training`.
"""
