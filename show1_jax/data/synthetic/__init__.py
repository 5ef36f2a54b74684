"""A small world of coloured shapes that move, with captions: data for tests and for the demo, made from an index.

Measuring the things that a video of it shows is in `evaluation.demo_world`.
"""
