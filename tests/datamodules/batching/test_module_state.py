import torch
from kornia.augmentation.auto import TrivialAugment
from torch import nn

from datamodules.batching.module_state import ModuleState
from tests.faults.noise import Noise


def test_keeps_what_modules_have_changed_and_nothing_that_they_were_given() -> None:
    noise, again, policy = Noise(), Noise(), TrivialAugment()
    state, taken_up = ModuleState({"augmentation": [policy, noise]}), ModuleState({"augmentation": [policy, again]})
    images = torch.rand(2, 3, 8, 8)
    noise(policy(images))
    changed = state.changed()
    assert set(changed) == {"augmentation.Noise 1.mean", "augmentation.Noise 1._extra_state"}
    before = noise.mean.clone()
    noise(images)
    assert changed["augmentation.Noise 1.mean"] == before
    assert taken_up.load(changed)
    assert (again.mean, again.calls) == (before, 1)
    assert taken_up.load({})  # which is what they were constructed with
    assert not again.mean

    assert not ModuleState({"augmentation": [noise]}).load(changed)
    assert not ModuleState({"augmentation": [policy, nn.BatchNorm2d(3)]}).load(changed)
    assert state.of_each_rank(1) == [state.changed()]
