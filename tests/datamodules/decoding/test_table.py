from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.user_error import UserError
from datamodules.decoding.table import read_table

ROWS = {"id": ["007", "1e3", "NA"], "said": ["", 'ja, nein; \n"so"', "ä"]}


def written(folder: Path, text: str, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    file = folder / name
    file.write_text(text, encoding, newline="")
    return file


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.TXT"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_cells_are_text_whatever_stands_between_them(
    tmp_path: Path, name: str, separator: str, encoding: str, end: str
) -> None:
    lines = (("id", " said "), ("007", ""), (" 1e3 ", '"ja, nein; \n""so"""'), ("NA", "ä"))
    file = written(tmp_path, end.join(separator.join(line) for line in lines), name, encoding)
    assert read_table(file).to_pydict() == ROWS


def test_columns_of_parquet_are_text_too(tmp_path: Path) -> None:
    columns = {"id": [7, None], "half": [0.5, 1.0], "kind": pa.array(["a", None]).dictionary_encode(), "box": [[1], []]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").to_pydict() == {"id": ["7", ""], "half": ["0.5", "1"], "kind": ["a", ""]}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "t.xlsx",
            b"PK\x03\x04\x14\0\x06\0\x08\xa4\0\0!\0",
            "t.xlsx cannot be read as a table (it is not UTF-8); save",
        ),
        ("t.csv", b"", "t.csv has no rows; give one for each image"),
        ("t.csv", b"id,label\n", "t.csv has no rows; give one for each image"),
        ("t.csv", "id,stra\xdfe\na,b\n".encode("latin-1"), "(it is not UTF-8); save it in UTF-8, with a comma, a"),
        ("t.csv", "id,b\na,stra\xdfe\n".encode("latin-1"), "(it is not UTF-8); save it in UTF-8"),
        ("t.csv", "id,label\na,b\n".encode("utf-16"), "(it is not UTF-8); save it in UTF-8"),
        ("t.csv", b"id,label\na,b\na,b,c\n", "Expected 2 columns, got 3: a,b,c); save it in UTF-8, with a comma"),
        ("t.csv", b"id,label,id\na,b,c\n", "(two of its columns are called id); save"),
        ("t.parquet", b"id,label\na,b\n", "t.parquet cannot be read as a table (Parquet magic bytes not found"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_table(tmp_path / name)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
