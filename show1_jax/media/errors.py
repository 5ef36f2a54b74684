"""The error for a video that cannot be read."""


class VideoError(Exception):
    """A video cannot be read; the text is the reason, without the video's name."""
