"""Sizes: how a picture fits into a frame, and where something stands in one. Pure; rounded as sharp does."""

from __future__ import annotations

from dataclasses import dataclass

Size = tuple[int, int]
#: Share of the room that is free, from the left and from the top.
_PLACES = {"center": (0.5, 0.5), "top": (0.5, 0.0), "bottom": (0.5, 1.0), "left": (0.0, 0.5), "right": (1.0, 0.5)}


@dataclass(frozen=True, slots=True)
class Fitted:
    """How to resize.

    Attributes:
        scaled: size of the whole picture, resized.
        frame: size of the result: smaller than ``scaled`` where it is cropped, larger where it gets borders.
    """

    scaled: Size
    frame: Size


def fitted(
    size: Size, width: int | None, height: int | None, fit: str = "cover", without_enlargement: bool = False
) -> Fitted:
    """Give how a picture fits.

    Args:
        size: of the picture.
        width, height: of the frame; one may be None.
        fit: see `handlers.media.payloads.Resize`.
    """
    across = width / size[0] if width else None
    down = height / size[1] if height else None
    if fit == "fill":
        factors = (across or 1.0, down or 1.0)
        if without_enlargement:
            factors = (min(factors[0], 1.0), min(factors[1], 1.0))
        whole = _scaled(size, *factors)
        return Fitted(whole, whole)
    given = [factor for factor in (across, down) if factor]
    factor = max(given) if fit in ("cover", "outside") else min(given)
    if without_enlargement:
        factor = min(factor, 1.0)
    scaled = _scaled(size, factor, factor)
    if fit == "contain":
        return Fitted(scaled, (max(scaled[0], width or 0), max(scaled[1], height or 0)))
    if width is None or height is None or fit in ("inside", "outside"):
        return Fitted(scaled, scaled)
    return Fitted(scaled, (min(scaled[0], width), min(scaled[1], height)))


def within(size: Size, width: int | None, height: int | None) -> Size:
    """Give a size that fits into a box, never a larger one."""
    if width is None and height is None:
        return size
    return fitted(size, width, height, "inside", without_enlargement=True).scaled


def placed(room: Size, position: str) -> tuple[int, int]:
    """Give where something stands in the room that it leaves free: ``center``, ``top``, ``bottom-right`` …"""
    vertical, _, horizontal = position.partition("-")
    left = _PLACES[horizontal or vertical][0]
    top = _PLACES[vertical][1]
    return int(room[0] * left + 0.5), int(room[1] * top + 0.5)


def _scaled(size: Size, across: float, down: float) -> Size:
    # Rounded half up, as libvips does; Python would round to even.
    return max(1, int(size[0] * across + 0.5)), max(1, int(size[1] * down + 0.5))
