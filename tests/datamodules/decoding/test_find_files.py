from pathlib import Path

from datamodules.decoding.find_files import files_under, folders_in, images_in, images_under
from datamodules.decoding.folder_fingerprint import fingerprint_files


def test_junk_is_never_found(folder: Path) -> None:
    before = images_under(folder, folder), folders_in(folder / "train"), fingerprint_files(folder)
    for junk in ("__MACOSX/train", ".git", "train/.hidden", "train/@eaDir", "train/0/.AppleDouble"):
        (folder / junk).mkdir(parents=True)
        (folder / junk / "0.png").write_bytes(b"x")
    for junk in (".DS_Store", "train/Thumbs.db", "train/0/._0.png"):
        (folder / junk).write_bytes(b"x")
    assert before == (images_under(folder, folder), folders_in(folder / "train"), fingerprint_files(folder))


def test_follows_links_and_survives_one_to_nothing(folder: Path) -> None:
    (folder / "train" / "0" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "train" / "2").symlink_to(folder / "train" / "1")
    fingerprint_files(folder)
    assert "train/2/1.png" in images_under(folder, folder)
    assert images_in(folder / "train" / "0") == ["0.png", "2.png", "4.png", "gone.png"]
    assert len(list(files_under(folder))) == 10
