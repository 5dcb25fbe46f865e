"""The one exception tree.

    MediaPipelineError                what we raise on purpose: a cause and a remedy, in words a user understands
    ├── UsageError                    the command line or a setting is wrong; nothing was done
    ├── InputError                    this medium cannot be used, whoever tries again        (never retried)
    │   ├── UnsupportedMedia          not a picture, video or recording, or a refused format
    │   ├── CorruptMedia              the right format, unreadable content
    │   ├── LimitExceeded             pixels, frames, seconds, memory or output beyond the limits
    │   └── UnsafePath                a symbolic link that leaves its folder, a device, a socket
    ├── ModelUnavailable              no weights for this analyzer; the remedy is the exact command
    ├── QueryRejected                 SQL that is not read-only, runs too long or leaves the library
    ├── RentalRefused                 no machine is to be had: no key, no credit, no offer, over the budget
    ├── DamagedBackup                 a backup does not hold what it says; the home is as it was
    ├── AnalyzerFailed                an analyzer or its library broke on this medium            (a bug, never retried)
    ├── ContractViolation             an analyzer returned what its schema does not promise  (a bug, never retried)
    └── TransientError                worth another try: the world was in the way            (retryable)
        ├── DiskFull                  no room; goes on when there is
        ├── StorageUnavailable        the home lets nothing be written or read; goes on when it does
        ├── WorkerLost                a sandbox or worker process died without a word
        ├── ProviderUnreachable       Vast.ai gave no answer that can be trusted: it says nothing about machines
        ├── BudgetReached             a limit of the budget ended the renting; the rest waits for a later run
        └── StorageConflict           concurrent writers collided more often than the retries allow

`retryable` is part of the type: the engine retries nothing else.
"""

from __future__ import annotations

from typing import ClassVar


class MediaPipelineError(Exception):
    """What went wrong and what to do about it.

    ``cause`` says what happened, ``remedy`` what the reader can do; both are single sentences without a full stop
    at the end and end up on one line of the screen and in ``analyses.reason``.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, cause: str, remedy: str | None = None) -> None:
        self.cause = " ".join(cause.split())
        self.remedy = " ".join(remedy.split()) if remedy else None
        super().__init__(f"{self.cause}; {self.remedy}" if self.remedy else self.cause)

    def __reduce__(self) -> tuple[type[MediaPipelineError], tuple[str, str | None]]:
        # Errors cross process borders (sandbox, workers); the default would lose the remedy.
        return (type(self), (self.cause, self.remedy))


class UsageError(MediaPipelineError):
    """The command line or a setting is wrong; nothing was done."""


class InputError(MediaPipelineError):
    """This medium cannot be used, whoever tries again."""


class UnsupportedMedia(InputError):
    """Not a picture, video or recording, or a format that is refused."""


class CorruptMedia(InputError):
    """The right format, but its content cannot be read."""


class LimitExceeded(InputError):
    """Beyond the configured limits of pixels, frames, seconds, memory or output."""


class UnsafePath(InputError):
    """A path that must not be followed."""


class ModelUnavailable(MediaPipelineError):
    """No weights for this analyzer here; the remedy is the exact command that mends it."""


class QueryRejected(MediaPipelineError):
    """SQL that is not read-only, runs too long, needs too much memory or leaves the library."""


class RentalRefused(MediaPipelineError):
    """No machine is to be had: no key, no credit, no offer within the limits, or over the budget."""


class DamagedBackup(MediaPipelineError):
    """A backup does not hold what it says."""


class ContractViolation(MediaPipelineError):
    """An analyzer returned what its declared schema does not promise."""


class AnalyzerFailed(MediaPipelineError):
    """An analyzer raised something that is not of this tree: a bug in it or in its library."""


class TransientError(MediaPipelineError):
    """The world was in the way; another try may succeed."""

    retryable = True


class DiskFull(TransientError):
    """No room left on the device."""


class StorageUnavailable(TransientError):
    """The disk of the home, or its rights, let nothing be written or read there."""


class WorkerLost(TransientError):
    """A worker process died without a word."""


class ProviderUnreachable(TransientError):
    """The provider of machines gave no answer that can be trusted; what is running there is not known."""


class BudgetReached(TransientError):
    """A limit of the budget ended the renting in the middle of a run; the rest waits, as configured."""


class StorageConflict(TransientError):
    """Concurrent writers collided more often than the bounded retries allow."""
