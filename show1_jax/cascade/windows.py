"""Windows of pixel super-resolution."""


def superres_starts(num_frames: int, window: int, stride: int) -> list[int]:
    """Return the first frame of every super-resolution window.

    Windows start every `stride` frames; the last one is moved back to end on the last frame. 29 frames in windows of 8
    with stride 7 give 0, 7, 14, 21, as in the original, which drops frames after the last full window; 61 frames end
    with 49, 53. A video shorter than a window is one window.
    """
    last = max(num_frames - window, 0)
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]
