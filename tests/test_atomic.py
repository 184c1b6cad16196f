import json
import math
from pathlib import Path

import pytest

from calo4pqvae.atomic import atomic_path, check_target, write_json, write_text
from calo4pqvae.errors import OutputError


def test_a_finished_file_stands_at_its_target_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file.txt"
    write_text(target, "größer\n")
    assert target.read_text(encoding="utf-8") == "größer\n"
    assert list(target.parent.iterdir()) == [target]


def test_target_is_untouched_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with atomic_path(target) as partial:
        assert partial.parent == target.parent
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def half_written(target: Path, error: BaseException) -> None:
    with atomic_path(target) as partial:
        partial.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_an_error_in_the_block_leaves_the_target_and_no_rest(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(type(error)):
        half_written(target, error)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_an_output_error_with_its_reason(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(OutputError, match=r"cannot write .*file\.txt: No space left on device; choose another place"):
        half_written(target, OSError(28, "No space left on device"))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_in_the_way_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="a folder of that name is in the way"):
        write_text(tmp_path / "taken", "text")


def test_a_file_in_place_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "file" / "inner.txt", "text")
    assert (tmp_path / "file").read_text() == "old"


def test_a_block_that_writes_nothing_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"), atomic_path(tmp_path / "file.txt"):
        pass


def test_json_comes_back_and_ends_with_a_line(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, None], "b": "ü"}
    write_json(tmp_path / "file.json", content)
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_refuses_what_is_no_json(tmp_path: Path, value: float) -> None:
    target = tmp_path / "file.json"
    write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"a": value})
    assert json.loads(target.read_text()) == {"a": 1}


def test_a_target_is_checked_and_left_as_it_is(tmp_path: Path) -> None:
    stands = tmp_path / "stands.txt"
    stands.write_text("old")
    for target in (stands, tmp_path / "new.txt"):
        check_target(target)
    assert [path.name for path in tmp_path.iterdir()] == ["stands.txt"]
    assert stands.read_text() == "old"
    (tmp_path / "folder").mkdir()
    for target, told in (
        (tmp_path / "folder", "folder of that name is in the way"),
        (stands / "x.txt", "cannot write"),
    ):
        with pytest.raises(OutputError, match=told):
            check_target(target)
