import os
from pathlib import Path

from datamodules.decoding.folder_fingerprint import fingerprint_files


def test_the_fingerprint_changes_with_name_size_and_time(folder: Path) -> None:
    file = folder / "train" / "0" / "0.png"
    seen = [fingerprint_files(folder)]
    assert fingerprint_files(folder) == seen[0]
    facts, alone = file.stat(), fingerprint_files(file)
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert fingerprint_files(file) != alone
    seen.append(fingerprint_files(folder))
    os.utime(file, ns=(0, 0))
    seen.append(fingerprint_files(folder))
    file.write_bytes(b"x")
    os.utime(file, ns=(0, 0))
    seen.append(fingerprint_files(folder))
    file.rename(file.with_name("9.png"))
    seen.append(fingerprint_files(folder))
    file.with_name("9.png").rename(folder / "train" / "1" / "9.png")
    seen.append(fingerprint_files(folder))
    assert len(set(seen)) == len(seen)
    alone = fingerprint_files(folder / "train" / "1" / "9.png")
    os.utime(folder / "train" / "1" / "9.png", ns=(1, 1))
    assert fingerprint_files(folder / "train" / "1" / "9.png") != alone
