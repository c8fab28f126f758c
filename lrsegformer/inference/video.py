"""The frames of a video file, by PyAV, which brings FFmpeg's libraries in its wheel (extra `video`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lrsegformer.errors import InputError
from lrsegformer.extras import require


def frame_count(path: Path) -> int | None:
    """How many frames the file says that it has; `None` where it does not say, or cannot be read."""
    av = require("av")
    try:
        with av.open(str(path)) as container:
            return container.streams.video[0].frames or None
    except (av.FFmpegError, OSError, IndexError):  # Whoever reads the frames says what is wrong.
        return None


def frames(path: Path) -> Iterator[Callable[[], Image.Image]]:
    """
    The frames of a video in order, each as a function that makes an upright RGB image of it where it is wanted.

    Raises:
        [`~lrsegformer.errors.InputError`]: PyAV is not installed, or the file cannot be read, maybe after some frames.
    """
    av = require("av")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: holds no video; give a video, or images")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                yield partial(_upright, frame)
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot be read ({reason}); replace or remove the file") from error


def _upright(frame: Any) -> Image.Image:
    """A frame in 8-bit RGB, turned as the file says that players turn it."""
    turns = round(frame.rotation / 90) % 4  # counterclockwise
    return Image.fromarray(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns)))
