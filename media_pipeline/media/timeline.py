"""One timeline for all streams of a container, also where their time stamps jump (in the sandbox).

Recordings that were joined as they were (`cat a.ts b.ts`, receivers, camcorders) begin their time stamps anew at every
seam, others have a stretch that lies hours ahead. There time goes on after the last frame. Picture and sound come to a
seam at about the same place of the file, rarely at the same instant: the shift that one of them found is the other's,
too, so that they stay together.
"""

from __future__ import annotations

from media_pipeline.media.audio import MAX_HOLE_S

# Less than this backwards is no jump: frames out of order, clocks that are put right.
_BACK_S = 1.0
# Where another stream has just jumped, a smaller step may be the same seam.
_STEP_S = 0.1
# How far apart streams may begin behind a seam.
_APART_S = 10.0
# Every jump halves what is believed of holes, down to this: stamps that jump about at random must not add up to years.
_LEAST_HOLE_S = 10.0
# Shifts that are tried where a stream is lost. More are found in a file only where its stamps mean nothing.
_TRIED = 32
_NAMED = 5  # jumps that the warning names


class Timeline:
    """What the clocks of all streams share.

    Args:
        origin_s: time stamp at which the medium begins
    """

    def __init__(self, origin_s: float) -> None:
        self.shifts = [-origin_s]  # what makes a time stamp a second of the medium; one more for each jump
        self.jumps_s: list[float] = []  # where in the medium
        self.reached_s = 0.0  # end of the frame that came furthest, of any stream

    @property
    def longest_hole_s(self) -> float:
        return max(_LEAST_HOLE_S, MAX_HOLE_S / 2.0 ** min(len(self.jumps_s), 20))

    @property
    def warning(self) -> str:
        """Where the time stamps jump, in words."""
        named = ", ".join(f"{at_s:.1f}" for at_s in self.jumps_s[:_NAMED])
        more = len(self.jumps_s) - _NAMED
        others = f" and {more:,} times more" if more > 0 else ""
        return f"the time stamps jump at {named} s{others}; time goes on there after the last frame"

    def jump(self, stamp_s: float) -> None:
        """From this time stamp on, time goes on from where it is now."""
        self.jumps_s.append(self.reached_s)
        self.shifts.append(self.reached_s - stamp_s)


class Clock:
    """One stream on the timeline."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._shift = 0  # which of the timeline's
        self._newest = 0  # the latest of them this stream has used
        self._last_s: float | None = None  # beginning of the last frame
        self._end_s = 0.0

    def place(self, stamp_s: float | None, length_s: float) -> float | None:
        """Seconds from the beginning of the medium at which a frame comes, negative where its stamp lies before that.

        Args:
            stamp_s: the frame's time stamp; None: it has none, comes right after the last, and the answer is None
            length_s: how long the frame lasts
        """
        if stamp_s is None:
            self._end_s += length_s
            return None
        time_s = stamp_s + self._timeline.shifts[self._shift]
        if not self._follows(time_s):
            self._find(stamp_s, time_s)
            time_s = stamp_s + self._timeline.shifts[self._shift]
        self._last_s, self._end_s = time_s, time_s + length_s
        self._timeline.reached_s = max(self._timeline.reached_s, self._end_s)
        return time_s

    def _follows(self, time_s: float) -> bool:
        """Whether nothing speaks against going on as before."""
        if self._last_s is None:
            return False
        found = len(self._timeline.shifts) - 1
        slack_s = _BACK_S if self._newest == found else _STEP_S
        if not self._last_s - slack_s <= time_s <= self._end_s + slack_s:
            return False
        return found == 0 or time_s >= self._timeline.reached_s - _APART_S  # else others have left this one behind

    def _find(self, stamp_s: float, time_s: float) -> None:
        """Chooses the shift for a stamp that does not follow the last one: the one that brings it to where others are.

        It may be one that another stream has found, or an earlier one, after some stray stamps.
        """
        timeline = self._timeline
        back = self._last_s is not None and time_s < self._last_s - _BACK_S
        lost = back or time_s > timeline.reached_s + timeline.longest_hole_s
        if not lost and len(timeline.shifts) == 1:
            return
        known = [
            i for i in range(max(0, len(timeline.shifts) - _TRIED), len(timeline.shifts)) if self._fits(i, stamp_s)
        ]
        if not lost:
            known.append(self._shift)
        if known:
            self._shift = min(known, key=lambda i: abs(stamp_s + timeline.shifts[i] - timeline.reached_s))
        else:
            timeline.jump(stamp_s)
            self._shift = len(timeline.shifts) - 1
        if self._shift > self._newest:
            self._newest = self._shift
            if self._last_s is not None:  # what came before the seam is longer here than where the jump was found
                timeline.shifts[self._shift] += max(0.0, self._end_s - stamp_s - timeline.shifts[self._shift])

    def _fits(self, shift: int, stamp_s: float) -> bool:
        time_s = stamp_s + self._timeline.shifts[shift]
        slack_s = _APART_S if shift > self._newest else _BACK_S
        earliest_s = self._timeline.reached_s if self._last_s is None else self._end_s
        return earliest_s - slack_s <= time_s <= self._timeline.reached_s + slack_s
