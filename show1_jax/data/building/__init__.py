"""Datasets from folders of captioned videos: listing them, reading captions and tables, checking and writing.

Problems of single videos are named and left out. Reading a dataset is not here but in `data.dataset` and `data.videos`.
"""
