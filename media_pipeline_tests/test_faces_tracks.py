"""Which faces of a video are one person's, on made-up embeddings."""

from __future__ import annotations

import numpy as np
import pytest

from media_pipeline.analyzers._face_tracks import Sighting, Vector, tracks

LEFT, RIGHT = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)


def vector(*angles_deg: float) -> Vector:
    """A unit vector in the plane: two people's cosine is that of the difference of their angles."""
    (angle,) = np.deg2rad(angles_deg)
    return np.asarray([np.cos(angle), np.sin(angle)], np.float32)


def of(*sightings: Sighting) -> list[int]:
    # cos 30 = 0.87, cos 60 = 0.5
    return tracks(sightings, same_person=0.8, same_place=0.4)


def seen(position: int, angle: float | None, box: tuple[float, ...] = LEFT, scene: int = 0) -> Sighting:
    x1, y1, x2, y2 = box
    return Sighting(position, scene, (x1, y1, x2, y2), None if angle is None else vector(angle))


def test_nobody() -> None:
    assert of() == []


def test_alike_is_one_person_wherever_and_whenever() -> None:
    assert of(seen(0, 0), seen(1, 90, RIGHT), seen(9, 5, RIGHT, scene=3)) == [0, 1, 0]


def test_twins_in_one_frame_stay_two() -> None:
    assert of(seen(0, 0, LEFT), seen(0, 1, RIGHT)) == [0, 1]
    # Nor does a third frame bring them together.
    assert of(seen(0, 0, LEFT), seen(0, 8, RIGHT), seen(7, 4, LEFT, scene=1))[:2] == [0, 1]


def test_in_the_same_place_less_likeness_is_enough() -> None:
    assert of(seen(0, 0, LEFT), seen(1, 60, LEFT)) == [0, 0]
    assert of(seen(0, 0, LEFT), seen(1, 60, RIGHT)) == [0, 1]
    assert of(seen(0, 0, LEFT), seen(1, 60, LEFT, scene=1)) == [0, 1]
    assert of(seen(0, 0, LEFT), seen(1, 80, LEFT)) == [0, 1]


def test_faces_without_embedding_go_on_by_their_place_alone() -> None:
    assert of(seen(0, None), seen(1, None), seen(3, None)) == [0, 0, 0]  # one frame missed
    assert of(seen(0, None), seen(3, None)) == [0, 1]
    assert of(seen(0, None), seen(1, None, RIGHT)) == [0, 1]
    assert of(seen(0, 0), seen(1, None), seen(2, 5)) == [0, 0, 0]
    # What was known before an unknown face still counts after it.
    assert of(seen(0, 0), seen(1, None), seen(2, 90)) == [0, 0, 1]


def test_the_larger_overlap_wins() -> None:
    moved = (2.0, 0.0, 12.0, 10.0)
    assert of(seen(0, None, LEFT), seen(1, None, (4.0, 0.0, 14.0, 10.0)), seen(1, None, moved)) == [0, 1, 0]


def test_a_chain_of_likenesses_is_not_one_person() -> None:
    """Each resembles its neighbour, the first and the last do not: average linkage does not chain them."""
    chain = [seen(3 * place, 30.0 * place, scene=place) for place in range(6)]
    found = of(*chain)
    assert found[0] != found[-1]
    assert max(found.count(track) for track in found) <= 3


def test_numbers_follow_the_first_appearance() -> None:
    found = of(seen(0, 90), seen(5, 0, RIGHT), seen(9, 0, RIGHT), seen(13, 90))
    assert found == [0, 1, 1, 0]


def test_four_people_in_two_hundred_frames() -> None:
    generator = np.random.default_rng(0)
    people = np.linalg.qr(generator.normal(size=(16, 16)))[0][:4]
    truth = [int(who) for who in generator.integers(0, 4, 200)]
    sightings = []
    for position, who in enumerate(truth):
        noisy = people[who] + generator.normal(scale=0.08, size=16)
        sightings.append(Sighting(position, position, LEFT, np.float32(noisy / np.linalg.norm(noisy))))

    found = tracks(sightings, same_person=0.7, same_place=0.4)

    assert len(set(found)) == 4
    assert len(set(zip(truth, found, strict=True))) == 4


@pytest.mark.slow
def test_a_crowd_is_taken_in_bounded_time() -> None:
    generator = np.random.default_rng(0)
    crowd = generator.normal(size=(3000, 128)).astype(np.float32)
    crowd /= np.linalg.norm(crowd, axis=1, keepdims=True)
    sightings = [
        Sighting(i // 10, i // 10, (20.0 * (i % 10), 0, 20.0 * (i % 10) + 10, 10), v) for i, v in enumerate(crowd)
    ]

    found = tracks(sightings, same_person=0.2, same_place=0.1)

    assert len(found) == 3000
