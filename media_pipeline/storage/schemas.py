"""Schemas of the tables that are not an analyzer's own. Units stand in the names or in the field's metadata."""

from __future__ import annotations

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")

STREAM = pa.struct(
    [
        ("index", pa.int32()),
        ("type", pa.string()),  # video, audio, subtitle, data, attachment
        ("codec", pa.string()),
        ("width", pa.int32()),  # pixels as coded
        ("height", pa.int32()),
        ("rotation", pa.int32()),  # degrees, of the display matrix, as ffprobe reports it
        ("frames", pa.int64()),  # of the decoded stream: counted; of the others: as the container says
        ("r_frame_rate", pa.string()),  # fraction
        ("avg_frame_rate", pa.string()),
        ("sample_rate", pa.int32()),  # Hz
        ("channels", pa.int32()),
        ("duration_s", pa.float64()),
        ("attached_picture", pa.bool_()),
        ("language", pa.string()),
    ]
)

MEDIA = pa.schema(
    [
        ("media_id", pa.string()),  # sha256 of the content, 64 hex digits
        ("partition_key", pa.string()),
        ("name", pa.string()),  # file name under which it was seen first
        ("path", pa.string()),  # path under which it was seen first
        ("kind", pa.string()),  # image, video, audio
        ("mime", pa.string()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),  # pixels as displayed
        ("height", pa.int32()),
        ("duration_s", pa.float64()),
        ("fps", pa.float64()),  # average
        ("rotation", pa.int32()),  # degrees clockwise that were applied for display: 0, 90, 180, 270
        ("has_audio", pa.bool_()),
        ("captured_at", TIMESTAMP),  # wall clock of the camera read as UTC where it names no offset
        ("added_at", TIMESTAMP),
        ("phash", pa.string()),  # of the picture, or of the video's middle sampled frame: 16 hex digits
        ("container", pa.string()),
        ("video_codec", pa.string()),
        ("audio_codec", pa.string()),
        ("variable_frame_rate", pa.bool_()),
        ("frame_count", pa.int64()),  # video frames decoded, pages, or pictures of an animation
        ("audio_channels", pa.int32()),
        ("audio_sample_rate", pa.int32()),  # Hz, of the original
        ("camera", pa.string()),
        ("latitude", pa.float64()),  # degrees, WGS 84
        ("longitude", pa.float64()),
        ("altitude_m", pa.float64()),
        ("title", pa.string()),
        ("streams", pa.list_(STREAM)),
        ("warnings", pa.list_(pa.string())),  # what decoding forgave: truncated end, damaged frames
    ]
)

FRAMES = pa.schema(
    [
        ("media_id", pa.string()),
        ("frame_index", pa.int64()),  # number of the frame in its video (page, animation), from 0
        ("pts_s", pa.float64()),
        ("width", pa.int32()),  # pixels as displayed
        ("height", pa.int32()),
        ("scene_index", pa.int32()),
        ("phash", pa.string()),  # 64-bit DCT perceptual hash, 16 hex digits
    ]
)

AUDIO = pa.schema(
    [
        ("media_id", pa.string()),
        ("duration_s", pa.float64()),
        ("peak", pa.float32()),  # highest absolute sample, 1.0 is full scale
        ("rms", pa.float32()),
    ]
)

DUPLICATE_PAIRS = pa.schema(
    [
        ("media_id", pa.string()),  # the greater of the two ids, so that a pair is stored once
        ("other_id", pa.string()),
        ("distance", pa.float32()),  # mean Hamming distance of the matched 64-bit hashes
        ("matched", pa.float32()),  # share of frames that match, [0, 1]
    ]
)

ANALYSES = pa.schema(
    [
        ("media_id", pa.string()),
        ("analyzer", pa.string()),
        ("fingerprint", pa.string()),
        ("status", pa.string()),  # done, failed, unavailable
        ("reason", pa.string()),  # null when done
        ("rows", pa.int64()),
        ("seconds", pa.float64()),  # wall time of this medium in this analyzer
        ("device", pa.string()),
        ("model", pa.string()),
        ("run_id", pa.string()),
        ("at", TIMESTAMP),
    ]
)

SOURCES = pa.schema(
    [
        ("media_id", pa.string()),  # null while waiting or refused
        ("path", pa.string()),
        ("name", pa.string()),
        ("bytes", pa.int64()),
        ("modified_at", TIMESTAMP),
        ("first_seen", TIMESTAMP),
        ("last_seen", TIMESTAMP),  # to the hour
        ("state", pa.string()),  # taken, waiting, refused
        ("reason", pa.string()),  # null unless refused
    ]
)
