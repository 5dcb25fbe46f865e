"""People drawn in code: no likeness of anybody, but faces to the real networks, and each always the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from demo.pictures import Picture

_HEIGHT, _WIDTH = 640, 512


@dataclass(frozen=True, slots=True)
class Person:
    """How somebody looks; colours are RGB."""

    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    iris: tuple[int, int, int]
    lips: tuple[int, int, int]
    face_width: int  # half of it, of a face whose half height is 190
    eye_distance: int  # half of it
    nose_length: int
    mouth_width: int  # half of it
    beard: bool = False


ANNA = Person((236, 190, 165), (90, 50, 25), (70, 110, 150), (190, 80, 85), 135, 58, 78, 48)
BRUNO = Person((150, 100, 72), (200, 195, 190), (50, 30, 20), (120, 60, 55), 120, 74, 70, 36, beard=True)


EYES_Y, MIDDLE_X = 270, 256  # in a portrait


def on_canvas(*placed: tuple[Picture, int, int, int], width: int = 1280, height: int = 720) -> Picture:
    """Portraits, each as (portrait, left, top, height in pixels), on a grey ground."""
    canvas = np.full((height, width, 3), (120, 135, 150), np.uint8)
    for picture, left, top, tall in placed:
        size = (round(picture.shape[1] * tall / picture.shape[0]), tall)
        canvas[top : top + tall, left : left + size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return canvas


def portrait(person: Person, *, shift: float = 0.0) -> Picture:
    """Head and shoulders from the front, 512 by 640 pixels; the face is half as tall.

    Args:
        shift: pixels by which the features lie beside the middle: a small turn of the head
    """
    picture = np.full((_HEIGHT, _WIDTH, 3), (120, 135, 150), np.uint8)
    middle, top = MIDDLE_X, 300
    skin = np.asarray(person.skin, float)
    dark, darker, light = (tuple((skin * f).clip(0, 255)) for f in (0.82, 0.6, 1.08))

    def ellipse(
        centre: tuple[float, float], axes: tuple[float, float], colour: Sequence[float], **angles: float
    ) -> None:
        place = (round(centre[0]), round(centre[1]))
        start, end, turn = angles.get("start", 0), angles.get("end", 360), angles.get("turn", 0)
        cv2.ellipse(picture, place, (round(axes[0]), round(axes[1])), turn, start, end, colour, -1, cv2.LINE_AA)

    ellipse((middle, top - 30), (person.face_width + 28, 225), person.hair)
    ellipse((middle, _HEIGHT + 40), (230, 150), (60, 70, 110))
    cv2.rectangle(picture, (middle - 60, top + 120), (middle + 60, top + 260), dark, -1)
    ellipse((middle, top), (person.face_width, 190), person.skin)
    ellipse((middle, top - 175), (person.face_width, 62), person.hair)
    x = middle + shift
    if person.beard:
        ellipse((middle, top + 95), (person.face_width - 12, 96), person.hair)
        ellipse((x, top + 40), (person.face_width - 30, 70), person.skin)
    eyes = EYES_Y
    for side in (-1, 1):
        eye = x + side * person.eye_distance
        ellipse((eye, eyes), (40, 26), dark)
        ellipse((eye, eyes), (29, 13), (248, 246, 244))
        ellipse((eye, eyes), (13, 13), person.iris)
        ellipse((eye, eyes), (6, 6), (12, 10, 10))
        ellipse((eye + 4, eyes - 4), (3, 3), (255, 255, 255))
        ellipse((eye, eyes - 4), (32, 14), darker, start=180, end=360)
        ellipse((eye, eyes + 1), (29, 11), (248, 246, 244))
        ellipse((eye, eyes), (12, 11), person.iris)
        ellipse((eye, eyes), (6, 6), (12, 10, 10))
        ellipse((eye, eyes - 40), (40, 9), person.hair, turn=side * 6)
        ellipse((x + side * 95, top + 45), (30, 22), light)
    nose = eyes + person.nose_length
    ellipse((x, (eyes + nose) / 2), (14, person.nose_length / 2), light)
    ellipse((x, nose), (27, 18), dark)
    ellipse((x, nose - 5), (20, 15), light)
    for side in (-1, 1):
        ellipse((x + side * 13, nose + 6), (7, 4), darker)
    mouth = nose + 55
    ellipse((x, mouth), (person.mouth_width, 13), person.lips)
    ellipse((x, mouth + 4), (person.mouth_width - 8, 15), tuple(min(255, c * 1.12) for c in person.lips))
    ellipse((x, mouth - 1), (person.mouth_width - 4, 3), tuple(c * 0.5 for c in person.lips))
    ellipse((x, mouth + 32), (30, 7), dark)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 2.0), np.uint8)
