"""Drawn persons whose joints are known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._spec import Image

SKIN, HAIR, SHIRT, TROUSERS, SHOES = (224, 172, 138), (60, 40, 30), (40, 90, 160), (50, 50, 60), (30, 25, 25)
# The person's height is 1; origin between the feet, y upwards. The person faces us: its left is on our right.
STANDING: dict[str, tuple[float, float]] = {
    "nose": (0.0, 0.91),
    "left_shoulder": (0.105, 0.8),
    "right_shoulder": (-0.105, 0.8),
    "left_elbow": (0.16, 0.63),
    "right_elbow": (-0.16, 0.63),
    "left_wrist": (0.19, 0.48),
    "right_wrist": (-0.19, 0.48),
    "left_hip": (0.06, 0.52),
    "right_hip": (-0.06, 0.52),
    "left_knee": (0.07, 0.28),
    "right_knee": (-0.07, 0.28),
    "left_ankle": (0.075, 0.045),
    "right_ankle": (-0.075, 0.045),
}
HANDS_UP = STANDING | {
    "left_elbow": (0.2, 0.93),
    "right_elbow": (-0.2, 0.93),
    "left_wrist": (0.22, 1.1),
    "right_wrist": (-0.22, 1.1),
}


def room(width: int = 640, height: int = 480) -> Image:
    """An empty room: wall, floor, a picture on the wall."""
    import cv2

    image = np.full((height, width, 3), (205, 205, 200), np.uint8)
    image[int(height * 0.7) :] = (160, 135, 110)
    cv2.rectangle(image, (width // 16, height // 8), (width // 5, height // 3), (120, 60, 60), -1)
    return image


def draw(
    image: Image, x: float, y: float, height: float, pose: Mapping[str, tuple[float, float]] = STANDING
) -> dict[str, npt.NDArray[np.float64]]:
    """Draws a person with the feet at (x, y), `height` pixels tall, and returns the joints in pixels."""
    import cv2

    joints = {name: np.asarray([x + u * height, y - v * height]) for name, (u, v) in pose.items()}

    def pixel(point: npt.NDArray[np.float64]) -> tuple[int, int]:
        return round(float(point[0])), round(float(point[1]))

    def limb(one: str, other: str, thickness: float, colour: tuple[int, int, int]) -> None:
        cv2.line(
            image, pixel(joints[one]), pixel(joints[other]), colour, max(1, round(thickness * height)), cv2.LINE_AA
        )

    def spot(u: float, v: float, size: tuple[float, float], colour: tuple[int, int, int]) -> None:
        axes = (max(1, round(size[0] * height)), max(1, round(size[1] * height)))
        cv2.ellipse(
            image, pixel(np.asarray([x + u * height, y - v * height])), axes, 0, 0, 360, colour, -1, cv2.LINE_AA
        )

    for side in ("left", "right"):
        foot = joints[f"{side}_ankle"] + np.asarray([0.03 if side == "left" else -0.03, 0.03]) * height
        cv2.line(image, pixel(joints[f"{side}_ankle"]), pixel(foot), SHOES, max(1, round(0.045 * height)), cv2.LINE_AA)
        limb(f"{side}_hip", f"{side}_knee", 0.085, TROUSERS)
        limb(f"{side}_knee", f"{side}_ankle", 0.06, TROUSERS)
    body = [pixel(joints[n]) for n in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")]
    cv2.fillConvexPoly(image, np.asarray(body), SHIRT, cv2.LINE_AA)
    limb("left_shoulder", "right_shoulder", 0.06, SHIRT)
    limb("left_hip", "right_hip", 0.08, TROUSERS)
    spot(0, 0.84, (0.026, 0.05), SKIN)  # neck
    for side in ("left", "right"):
        limb(f"{side}_shoulder", f"{side}_elbow", 0.06, SHIRT)
        limb(f"{side}_elbow", f"{side}_wrist", 0.042, SKIN)
        cv2.circle(image, pixel(joints[f"{side}_wrist"]), max(1, round(0.026 * height)), SKIN, -1, cv2.LINE_AA)
    spot(0, 0.935, (0.056, 0.072), HAIR)
    spot(0, 0.915, (0.047, 0.066), SKIN)
    for u in (-0.019, 0.019):
        spot(u, 0.93, (0.009, 0.005), (250, 250, 250))
        spot(u, 0.93, (0.005, 0.005), (40, 30, 20))
        spot(u, 0.943, (0.011, 0.002), HAIR)
    spot(0, 0.91, (0.006, 0.011), (200, 140, 110))
    spot(0, 0.882, (0.016, 0.005), (170, 70, 70))
    return joints
