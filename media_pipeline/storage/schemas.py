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
        ("scene_index", pa.int32()),  # as the sampler counts shots; those of `scenes` are found by their times
        ("phash", pa.string()),  # 64-bit DCT perceptual hash, 16 hex digits
    ]
)

AUDIO = pa.schema(
    [
        ("media_id", pa.string()),
        ("duration_s", pa.float64()),
        ("peak", pa.float32()),  # highest absolute sample, 1.0 is full scale
        ("rms", pa.float32()),
        ("channels", pa.int32()),  # 2: left and right carry one voice each and are kept apart; else 1
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

# One row per track (a face followed through a medium, a speaker of a recording) and whom it belongs to.
_IDENTIFIED = [
    ("score", pa.float32()),  # average similarity to the others of its identity when it came; null where it is alone
    ("decided_by", pa.string()),  # auto; user: pinned by a decision
    ("model", pa.string()),  # of the embedding; those of different models are never compared
    ("embedding", pa.list_(pa.float32())),  # L2-normalised mean over the track
    ("at_s", pa.float64()),  # moment of its best sighting
    ("added_at", TIMESTAMP),  # when the track was identified first
]

FACE_PERSONS = pa.schema(
    [
        ("media_id", pa.string()),
        ("track_index", pa.int32()),
        ("person_id", pa.string()),
        *_IDENTIFIED,
        ("x1", pa.float32()),  # box of the best sighting, pixels as displayed
        ("y1", pa.float32()),
        ("x2", pa.float32()),
        ("y2", pa.float32()),
        ("apart", pa.list_(pa.int32())),  # tracks seen in one frame with it: other people
    ]
)

SPEAKER_VOICES = pa.schema(
    [
        ("media_id", pa.string()),
        ("speaker", pa.string()),
        ("voice_id", pa.string()),
        *_IDENTIFIED,
        ("apart", pa.list_(pa.string())),  # the other speakers of the recording
    ]
)

# What the user said of identities, as SQL sees it; the decisions themselves are in `identities.sqlite`.
IDENTITIES = pa.schema(
    [
        ("kind", pa.string()),  # person, voice
        ("identity_id", pa.string()),
        ("name", pa.string()),  # null where it has none
        ("samples", pa.int32()),  # recordings or pictures it was enrolled from
    ]
)

REASON = pa.struct(
    [
        ("rule", pa.string()),
        ("severity", pa.string()),  # review, block
        ("text", pa.string()),  # the rule's sentence, or why it could not be judged
        ("score", pa.float32()),
        ("frame_index", pa.int64()),
        ("pts_s", pa.float64()),
        ("x1", pa.float32()),  # pixels as displayed; null for the whole frame, and for speech
        ("y1", pa.float32()),
        ("x2", pa.float32()),
        ("y2", pa.float32()),
        ("found", pa.string()),  # what it was: a label, a word, a person
    ]
)

# What rules say; the view of this name puts above it what people decided.
MODERATION = pa.schema(
    [
        ("media_id", pa.string()),
        ("verdict", pa.string()),  # allow, review, block
        ("reasons", pa.list_(REASON)),  # the strongest pieces of evidence of each rule
        ("rules_version", pa.string()),
        ("at", TIMESTAMP),
        ("unchecked", pa.list_(pa.string())),  # rules that had nothing to look at: an analyzer they need has no result
    ]
)

# The log of what people decided; the file itself is `moderation.sqlite`.
MODERATION_DECISIONS = pa.schema(
    [
        ("decision_id", pa.int64()),  # ascending in time
        ("media_id", pa.string()),
        ("action", pa.string()),  # approve, block, note, undo
        ("decided_by", pa.string()),
        ("decided_at", TIMESTAMP),
        ("reason", pa.string()),
        ("rules_version", pa.string()),  # whose verdict the decision was made on, null where there was none
        ("rule_verdict", pa.string()),
        ("undoes", pa.int64()),  # decision_id; null but for undo
    ]
)

_USD = {"unit": "USD"}

# Rented machines; the file `gpu.sqlite` holds them.
GPU_LEASES = pa.schema(
    [
        ("lease_id", pa.string()),
        ("instance_id", pa.int64()),  # of the provider; null where it never said one
        ("offer", pa.int64()),
        ("gpu", pa.string()),
        ("state", pa.string()),  # intent, booting, ready, busy, idle, closing, closed
        pa.field("reserved_usd", pa.float64(), metadata=_USD),
        pa.field("spent_usd", pa.float64(), metadata=_USD),  # by our meter, in the end by the provider's books
        pa.field("charged_usd", pa.float64(), metadata=_USD),  # by the provider's books; null until they say something
        ("opened_at", TIMESTAMP),
        ("running_at", TIMESTAMP),  # null: it never ran
        ("ready_at", TIMESTAMP),  # from when on its worker answered; null: it never did
        ("closed_at", TIMESTAMP),
        ("settled_at", TIMESTAMP),  # from when on spent_usd is final
        ("reason", pa.string()),  # why it was closed
        ("run_id", pa.string()),  # the run that had it last
        ("machine_id", pa.int64()),
        ("country", pa.string()),
        pa.field("usd_per_hour", pa.float64(), metadata=_USD),
        pa.field("disk_gb", pa.float64(), metadata={"unit": "GB"}),
        ("is_datacenter", pa.bool_()),  # one that the provider has checked
        ("image", pa.string()),
        ("label", pa.string()),  # that the machine carries at the provider
    ]
)

# Their money by lease, run, day and source: sums of spent_usd are what was spent.
GPU_COSTS = pa.schema(
    [
        ("lease_id", pa.string()),
        ("run_id", pa.string()),
        ("day", pa.string()),  # UTC
        ("source", pa.string()),  # meter; charges: what the provider's books say beyond it
        pa.field("spent_usd", pa.float64(), metadata=_USD),
        ("instance_id", pa.int64()),
        ("offer", pa.int64()),
        ("gpu", pa.string()),
        ("state", pa.string()),
        pa.field("reserved_usd", pa.float64(), metadata=_USD),  # of the whole lease
        ("opened_at", TIMESTAMP),
        ("closed_at", TIMESTAMP),
        ("reason", pa.string()),
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
        ("version", pa.string()),  # of the analyzer; null in rows written before it was recorded, as is the next
        ("options", pa.string()),  # digest of the analyzer's options: 16 hex digits
    ]
)

MEDIA_AGES = pa.schema(
    [
        ("media_id", pa.string()),
        ("partition_key", pa.string()),
        ("name", pa.string()),
        ("bytes", pa.int64()),  # of the original
        ("added_at", TIMESTAMP),
        ("original_since", TIMESTAMP),  # when the original came, or came back
        ("is_linked", pa.bool_()),  # the original is the user's own file
        ("is_removed", pa.bool_()),  # the original was removed by retention
        ("is_settled", pa.bool_()),  # a run came to its end with it, and none has begun since
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
        ("original_removed_at", TIMESTAMP),  # by retention; null while our copy is there
    ]
)
