"""Datasets and text caches in buckets: their list of files with hashes, uploads, and the local copies that are read.

A bucket does not map files into memory, so each host reads a local copy. Nothing here knows what is in the files.
"""
