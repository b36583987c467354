from hashlib import blake2b
from pathlib import Path

import numpy as np

from datamodules.decoding.image_files import ImageFiles
from datamodules.packing.identity import TOGETHER, content_digests, identities


def test_is_the_path_of_a_file_and_the_pixels_of_what_has_none() -> None:
    images = np.random.default_rng(0).integers(256, size=(5, 3, 4, 4), dtype=np.uint8)
    images[3] = images[1]
    known_by = identities([images])
    assert len(set(known_by.tolist())) == 4
    assert known_by[1] == known_by[3]
    assert np.array_equal(identities([images[::-1]]), known_by[::-1])
    assert np.array_equal(content_digests(images[:, ::-1][:, ::-1]), known_by)
    names = [b"cat/1.png", b"cat/22.png"]
    expected = [int.from_bytes(blake2b(name, digest_size=8).digest(), "little") for name in names]
    for folder in ("here", "there"):
        files = ImageFiles(Path(folder), np.array(names, np.bytes_), (3, 4, 4))
        assert identities([files, files]).tolist() == expected * 2


def test_copies_belong_together_up_to_some() -> None:
    known_by = identities([np.zeros((100, 1, 8, 8), np.uint8), np.ones((3, 1, 8, 8), np.uint8)])
    assert np.unique(known_by, return_counts=True)[1].max() == TOGETHER
    assert len(set(known_by.tolist())) == -(-100 // TOGETHER) + 1
    assert known_by[0] == content_digests(np.zeros((1, 1, 8, 8), np.uint8))[0]
