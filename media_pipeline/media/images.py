"""Pictures (in the sandbox): Pillow, one format at a time, into upright RGB frames.

An animation stays an image; its frames are sampled like a video's. Every page of a TIFF is a frame. Of the other
formats that can hold several pictures (MPO, PSD, ICO, HEIC) the main one is taken.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.errors import CorruptMedia, LimitExceeded
from media_pipeline.media import probe
from media_pipeline.media.frames import FrameSink, SpooledFrame, fit
from media_pipeline.media.pixels import decoded_share, to_rgb
from media_pipeline.media.sampling import SCORE_WIDTH_PX, ContentScore, FrameSampler, Pick, Seen, Spread
from media_pipeline.media.sniff import Sniffed
from media_pipeline.media.types import MediaFacts

# Rows, as a share of the height, that must be there for a cut-off picture to be worth analysing.
USEFUL_SHARE = 0.5
_ANIMATED = frozenset({"GIF", "PNG", "WEBP", "AVIF"})
_DEFAULT_MS = 100  # what browsers take for a frame that names no duration
_MS = Fraction(1, 1000)

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CLOCKWISE = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}
# What Pillow's decoders raise at broken content; a MemoryError or a full disk is none of them.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError)

Beat = Callable[[], None]


def decode_picture(
    file: io.BufferedReader, sniffed: Sniffed, folder: Path, sampling: Sampling, limits: DecodeLimits, beat: Beat
) -> MediaFacts:
    """Decodes a picture, an animation or the pages of a scan into ``folder``.

    Raises:
        InputError: unreadable, mostly missing or beyond a limit.
        OSError: writing failed.
    """
    # Pillow's own check also sees the pictures inside an ICO and the later pages of a TIFF.
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = _Picture(file, sniffed, folder, sampling, limits)
        try:
            return picture.decode(beat)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise LimitExceeded(
                f"the picture has more than {limits.max_pixels:,} pixels",
                "reduce it or raise MEDIA_PIPELINE_DECODE__MAX_PIXELS",
            ) from None
        finally:
            picture.close()


class _Picture:
    def __init__(
        self, file: io.BufferedReader, sniffed: Sniffed, folder: Path, sampling: Sampling, limits: DecodeLimits
    ) -> None:
        self._file, self._format, self._mime = file, sniffed.format, sniffed.mime
        self._sampling, self._limits = sampling, limits
        self._sink = FrameSink(folder, sampling, limits)
        self._spread = Spread(sampling)
        self._warnings: list[str] = []
        self._exif: dict[int, Any] | None = None
        self._orientation = 1

    def decode(self, beat: Beat) -> MediaFacts:
        image = self._open()
        size = image.size
        count, duration_s = self._read_frames(image, beat)
        width, height = self._shown(size)
        kept: list[SpooledFrame] = self._spread.items()
        self._sink.finish(kept)
        return MediaFacts(
            kind="image",
            mime=self._mime,
            container=self._format,
            width=width,
            height=height,
            rotation=_CLOCKWISE.get(self._orientation, 0),
            phash=kept[len(kept) // 2].phash,
            frame_count=count,
            duration_s=duration_s,
            fps=count / duration_s if duration_s else None,
            warnings=tuple(self._warnings),
            **probe.exif_facts(self._exif or {}),
        )

    def close(self) -> None:
        self._sink.close()

    def _read_frames(self, image: Image.Image, beat: Beat) -> tuple[int, float | None]:
        """Number of frames and, of an animation, its length."""
        try:
            several = bool(getattr(image, "is_animated", False))
        except _BROKEN:  # damage behind the first frame
            several = False
        if several and self._format in _ANIMATED:
            return self._animation(image, beat)
        if several and self._format == "TIFF":
            return self._pages(image, beat), None
        size = image.size  # before JPEG is told to decode a smaller one
        self._keep(self._upright(self._load(image)), 0, size)
        return 1, None

    def _open(self) -> Image.Image:
        self._file.seek(0)
        try:
            image = Image.open(self._file, formats=[self._format])
        except _BROKEN as error:
            why = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
            raise CorruptMedia(
                f"the header of this {self._format} picture is damaged{why}", "copy it again from its source"
            ) from None
        self._check_size(image)
        return image

    def _check_size(self, image: Image.Image) -> None:
        width, height = image.size
        if width * height > self._limits.max_pixels:
            raise LimitExceeded(
                f"the picture measures {width:,} x {height:,} pixels, more than {self._limits.max_pixels:,}",
                "reduce it or raise MEDIA_PIPELINE_DECODE__MAX_PIXELS",
            )
        if width < 1 or height < 1:
            raise CorruptMedia("the picture has no pixels", "copy it again from its source")

    def _load(self, image: Image.Image) -> Image.Image:
        """The pixels; of a file that is cut off as much as there is, when that is enough."""
        # JPEG can be decoded at 1/2, 1/4 or 1/8 for a fraction of the time and memory.
        target = fit(*image.size, self._sampling.max_side_px)
        try:
            image.draft(None, target)
            image.load()
        except _BROKEN as error:
            return self._load_partly(str(error) or type(error).__name__)
        return image

    def _load_partly(self, reason: str) -> Image.Image:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            image = self._open()
            image.load()
        except _BROKEN:
            raise CorruptMedia(f"the picture cannot be decoded: {reason}", "copy it again from its source") from None
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        share = decoded_share(image)
        if share < USEFUL_SHARE:
            raise CorruptMedia(
                f"the picture is cut off or damaged: {share:.0%} of it can be decoded", "copy it again from its source"
            )
        self._warnings.append(f"cut off or damaged: {share:.0%} of the picture could be decoded ({reason})")
        return image

    def _pages(self, image: Image.Image, beat: Beat) -> int:
        page = 0
        for page, _ in enumerate(self._steps(image, beat)):
            self._check_size(image)
            self._keep(self._upright(image), page, image.size, order=float(page))
        return page + 1

    def _animation(self, image: Image.Image, beat: Beat) -> tuple[int, float]:
        sampler: FrameSampler[Image.Image] = FrameSampler(self._spread.gap_s)
        score = ContentScore()
        at_ms = count = 0
        for index, _ in enumerate(self._steps(image, beat)):
            rgb = self._upright(image)
            reduced = rgb.resize(fit(*rgb.size, SCORE_WIDTH_PX), Image.Resampling.BILINEAR, reducing_gap=2.0)
            small = np.ascontiguousarray(np.asarray(reduced)[:, :, ::-1])
            for pick in sampler.push(Seen(index, at_ms / 1000, score(small), small, rgb)):
                self._keep_pick(pick, image.size)
            at_ms += max(0, min(int(image.info.get("duration") or _DEFAULT_MS), 3_600_000))
            count = index + 1
        for pick in sampler.finish():
            self._keep_pick(pick, image.size)
        return count, at_ms / 1000

    def _steps(self, image: Image.Image, beat: Beat) -> Iterator[None]:
        """Moves the picture through its frames; damage behind the first only ends it early."""
        for index in range(self._limits.max_frames + 1):
            beat()
            try:
                image.seek(index)
                image.load()
            except EOFError:
                return
            except _BROKEN as error:
                if index == 0:
                    raise CorruptMedia(f"the picture cannot be decoded: {error}", "copy it again") from None
                self._warnings.append(f"damaged behind frame {index - 1}: {error}")
                return
            yield
        raise LimitExceeded(
            f"the picture has more than {self._limits.max_frames:,} frames",
            "cut it into parts or raise MEDIA_PIPELINE_DECODE__MAX_FRAMES",
        )

    def _upright(self, image: Image.Image) -> Image.Image:
        if self._exif is None:
            self._read_exif(image)
        rgb = to_rgb(image, self._sampling.max_side_px)
        turn = _TRANSPOSE.get(self._orientation)
        return rgb if turn is None else rgb.transpose(turn)

    def _read_exif(self, image: Image.Image) -> None:
        # Only once the pixels are loaded: PNG may keep EXIF behind them, and Pillow would load them for it.
        self._exif, damaged = probe.read_exif(image)
        self._orientation = probe.orientation(self._exif)
        if damaged:
            self._warnings.append("its EXIF data is damaged")

    def _keep_pick(self, pick: Pick[Image.Image], size: tuple[int, int]) -> None:
        pts = round(pick.seen.time_s * 1000)
        self._keep(pick.seen.picture, pick.seen.index, size, pick.seen.time_s, pts, pick.scene_index, pick.opens_scene)

    def _keep(
        self,
        rgb: Image.Image,
        index: int,
        size: tuple[int, int],
        order: float = 0.0,
        pts: int = 0,
        scene_index: int = 0,
        opens_scene: bool = False,
    ) -> None:
        spooled = self._sink.add(
            rgb,
            index=index,
            size=self._shown(size),
            scene_index=scene_index,
            pts=pts,
            time_base=_MS,
            fine_colour=True,
        )
        self._spread.add(order, opens_scene, spooled)

    def _shown(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[::-1] if self._orientation >= 5 else size
