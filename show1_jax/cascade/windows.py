"""Frames that the windows of pixel super-resolution cover."""


def superres_starts(num_frames: int, window: int, stride: int) -> list[int]:
    """First frames of the super-resolution windows: every `stride`, and the last moved back to end on the last frame.

    29 frames in windows of 8 with stride 7 give 0, 7, 14, 21, as in the original, which drops what does not fit;
    61 frames end with 49, 53. A video shorter than a window is one window.
    """
    last = max(num_frames - window, 0)
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]
