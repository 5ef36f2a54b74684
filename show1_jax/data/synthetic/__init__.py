"""A synthetic world of moving coloured shapes with captions, generated from an index: data for tests and the demo.

Measuring the shapes in a video is in `evaluation.demo_world`.
"""
