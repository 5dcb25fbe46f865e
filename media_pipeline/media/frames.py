"""Writing the kept frames of one medium (in the sandbox): reduced, hashed, JPEG-coded, spooled to disk."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
from PIL import Image

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.errors import LimitExceeded
from media_pipeline.media.phash import phash

FRAMES_FILE = "frames.arrow"
THUMBNAIL_FILE = "thumbnail.jpg"
THUMBNAIL_SIDE_PX = 160
THUMBNAIL_MAX_BYTES = 4096

# One row per record batch, so that any frame can be had without reading its neighbours.
CACHED_FRAMES = pa.schema(
    [
        ("frame_index", pa.int64()),
        ("pts", pa.int64()),  # ticks of the time base, from the beginning of the medium
        ("time_base_num", pa.int32()),
        ("time_base_den", pa.int32()),
        ("pts_s", pa.float64()),
        ("width", pa.int32()),  # pixels as displayed
        ("height", pa.int32()),
        ("scene_index", pa.int32()),
        ("phash", pa.string()),
        ("jpeg", pa.binary()),
    ]
)


def fit(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The size reduced, never enlarged, so that its longer side is at most ``max_side``."""
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(frozen=True, slots=True)
class SpooledFrame:
    row: dict[str, object]
    offset: int
    size: int

    @property
    def phash(self) -> str | None:
        value = self.row["phash"]
        return value if isinstance(value, str) else None


class FrameSink:
    """Takes frames as they come and forgets their pixels; `finish` writes those that were kept in the end.

    Frames that were added but not kept cost disk until then, never memory.
    """

    def __init__(self, folder: Path, sampling: Sampling, limits: DecodeLimits) -> None:
        self._folder = folder
        self._sampling = sampling
        self._max_bytes = limits.max_output_bytes
        self._spool_path = folder / "frames.spool"
        self._spool = self._spool_path.open("w+b")

    def add(
        self,
        image: Image.Image,
        *,
        index: int,
        size: tuple[int, int],
        scene_index: int = 0,
        pts: int = 0,
        time_base: Fraction = Fraction(1, 1000),
        fine_colour: bool = False,
    ) -> SpooledFrame:
        """Spools one frame.

        Args:
            image: RGB, upright, at most ``Sampling.max_side_px`` on its longer side.
            size: width and height as displayed.
            fine_colour: keep the colour at full resolution; only worth it where the original had it.
        """
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=self._sampling.jpeg_quality, subsampling=0 if fine_colour else 2)
        offset = self._spool.tell()
        self._spool.write(jpeg.getbuffer())
        if self._spool.tell() > self._max_bytes:
            raise output_exceeded(self._max_bytes)
        row: dict[str, object] = {
            "frame_index": index,
            "pts": pts,
            "time_base_num": time_base.numerator,
            "time_base_den": time_base.denominator,
            "pts_s": float(pts * time_base),
            "width": size[0],
            "height": size[1],
            "scene_index": scene_index,
            "phash": phash(image),
        }
        return SpooledFrame(row, offset, self._spool.tell() - offset)

    def finish(self, kept: Iterable[SpooledFrame]) -> int:
        """Writes the kept frames in the order given and the thumbnail of the middle one; returns their number."""
        frames = list(kept)
        with (self._folder / FRAMES_FILE).open("wb") as file, pa.ipc.new_file(file, CACHED_FRAMES) as writer:
            for frame in frames:
                row = frame.row | {"jpeg": self._jpeg(frame)}
                writer.write_batch(pa.RecordBatch.from_pylist([row], schema=CACHED_FRAMES))
        if frames:
            with Image.open(io.BytesIO(self._jpeg(frames[len(frames) // 2]))) as image:
                write_thumbnail(image, self._folder)
        self.close()
        self._spool_path.unlink()
        return len(frames)

    def close(self) -> None:
        self._spool.close()

    def _jpeg(self, frame: SpooledFrame) -> bytes:
        self._spool.seek(frame.offset)
        return self._spool.read(frame.size)


def output_exceeded(max_bytes: int) -> LimitExceeded:
    return LimitExceeded(
        f"its frames and sound would take more than {max_bytes:,} bytes of cache",
        "raise MEDIA_PIPELINE_DECODE__MAX_OUTPUT_BYTES or lower MEDIA_PIPELINE_SAMPLING__MAX_FRAMES",
    )


def write_thumbnail(image: Image.Image, folder: Path) -> None:
    """A JPEG of at most ``THUMBNAIL_MAX_BYTES``, for people."""
    image.draft("RGB", fit(*image.size, THUMBNAIL_SIDE_PX))
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX), reducing_gap=2.0)
    for quality in (60, 40, 25, 15):
        jpeg = io.BytesIO()
        small.save(jpeg, "JPEG", quality=quality)
        if len(jpeg.getvalue()) <= THUMBNAIL_MAX_BYTES:
            break
        if quality <= 40:
            small = small.resize((max(1, small.width * 2 // 3), max(1, small.height * 2 // 3)))
    if len(jpeg.getvalue()) <= THUMBNAIL_MAX_BYTES:
        (folder / THUMBNAIL_FILE).write_bytes(jpeg.getvalue())
