"""Videos, images and arrays in files: read from any source, and written as mp4, GIF, stage files and contact sheets.

The user's videos are decoded, rotated and scaled as a player shows them. Captions and clips for training are in `data`;
the run directories of `sample.py` are in `sampling`.
"""
