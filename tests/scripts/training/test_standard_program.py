import copy
from functools import partial
from pathlib import Path

import torch
from torchvision import transforms

from models.mlp import MLP
from scripts.training.standard_program import time_standard_program
from tests.datamodules.test_image_folder import prepared, write_source


def test_trains_on_the_same_images(tmp_path: Path) -> None:
    write_source(tmp_path)
    data = prepared(tmp_path, channels=3, image_size=16, resize="squash", batch_size=8)
    network = MLP(3 * 16 * 16, 2, hidden_sizes=())
    before = copy.deepcopy(network.state_dict())
    step_ms = time_standard_program(
        data,
        network,
        partial(torch.optim.SGD, lr=0.1),
        augmentation=[transforms.RandomAffine(10)],
        folder=str(tmp_path),
        precision="32-true",
        steps=2,
        epochs=2,
        num_workers=0,
    )
    assert len(step_ms) == 2
    assert min(step_ms) > 0
    assert all(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
