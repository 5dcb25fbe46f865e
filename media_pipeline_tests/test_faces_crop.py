"""Cutting faces out upright."""

from __future__ import annotations

import math

import numpy as np
import pytest

from media_pipeline.analyzers._face_crop import inverse_map, moved, similarity_map, upright_map, warp
from media_pipeline.analyzers._spec import Image


def dots(*places: tuple[int, int], size: int = 200) -> Image:
    picture = np.zeros((size, size, 3), np.uint8)
    for x, y in places:
        picture[y - 3 : y + 4, x - 3 : x + 4] = 255
    return picture


def brightest(picture: Image) -> list[tuple[float, float]]:
    """Middles of the white dots, from left to right."""
    import cv2

    _, _, _, middles = cv2.connectedComponentsWithStats((picture[..., 0] > 100).astype(np.uint8))
    return sorted(tuple(middle) for middle in middles[1:])


def test_similarity_recovers_turn_scale_and_shift() -> None:
    points = np.asarray([[0, 0], [10, 0], [4, 7], [1, 9]], float)
    turn = np.deg2rad(25)
    linear = 1.7 * np.asarray([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    found = similarity_map(points, points @ linear.T + (30, -8))

    assert found == pytest.approx(np.column_stack([linear, (30, -8)]), abs=1e-9)
    assert moved(moved(points, found), inverse_map(found)) == pytest.approx(points, abs=1e-9)


def test_similarity_does_not_mirror() -> None:
    points = np.asarray([[0, 0], [10, 0], [4, 7]], float)

    found = similarity_map(points, points * (-1, 1))

    assert np.linalg.det(found[:, :2]) > 0


def test_a_square_of_the_picture_fills_the_result() -> None:
    cut = warp(dots((80, 90), (120, 90)), upright_map((100, 100), 120, 0.0, 120), 120)

    assert brightest(cut) == [pytest.approx((40, 50), abs=1), pytest.approx((80, 50), abs=1)]


def test_a_turned_square_becomes_upright() -> None:
    eyes = ((80, 120), (120, 80))  # 45 degrees, counter-clockwise on the screen

    cut = warp(dots(*eyes), upright_map((100, 100), 160, -math.pi / 4, 160), 160)

    (left_x, left_y), (right_x, right_y) = brightest(cut)
    assert left_y == pytest.approx(right_y, abs=1)
    assert right_x - left_x == pytest.approx(math.dist(*eyes), abs=1)


def test_beyond_the_picture_is_black() -> None:
    cut = warp(np.full((100, 100, 3), 200, np.uint8), upright_map((100, 40), 80, 0.0, 80), 80)

    assert (cut[10:70, :35] == 200).all()
    assert (cut[10:70, 45:] == 0).all()
    assert (warp(np.full((9, 9, 3), 200, np.uint8), upright_map((510, 510), 20, 0.0, 20), 20) == 0).all()


def test_a_large_face_is_reduced_without_aliasing() -> None:
    stripes = np.zeros((1000, 1000, 3), np.uint8)
    stripes[:, ::2] = 255

    small = warp(stripes, upright_map((500, 500), 900, 0.0, 60), 60)

    assert small.mean() == pytest.approx(127, abs=3)
    assert small.std() < 10  # 127 where pixels are picked out


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1)])
def test_pictures_of_one_line(shape: tuple[int, int]) -> None:
    height, width = shape

    cut = warp(np.full((*shape, 3), 9, np.uint8), upright_map((width / 2, height / 2), 1.4 * max(shape), 0.0, 32), 32)

    assert cut.shape == (32, 32, 3)
