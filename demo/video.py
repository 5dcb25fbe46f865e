"""Videos encoded in code: H.264 and AAC in the container of the path's suffix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from demo.pictures import Picture
from demo.sound import SAMPLE_RATE, Samples

# One thread and the code for any processor: otherwise the bytes differ from run to run and from machine to machine.
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": "cpu-independent=1"}

Shot = tuple[Picture, float]  # what is seen, and for how many seconds


def write_video(path: Path, shots: Sequence[Shot], *, fps: int = 25, sound: Samples | None = None) -> None:
    """Hard cuts between shots; within one a bar grows along the lower edge, so that no two frames are the same.

    Args:
        shots: pictures of one size, even in width and height (the encoder halves its colour planes).
        sound: starts with the picture; shorter or longer than it as it comes.
    """
    height, width = shots[0][0].shape[:2]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options=ENCODER_OPTIONS)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if sound is not None else None
        for number, picture in enumerate(_pictures(shots, fps)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            frame_of_sound = av.AudioFrame.from_ndarray(sound[None, :].astype(np.float32), format="fltp", layout="mono")
            frame_of_sound.sample_rate, frame_of_sound.pts = SAMPLE_RATE, 0
            container.mux(audio.encode(frame_of_sound))
            container.mux(audio.encode(None))


def _pictures(shots: Sequence[Shot], fps: int) -> Iterator[Picture]:
    for picture, seconds in shots:
        count = round(seconds * fps)
        height, width = picture.shape[:2]
        for number in range(count):
            moving = picture.copy()
            moving[height - height // 90 :, : width * (number + 1) // count] = 128
            yield moving
