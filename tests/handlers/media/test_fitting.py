"""Sizes as sharp gives them (benchmarks/images.py compares hundreds of cases with sharp itself)."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.integrations.pictures.fitting import Fitted, fitted, placed, within


@pytest.mark.parametrize(
    ("fit", "scaled", "frame"),
    [
        ("cover", (267, 200), (200, 200)),
        ("contain", (200, 150), (200, 200)),
        ("fill", (200, 200), (200, 200)),
        ("inside", (200, 150), (200, 150)),
        ("outside", (267, 200), (267, 200)),
    ],
)
def test_fits(fit: str, scaled: tuple[int, int], frame: tuple[int, int]) -> None:
    assert fitted((4000, 3000), 200, 200, fit) == Fitted(scaled, frame)
    assert fitted((40, 30), 200, 200, fit).frame == frame, "a small one is made larger"


@pytest.mark.parametrize("fit", ["cover", "contain", "inside", "outside"])
def test_one_side_gives_the_other(fit: str) -> None:
    assert fitted((4000, 3000), 200, None, fit).frame == (200, 150)
    assert fitted((4000, 3000), None, 200, fit).frame == (267, 200)


def test_fill_with_one_side_keeps_the_other() -> None:
    assert fitted((4000, 3000), 200, None, "fill").frame == (200, 3000)


@pytest.mark.parametrize(
    ("fit", "frame"),
    [("cover", (40, 20)), ("contain", (200, 20)), ("fill", (40, 20)), ("inside", (27, 20)), ("outside", (40, 30))],
)
def test_without_enlargement(fit: str, frame: tuple[int, int]) -> None:
    assert fitted((40, 30), 200, 20, fit, without_enlargement=True).frame == frame


@pytest.mark.parametrize(
    ("box", "size"), [((100, 100), (100, 75)), ((None, 10), (13, 10)), ((9000, None), (4000, 3000))]
)
def test_within(box: Any, size: tuple[int, int]) -> None:
    assert within((4000, 3000), *box) == size


def test_no_side_becomes_nothing() -> None:
    assert fitted((4000, 2), 100, 100, "inside").frame == (100, 1)


@pytest.mark.parametrize(
    ("position", "place"),
    [("center", (5, 3)), ("top", (5, 0)), ("left", (0, 3)), ("bottom-right", (10, 5)), ("top-left", (0, 0))],
)
def test_places(position: str, place: tuple[int, int]) -> None:
    assert placed((10, 5), position) == place
