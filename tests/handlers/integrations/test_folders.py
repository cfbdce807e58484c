"""Paths that come in jobs, and folders that an operator allows."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from handlers.integrations.folders import PathForbidden, confined, open_confined, remove_confined, write_confined


@pytest.mark.parametrize(
    "path", ["a" * 300, "circle", "circle/a", "out/secret", "../secret", "/etc/passwd", "a\0b", "."]
)
def test_what_leads_nowhere_or_elsewhere_is_told_once(tmp_path: Path, path: str) -> None:
    """And not tried again: no other try would find a file there. The error does not say which path it was."""
    folder = tmp_path / "allowed"
    folder.mkdir()
    (folder / "circle").symlink_to(folder / "round")
    (folder / "round").symlink_to(folder / "circle")
    (folder / "out").symlink_to(tmp_path)
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(PathForbidden) as read:
        open_confined(path, [folder], "ARQD_X", 1000)
    with pytest.raises(PathForbidden):
        write_confined(path, [folder], "ARQD_X", io.BytesIO(b"x"))
    with pytest.raises(PathForbidden):
        remove_confined(path, [folder], "ARQD_X")
    assert "secret" not in str(read.value)
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_path_is_looked_for_in_each_of_the_folders(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()
    (two / "a").write_bytes(b"a")
    assert confined("a", [one, two], "ARQD_X") == two / "a"
    with open_confined("a", [one, two], "ARQD_X", 1) as file:
        assert file.read() == b"a"
    assert write_confined("sub/b", [one, two], "ARQD_X", io.BytesIO(b"b")) == one / "sub" / "b"
    with pytest.raises(PathForbidden, match="the limit is 0"):
        open_confined("a", [one, two], "ARQD_X", 0)


def test_a_name_too_long_in_a_folder_that_is_made(tmp_path: Path) -> None:
    with pytest.raises(PathForbidden, match="too long"):
        write_confined("new/" + "a" * 300, [tmp_path], "ARQD_X", io.BytesIO(b"x"))
    assert list((tmp_path / "new").iterdir()) == []
