"""Run tags of ours. A person may set them at launch; the sensor and the command line always do."""

FORCE_TAG = "media_pipeline/force"  # "true": make standing results anew; "false": the ledger decides
RETRY_FAILED_TAG = "media_pipeline/retry_failed"  # "true": try again what failed on the same content
SOURCE_TAG = "media_pipeline/source"  # who asked: "watch folder", "command line", "reprocessing"
COMMAND_LINE = "command line"
REPROCESSING = "reprocessing"
NIGHT_TAG = "media_pipeline/night"  # the date on which the night of this run began
BEHIND_UPLOADS = {"dagster/priority": "-10"}  # runs that wait until no fresh upload does
BATCH_TAG = "media_pipeline/batch"  # which media, and how often they were tried before
# "true": the run was stopped in an orderly way before it was through, with `serve`, and is no failed try of its media
STOPPED_TAG = "media_pipeline/stopped"
PRUNED_TAG = "media_pipeline/pruned"  # "failures": the run that stands for failed runs that were pruned
TARGET_TAG = "media_pipeline/target"  # "auto", "cpu" or "gpu": where this run computes, in place of the settings
MAX_USD_TAG = "media_pipeline/max_usd"  # what this run may spend, in place of the settings
DEADLINE_TAG = "media_pipeline/deadline_minutes"  # when this run should be done, counted from its start
# Written by the run: `execution.placement.Decision.tags`, and
SPENT_TAG = "media_pipeline/spent_usd"  # written by the run: what its rented machines came to
