from __future__ import annotations

from pathlib import Path

import pytest

from afdcd.data.sources.class_file import read_class_file
from afdcd.errors import UserError


def written(folder: Path, text: str) -> Path:
    path = folder / "classes.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_of_colours(tmp_path: Path) -> None:
    text = "\ufeffLabel, Red,Green,Blue,11\n# a remark\nroad,128,64,128,1\n\nsky,1,2,3\nroad,4,5,6\n-,0,0,0\n"
    found = read_class_file(written(tmp_path, text))
    assert found.classes == ("road", "sky") and not found.rest
    assert found.colours == ((128, 64, 128), (1, 2, 3), (4, 5, 6), (0, 0, 0))
    assert found.ids == {0: 0, 1: 1, 2: 0, 3: None}
    assert found.palette == ((128, 64, 128), (1, 2, 3))


def test_a_table_of_ids_with_colours_takes_them_for_pictures_only(tmp_path: Path) -> None:
    found = read_class_file(
        written(tmp_path, "name,id,trainId,r,g,b\nroad,7,0,9,9,9\nsky,23,10,1,2,3\n-,*\n")
    )
    assert found.colours is None and found.ids == {7: 0, 23: 1} and found.rest
    assert found.palette == ((9, 9, 9), (1, 2, 3))
    alike = read_class_file(written(tmp_path, "name,id,r,g,b\nroad,7,9,9,9\nsky,23,9,9,9\n"))
    assert alike.palette is None


def test_cvats_labelmap(tmp_path: Path) -> None:
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\n-:255,255,255::\n-:*::\n"
    found = read_class_file(written(tmp_path, text))
    assert found.classes == ("background", "road") and found.rest
    assert found.colours == ((0, 0, 0), (128, 64, 128), (255, 255, 255))
    assert found.ids == {0: 0, 1: 1, 2: None}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: there is no class"),
        ("road,7\nsky,8\n", "line 1: the head 'road,7' has no name, or neither id nor r, g, b"),
        ("name,r,g\nroad,7,8\n", "neither id nor r, g, b"),
        ("name,id\nroad,7\nsky,7\n", "line 3: id 7 stands on an earlier line"),
        ("name,r,g,b\nroad,1,2,3\n\nsky,1,2,3\n", "line 4: colour 1,2,3 stands on an earlier line"),
        ("name,id\nroad,256\n", "line 2: '256' is no whole number from 0 to 255"),
        ("name,r,g,b\nroad,1,-2,3\n", "'-2' is no whole number"),
        ("name,r,g,b\nroad,1,2\n", "'' is no whole number"),
        ("name,id\nroad,1,2\n", "3 values for 2 columns"),
        ("name,id\n,1\n", "line 2: the name is missing"),
        ("name,id\nroad,*\n", r"\* stands for what is not listed and can only be ignored, not 'road'"),
        ("name,id\nroad,1\n-,2\n", "names 1 classes; give from 2 to 255"),
        ("road:1,2::\n", "after the first colon stand red, green and blue"),
    ],
)
def test_what_cannot_be_understood_is_told_with_its_line_and_the_form(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(UserError, match=f"classes.csv.*{said}.*`name,id` then `road,7`"):
        read_class_file(written(tmp_path, text))


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_bytes(b"name,id\n\xff\xfe\n")
    with pytest.raises(UserError, match="cannot be read as text"):
        read_class_file(tmp_path / "classes.csv")
