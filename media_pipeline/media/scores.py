"""What is noted of every frame of a video (in the sandbox): when it comes and how much it differs from the last."""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path

import pyarrow as pa

SCORES_FILE = "frame_scores.arrow"
FRAME_SCORES = pa.schema([("pts_s", pa.float64()), ("score", pa.float32())])
_SCORES_PER_BATCH = 65_536


class Scores:
    """The content score of every frame, written in pieces."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / SCORES_FILE).open("wb")
        self._writer = pa.ipc.new_file(self._file, FRAME_SCORES)
        self._times, self._scores = array("d"), array("f")

    def add(self, time_s: float, score: float) -> None:
        self._times.append(time_s)
        self._scores.append(score)
        if len(self._times) >= _SCORES_PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        columns = [pa.array(self._times, pa.float64()), pa.array(self._scores, pa.float32())]
        self._writer.write_batch(pa.record_batch(columns, schema=FRAME_SCORES))
        self._times, self._scores = array("d"), array("f")

    def finish(self) -> None:
        self._flush()
        self._writer.close()
        self.close()

    def close(self) -> None:
        self._file.close()


class Rhythm:
    """Whether frames come at equal distances, told from a histogram of the distances."""

    def __init__(self) -> None:
        self._deltas: Counter[int] = Counter()  # milliseconds
        self._last_s: float | None = None

    def add(self, time_s: float) -> None:
        if self._last_s is not None:
            self._deltas[min(round((time_s - self._last_s) * 1000), 60_000)] += 1
        self._last_s = time_s

    @property
    def varies(self) -> bool | None:
        """True where more than one distance in twenty is off by a tenth; None for too few frames to tell."""
        total = self._deltas.total()
        if total < 2:
            return None
        usual = self._deltas.most_common(1)[0][0]
        slack = max(2, usual // 10)
        return sum(n for delta, n in self._deltas.items() if abs(delta - usual) > slack) > total / 20
