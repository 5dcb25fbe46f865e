"""Whether the two channels of a recording carry one voice each, as in telephone calls and interviews.

Two people in turn: for most of the time one channel is far louder than the other, now the left and now the right.
Music, and voices in the middle, sound from both. Measured in windows of 50 ms, so that even two people who talk at
once show it, by their syllables: share of windows in which the weaker channel is 10 dB below, left and right: two
talkers at once and then one alone 55 % and 8 %; wide stereo music and films 0 % and 0 %.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_WINDOW = 800  # samples at 16 kHz: 50 ms
_SILENCE = (10 ** (-50 / 20) * 32768) ** 2  # mean square at -50 dBFS
_FAR_LOUDER = 10.0  # 10 dB, as a ratio of energies
_MIN_TOGETHER = 0.4  # share of windows with sound in which either channel is alone
_MIN_EACH = 0.04
_MIN_WINDOWS = 5  # of each side: a quarter of a second

Pcm = npt.NDArray[np.int16]


class ChannelWatch:
    """Watches both channels go by; constant memory."""

    def __init__(self) -> None:
        self._rest = np.zeros((2, 0), np.float32)
        self._sounding = self._left = self._right = 0

    def add(self, left: Pcm, right: Pcm) -> None:
        """The next 16 kHz samples."""
        samples = np.concatenate([self._rest, np.stack([left, right]).astype(np.float32)], axis=1)
        whole = samples.shape[1] // _WINDOW * _WINDOW
        self._rest = samples[:, whole:]
        windows = samples[:, :whole].reshape(2, -1, _WINDOW)
        loud_left, loud_right = np.einsum("cwn,cwn->cw", windows, windows) / _WINDOW
        sounding = np.maximum(loud_left, loud_right) > _SILENCE
        self._sounding += int(sounding.sum())
        self._left += int((sounding & (loud_left > _FAR_LOUDER * loud_right)).sum())
        self._right += int((sounding & (loud_right > _FAR_LOUDER * loud_left)).sum())

    @property
    def apart(self) -> bool:
        """Each channel carries somebody of its own."""
        fewer = min(self._left, self._right)
        return (
            fewer >= max(_MIN_WINDOWS, _MIN_EACH * self._sounding)
            and self._left + self._right >= _MIN_TOGETHER * self._sounding
        )
