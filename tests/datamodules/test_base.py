from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from core.user_error import UserError
from datamodules.batching.sampler import KeyedBatchSampler
from datamodules.batching.transform import Normalization
from datamodules.digits import Digits
from datamodules.mixing import MixUp
from datamodules.packing.pack import Source
from models.classifier import Classifier
from models.mlp import MLP
from scripts.inference.predictions import predict_split
from tests.conftest import Run, quiet_trainer, trained_network
from tests.faults.noise import Noise, NoisyConvNet


def prepared(root: Path, **arguments: Any) -> Digits:
    data = Digits(root=root, **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def test_drawn_splits_follow_their_own_seed(data_root: Path) -> None:
    first, same, other = (
        prepared(data_root, split_seed=split_seed, seed=seed).splits["test"].tolist()
        for split_seed, seed in ((0, 0), (0, 1), (1, 0))
    )
    assert first == same != other


def test_splits_of_the_source_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Digits) -> Source:
        images, labels = whole(self)["train"][:2]
        assert isinstance(images, np.ndarray)
        return {"train": (images[:1000], labels[:1000]), "test": (images[1000:], labels[1000:])}

    whole = Digits.read
    monkeypatch.setattr(Digits, "read", read)
    data = prepared(tmp_path, val_size=100)
    assert data.splits["test"].tolist() == list(range(1000, 1797))
    assert 70 < len(data.splits["val"]) < 130
    assert set(data.splits["val"].tolist()) < set(range(1000))


def test_normalises_by_the_training_split_unless_told(digits: Digits, data_root: Path) -> None:
    batch = digits.pack[digits.splits["train"]]  # type: ignore[index]
    images, _ = digits.on_after_batch_transfer(batch, 0)
    assert float(images.mean()) == pytest.approx(0, abs=1e-5)
    assert float(images.std()) == pytest.approx(1, abs=1e-4)
    told = prepared(data_root, normalization=Normalization([0.5], [0.25]))
    images, _ = told.on_after_batch_transfer(batch, 0)
    assert torch.allclose(images, (batch[0] / 255 - 0.5) / 0.25, atol=1e-6)
    assert told.preprocessing == {
        "channels": 1,
        "image_size": [8, 8],
        "resize": "crop",
        "mean": [0.5],
        "std": [0.25],
    }
    assert (prepared(data_root, normalization="mnist").mean, prepared(data_root, normalization="none").std) == (
        [0.1307],
        [1.0],
    )


@pytest.mark.parametrize(
    ("before", "now", "is_refused"),
    [
        ("computed", "computed", False),
        ("mnist", "mnist", False),
        ("mnist", Normalization([0.1307], [0.3081]), False),
        ("computed", "mnist", True),
        ("mnist", "computed", True),
        ("mnist", "none", True),
        (Normalization([0.5], [0.25]), Normalization([0.5], [0.5]), True),
    ],
)
def test_weights_go_on_with_the_normalisation_that_they_had(
    data_root: Path, before: str | Normalization, now: str | Normalization, is_refused: bool
) -> None:
    state, data = prepared(data_root, normalization=before).state_dict(), prepared(data_root, normalization=now)
    if is_refused:
        with pytest.raises(UserError, match=r"data\.normalization is another than the checkpoint's"):
            data.load_state_dict(state)
    else:
        data.load_state_dict(state)
        assert data.mean == state["mean"]
    data = prepared(data_root)
    data.load_state_dict({"mean": [0.25], "std": [0.5]})  # as older checkpoints have it
    assert data.mean == [0.25]
    with pytest.raises(UserError, match="The checkpoint normalises 3 channels; the images have 1; use the data that"):
        data.load_state_dict({"mean": [0.1, 0.2, 0.3], "std": [0.5] * 3})


@pytest.mark.parametrize(
    ("arguments", "place"),
    [({}, (1, 640)), ({"batch_size": 48}, (1, 640)), ({"seed": 1}, (1, 0)), ({"limit": 0.5}, (1, 0))],
)
def test_goes_on_behind_the_same_images_or_begins_the_epoch_again_and_says_so(
    data_root: Path, capsys: pytest.CaptureFixture[str], arguments: dict[str, Any], place: tuple[int, int]
) -> None:
    before, data = prepared(data_root), prepared(data_root, **arguments)
    capsys.readouterr()
    sampler = before.train_dataloader().sampler
    assert isinstance(sampler, KeyedBatchSampler)
    data.load_state_dict(before.state_dict() | {"epoch": 1, "images_done": 640, "order": sampler.order})
    assert data.place == place
    begins_again = "epoch 1 begins again: the order of its training images has changed\n"
    assert capsys.readouterr().out == (begins_again if place == (1, 0) else "")


def test_a_channel_without_contrast_does_no_harm(data_root: Path) -> None:
    data = prepared(data_root, normalization=Normalization([0.5], [0.0]))
    images, _ = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert images.isfinite().all()


def test_workers_give_the_same_batches(data_root: Path) -> None:
    alone, workers = prepared(data_root), prepared(data_root, num_workers=2)
    for mine, theirs in zip(alone.train_dataloader(), workers.train_dataloader(), strict=True):
        assert torch.equal(mine[0], theirs[0])


MIXING = "[{class_path: datamodules.mixing.MixUp}, {class_path: datamodules.mixing.CutMix}]"


class Spy(torch.nn.Module):
    """Notes what passes through it."""

    seen: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return images


def test_augments_training_images_alone_each_in_its_own_way(data_root: Path) -> None:
    from lightning.pytorch import Trainer

    from models.classifier import Classifier
    from models.mlp import MLP

    before, after = Spy(), Spy()
    data = Digits(root=data_root, batch_size=100, augmentation=[before, K.RandomAffine(30.0, p=1.0), after])
    classifier = Classifier(MLP(64, 10), 10, torch.optim.SGD)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    Trainer(max_epochs=1, enable_model_summary=False, **quiet).fit(classifier, data)  # type: ignore[arg-type]

    assert sum(map(len, before.seen)) == 1294
    first, turned = before.seen[0], after.seen[0]
    assert first.dtype == torch.float32
    assert 0 <= first.min() <= first.max() == 1
    changes = {tuple((turned[i] - first[i]).flatten().tolist()) for i in range(len(first))}
    assert len(changes) == len(first)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "data.batch_size is 0"),
        ({"num_workers": -1}, "data.num_workers is -1"),
        ({"val_size": 1.5}, "data.val_size is 1.5"),
        ({"test_size": 0}, "data.test_size is 0"),
        ({"test_size": 1.0}, "data.test_size is 1.0"),
        ({"limit": float("nan")}, "data.limit is nan"),
        ({"limit": float("inf")}, "data.limit is inf"),
        ({"normalization": "imagenet"}, "data.normalization has 3 means; the images have 1 channels"),
        ({"normalization": "imagnet"}, "data.normalization is imagnet; give computed, imagenet"),
        ({"classes": [1, "tow"]}, "data.classes names tow, which Digits does not have"),
        ({"classes": ["1"]}, "has only the class 1 of .* name more in --data.classes"),
        ({"classes": []}, "has only the class none of .*; name more in --data.classes"),
        ({"classes": ["1", "2", "1"]}, "names a class twice"),
        ({"limit": 0}, "data.limit is 0"),
        ({"limit": 1798}, "data.limit asks for 1798 of 1797 images"),
        ({"limit": 3}, "the (val|test) split has none"),
        ({"limit": 12}, r"The class \d has no training image left by the splits and data.limit"),
        ({"storage": "files"}, "data.storage is files, but Digits does not come as image files"),
        ({"download": True, "root": Path("/proc/none")}, "cannot be packed"),
        ({"val_size": 1439}, "data.val_size asks for 1439 of 1438 images"),
        ({"val_size": 1438}, "data.val_size asks for 1438 of 1438 images"),
        ({"val_size": 0.0001}, "the val split has none"),
    ],
)
def test_refuses_arguments_that_make_no_sense(data_root: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        prepared(**{"root": data_root} | arguments)


@pytest.mark.parametrize("limit", [300, 3e2, 0.25])
def test_a_limit_keeps_the_share_of_each_split_and_class(data_root: Path, limit: int | float) -> None:
    whole, some = prepared(data_root), prepared(data_root, limit=limit)
    total = round(limit * 1797) if limit < 1 else limit
    assert sum(map(len, some.splits.values())) == total
    for name, indices in some.splits.items():
        assert set(indices.tolist()) < set(whole.splits[name].tolist())
        counts, all_counts = (
            torch.bincount(data.pack.labels[data.splits[name]])  # type: ignore[union-attr]
            for data in (some, whole)
        )
        assert (counts - all_counts * total / 1797).abs().max() <= 1


def test_balanced_sampling_shows_every_class_alike(data_root: Path) -> None:
    data = prepared(data_root, balanced=True, batch_size=100)
    seen = torch.cat([labels for _, labels in data.train_dataloader()])
    assert torch.bincount(seen).tolist() == data.epoch_counts
    assert max(data.epoch_counts) - min(data.epoch_counts) <= 1
    assert sum(data.epoch_counts) == sum(data.class_counts) == 1294
    assert len(set(data.class_counts)) > 1


def test_says_what_it_feeds(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = prepared(data_root)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Digits: 1,294 train, 144 val, 359 test images of 1x8x8, packed in ")
    assert str(data.pack_folder) in line


def test_refuses_a_batch_larger_than_the_training_split(data_root: Path) -> None:
    data = prepared(data_root, batch_size=2000, drop_last=True)
    with pytest.raises(UserError, match="too few for one batch"):
        data.train_dataloader()


@pytest.mark.slow
@pytest.mark.any_device
@pytest.mark.parametrize(
    "flags",
    [
        ("--data.num_workers=0",),
        ("--data.num_workers=1", "--data.balanced=true", "--data.mixing", MIXING, "--model.class_weights=balanced"),
        ("--model.loss.label_smoothing=0.1", "--model.decay_norms_and_biases=false", "--trainer.gradient_clip_val=0.5"),
        ("--model.loss=models.losses.SoftmaxMSE", "--weight_average=callbacks.ema.EMA", "--data.mixing", MIXING),
        ("--weight_average=callbacks.swa.SWA", "--weight_average.start=1", "--early_stopping=null"),
    ],
    ids=["plain", "mixed and balanced", "smoothed, decay of weights alone, clipped", "softmax MSE, EMA", "SWA"],
)
def test_every_place_in_a_run_resumes_bit_for_bit(
    train: Callable[..., Run], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """Dropout, augmentation, batch norm, accumulation and a schedule by step, taken up within and between epochs."""
    steps = tmp_path / "steps"
    saver = "lightning.pytorch.callbacks.ModelCheckpoint"
    whole = train(
        *("--trainer.max_epochs=3", "--trainer.accumulate_grad_batches=2", "--data.batch_size=128"),
        *("--model.network.dropout=0.1", "--model.network.head_dropout=0.2", *flags),
        "--data.augmentation=[{class_path: kornia.augmentation.RandomAffine, init_args: {degrees: 10.0}}]",
        f"--trainer.callbacks+={{class_path: {saver}, "
        f"init_args: {{every_n_train_steps: 2, save_top_k: -1, dirpath: {steps}}}}}",
    )
    places = sorted(steps.glob("*.ckpt"))
    assert len(places) == 9
    for place in [places[0], places[3], places[7], whole.best, whole.last]:
        resumed = train("--ckpt_path", str(place), "--trainer.callbacks=null")
        assert ("raw_state_dict" in resumed.checkpoint) == any("weight_average" in flag for flag in flags)
        for part in ("state_dict", "raw_state_dict", "optimizer_states", "lr_schedulers"):
            assert_equal(resumed.checkpoint.get(part), whole.checkpoint.get(part), f"{place.name}: {part}")
        assert resumed.results["metrics"] == whole.results["metrics"]
        assert resumed.results["best"] == whole.results["best"]


def test_gives_the_batches_of_training_again(data_root: Path, tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Watched(Classifier):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            seen.append(batch[0])
            return super().training_step(batch, batch_idx)

    data = prepared(data_root, batch_size=256, augmentation=[K.RandomAffine(degrees=10.0)], mixing=[MixUp()])
    model = Watched(MLP(64, 10), 10, partial(torch.optim.SGD, lr=0.1))
    quiet_trainer(tmp_path, max_epochs=2).fit(model, data)
    again = [images for epoch in range(2) for images, _ in data.training_batches(epoch, torch.device("cpu"))]
    assert len(again) == 12
    assert all(torch.equal(one, other) for one, other in zip(seen, again, strict=True))


def assert_equal(one: Any, other: Any, place: str) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_equal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_equal(mine, theirs, f"{place}.{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    else:
        assert one == other, place


def test_a_network_that_draws_in_evaluation_draws_the_same_each_time(data_root: Path, tmp_path: Path) -> None:
    data = prepared(data_root, batch_size=100)
    model = Classifier(NoisyConvNet(1, (8, 8), 10), 10, torch.optim.SGD).eval()
    trainer = quiet_trainer(tmp_path)
    first, again = (torch.cat(trainer.predict(model, data)) for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(first, again)
    data.trainer = None
    assert np.array_equal(predict_split(trained_network(model, data), data, "test").logits, first.numpy())


@pytest.mark.parametrize(
    ("augmentation", "words"),
    [
        ([Noise()], ""),
        ([K.RandomAffine(10.0), Noise()], "data.augmentation and data.mixing start with fresh state"),
        ([], "fresh state"),
    ],
)
def test_takes_up_the_state_of_augmentation_or_says_that_it_begins_anew(
    data_root: Path, capsys: pytest.CaptureFixture[str], augmentation: list[torch.nn.Module], words: str
) -> None:
    before = prepared(data_root, augmentation=[Noise()])
    before.transform(next(iter(before.train_dataloader())), training=True)
    state = before.state_dict() | {"transforms": before.module_state.of_each_rank(1)}
    data = prepared(data_root, augmentation=augmentation)
    capsys.readouterr()
    data.load_state_dict(state)
    assert words in capsys.readouterr().out
    means = [each.mean for each in augmentation if isinstance(each, Noise)]
    assert all(bool(mean) == (not words) for mean in means)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("overfit_batches", r"0.01 \* 21 < 1"),
        ("limit_train_batches", r"0.01 \* 21 < 1"),
        ("limit_val_batches", r"0.01 \* 3 < 1"),
    ],
)
def test_less_than_a_batch_is_refused(argument: str, words: str, data_root: Path, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=1, **{argument: 0.01})
    with pytest.raises(MisconfigurationException, match=words):
        trainer.fit(
            Classifier(MLP(64, 10, ()), 10, lambda groups: torch.optim.SGD(groups, lr=0.1)), Digits(root=data_root)
        )


def test_overfitting_shows_the_same_batches_in_every_epoch_and_in_validation(data_root: Path, tmp_path: Path) -> None:
    spy = Spies()
    trainer = quiet_trainer(tmp_path, overfit_batches=2, max_epochs=2, num_sanity_val_steps=0, callbacks=[spy])
    network = Classifier(MLP(64, 10, ()), 10, lambda groups: torch.optim.SGD(groups, lr=0.1))
    trainer.fit(network, Digits(root=data_root, batch_size=8))
    assert len(spy.labels["train"]) == len(spy.labels["val"]) == 4
    assert spy.labels["train"] == spy.labels["val"]
    assert spy.labels["train"][:2] == spy.labels["train"][2:]
    assert len(set(spy.labels["train"][0])) > 1
    trainer.test(network, Digits(root=data_root), verbose=False)
    assert trainer.num_test_batches == [6], "all images"


class Spies(Callback):
    """Notes the labels of each batch."""

    def __init__(self) -> None:
        self.labels: dict[str, list[list[int]]] = {"train": [], "val": []}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Any, batch_idx: int
    ) -> None:
        self.labels["train"].append(batch[1].tolist())

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.labels["val"].append(batch[1].tolist())
