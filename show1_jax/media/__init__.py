"""Videos, images and arrays in files: read from any source, and written as mp4, GIF, stage files and contact sheets.

Videos of the user are decoded, turned and scaled as a player shows them. Captions and clips for training are in `data`,
and the folders into which `sample.py` writes are in `sampling`.
"""
