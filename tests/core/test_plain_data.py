import json
from pathlib import Path
from typing import Any

import pytest

from core.plain_data import check_plain, parse_yaml, read_json, read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "holds more than 1,000,000 values"),
        (MERGED, "holds more than 1,000,000 values"),
        ("a: &a [*a]", "nested more than 64 levels deep"),
        ("[" * 100 + "]" * 100, "nested more than 64 levels deep"),
        ("[" * 20_000 + "]" * 20_000, "nested more than 64 levels deep"),
        ("a: 1" + "0" * 400, "a number of more than 300 digits"),
        ("a: 1" + "0" * 5000, "Exceeds the limit"),
        ("a: 2024-13-45", "month must be in 1..12"),
        ("a: [", "is not YAML"),
        ("a: \x00", "is not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_refuses_yaml_that_is_none_or_too_much(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_yaml(text)


def test_takes_what_people_write(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: &base {lr: 0.1}\nother: {<<: *base, x: [1, null]}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"base": {"lr": 0.1}, "other": {"lr": 0.1, "x": [1, None]}}
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 200_000, "nested more than 64 levels deep|it is not JSON"),
        ('{"a": ' * 100 + "1" + "}" * 100, "nested more than 64 levels deep"),
        ("1" + "0" * 400, "a number of more than 300 digits"),
        ("{", "it is not JSON"),
        ("\udcff", "it is not JSON"),
    ],
)
def test_refuses_json_that_is_none_or_too_much(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=reason):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(json.dumps({"a": [1, None, 0.5]}))
    assert read_json(tmp_path / "b.json") == {"a": [1, None, 0.5]}


def test_counts_what_is_referred_to_as_often_as_it_is() -> None:
    data: list[Any] = [0] * 10
    for _ in range(10):
        data = [data] * 10
    with pytest.raises(ValueError, match="more than 1,000,000 values"):
        check_plain(data)
    data.append(data)
    with pytest.raises(ValueError, match=r"levels deep|values"):
        check_plain(data)
