"""The work of `sample.py`: the request, prompt files, run directories, the video jobs, progress and dry runs.

A *request* is the input of the command line. It has one *video job* for each video, which fills one *run directory*.
The sampling itself is in `cascade`; flags are in `commands.sample` and `cli`.
"""
