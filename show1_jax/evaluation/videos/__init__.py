"""The videos that are scored: which files of a folder they are, their captions, and the frames of their clips."""
