from pathlib import Path

from datamodules.digits import Digits
from datamodules.image_folder import ImageFolder
from tests.datamodules.test_image_folder import write_source


def test_python_gives_text_where_a_path_is_meant(tmp_path: Path) -> None:
    write_source(tmp_path)
    text, path = (ImageFolder(root=root, folder="images", packs=root) for root in (str(tmp_path), tmp_path))
    assert (text.root, text.packs, text.source_folder) == (path.root, path.packs, path.source_folder)
    assert text.pack_folder == path.pack_folder
    assert Digits(root=f"{tmp_path}/data").packs == tmp_path / "data" / "packs"
