"""Reading order and geometry, without a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from media_pipeline.analyzers._ocr_layout import Line, in_reading_order
from media_pipeline.analyzers._ocr_onnx import quads_of


def line(text: str, x1: float, y1: float, x2: float, y2: float, score: float = 0.9) -> Line:
    return Line(text, score, ((x1, y1), (x2, y1), (x2, y2), (x1, y2)))


def stack(texts: Sequence[str], x1: float, y1: float, x2: float, pitch: float = 30) -> list[Line]:
    return [line(t, x1, y1 + i * pitch, x2, y1 + i * pitch + 28) for i, t in enumerate(texts)]


def order(lines: Sequence[Line]) -> list[str]:
    shuffled = [lines[i] for i in np.random.default_rng(7).permutation(len(lines))]
    return [found.text for found in in_reading_order(shuffled)]


def skewed(lines: Sequence[Line], degrees: float) -> list[Line]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [
        Line(each.text, each.score, tuple((x * cos - y * sin, x * sin + y * cos) for x, y in each.corners))
        for each in lines
    ]


def page_of_columns() -> list[Line]:
    return [
        line("title", 250, 20, 950, 60),
        *stack(["a1", "a2", "a3", "a4"], 40, 100, 580),
        *stack(["b1", "b2", "b3"], 620, 100, 1150),
        line("footer", 400, 260, 800, 290),
    ]


COLUMNS_READ = ["title", "a1", "a2", "a3", "a4", "b1", "b2", "b3", "footer"]


def test_columns_between_title_and_footer() -> None:
    assert order(page_of_columns()) == COLUMNS_READ


@pytest.mark.parametrize("degrees", [-4, -1, 2, 5])
def test_columns_of_a_page_that_lies_askew(degrees: float) -> None:
    assert order(skewed(page_of_columns(), degrees)) == COLUMNS_READ


def test_three_columns_with_narrow_gutters() -> None:
    columns = [stack([f"{name}{i}" for i in range(5)], 20 + 310 * n, 0, 320 + 310 * n) for n, name in enumerate("abc")]
    assert order([*columns[0], *columns[1], *columns[2]]) == [f"{name}{i}" for name in "abc" for i in range(5)]


def test_narrow_columns_whose_lines_do_not_pair_up() -> None:
    left, right = stack("abcd", 0, 0, 90, pitch=40), stack("wxyz", 150, 19, 240, pitch=47)
    assert order(left + right) == list("abcdwxyz")


def test_table_is_read_row_by_row() -> None:
    cells = [line(f"{c}{r}", 200 * c, 40 * r, 200 * c + 90, 40 * r + 28) for r in range(4) for c in range(3)]
    assert order(cells) == [f"{c}{r}" for r in range(4) for c in range(3)]


def test_pieces_of_one_line_are_joined() -> None:
    found = in_reading_order([line("world", 130, 2, 220, 31, 0.5), line("Hello", 20, 0, 110, 29, 0.9)])

    assert [f.text for f in found] == ["Hello world"]
    assert found[0].score == pytest.approx(0.7)
    assert found[0].box == (20, 0, 220, 31)


def test_chinese_pieces_are_joined_without_a_space() -> None:
    assert order([line("我是", 0, 0, 60, 30), line("中国人", 70, 0, 160, 30)]) == ["我是中国人"]


def test_far_and_unlike_neighbours_stay_apart() -> None:
    assert order([line("Total", 0, 0, 100, 30), line("12.50", 400, 0, 500, 30)]) == ["Total", "12.50"]
    assert order([line("BIG", 0, 0, 200, 90), line("small", 210, 40, 260, 60)]) == ["BIG", "small"]


def test_vertical_writing_goes_from_right_to_left() -> None:
    columns = [line(name, 100 - 50 * n, 0, 140 - 50 * n, 400) for n, name in enumerate("あいう")]
    assert order(columns) == list("あいう")


def test_vertical_word_beside_lines_does_not_tie_them_together() -> None:
    lines = stack(["one", "two", "three"], 100, 0, 500)
    assert order([line("side", 20, 0, 50, 300), *lines]) == ["side", "one", "two", "three"]


def test_vertical_word_is_not_joined_to_the_line_it_begins_beside() -> None:
    assert order([line("side", 20, 0, 50, 300), line("one", 55, 0, 500, 30)]) == ["side", "one"]


@pytest.mark.parametrize("degrees", [0, 20, -30])
def test_boxes_of_the_probability_map_are_let_out_rectangles(degrees: float) -> None:
    import cv2

    corners = cv2.boxPoints(((200, 150), (160, 16), degrees))
    probability = cv2.fillPoly(np.zeros((300, 400), dtype=np.float32), [corners.astype(np.int32)], 0.9)

    (quad,) = quads_of(probability)

    assert quad.mean(axis=0) == pytest.approx([200, 150], abs=1.5)
    grown = 160 * 16 * 1.6 / (160 + 16)  # area * ratio / perimeter, on both sides
    assert np.linalg.norm(quad[1] - quad[0]) == pytest.approx(160 + grown, abs=7)  # aslant, its corners are stairs
    assert np.linalg.norm(quad[3] - quad[0]) == pytest.approx(16 + grown, abs=7)
    assert math.degrees(math.atan2(*(quad[1] - quad[0])[::-1])) == pytest.approx(degrees, abs=1)


def test_specks_and_weak_areas_are_no_boxes() -> None:
    probability = np.zeros((100, 100), dtype=np.float32)
    probability[10:12, 10:12] = 1.0
    probability[40:60, 10:90] = 0.4
    assert quads_of(probability).shape == (0, 4, 2)
