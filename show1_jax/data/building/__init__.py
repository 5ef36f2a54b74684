"""Datasets from folders of captioned videos: listing the files, reading captions and tables, checking and writing.

Videos with problems are named and left out. Reading a dataset is not here but in `data.dataset` and `data.videos`.
"""
