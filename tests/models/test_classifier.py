import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from datamodules.digits import Digits
from models.classifier import Classifier
from models.convnet import ConvNet
from models.mlp import MLP
from tests.conftest import Run, quiet_trainer
from tests.discovery import CONFIGS

SCHEDULERS = "torch.optim.lr_scheduler"


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def trainer(folder: Path) -> Trainer:
    return quiet_trainer(folder, max_epochs=1)


def test_figures_are_those_of_the_predictions(digits: Digits, tmp_path: Path) -> None:
    classifier = Classifier(MLP(64, 10), 10, sgd)
    fitted = trainer(tmp_path)
    fitted.fit(classifier, digits)
    (figures,) = fitted.test(classifier, digits, verbose=False)

    batches = fitted.predict(classifier, digits)
    assert batches is not None
    probabilities = torch.cat(batches).double().softmax(dim=1)  # type: ignore[arg-type]
    labels = digits.pack.labels[digits.splits["test"]]  # type: ignore[union-attr]
    assert figures["test/accuracy"] == pytest.approx(accuracy_score(labels, probabilities.argmax(dim=1)), abs=1e-7)
    assert figures["test/loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-6)


def test_loads_from_a_checkpoint_alone(train: Callable[..., Run], digits: Digits) -> None:
    run = train("--trainer.max_epochs=2", "--model.network.activation=torch.nn.Tanh")
    classifier = Classifier.load_from_checkpoint(run.best).eval()
    assert classifier.class_names == list("0123456789")
    assert classifier.preprocessing == {
        "channels": 1,
        "image_size": [8, 8],
        "resize": "crop",
        "mean": pytest.approx([0.305], abs=0.01),
        "std": pytest.approx([0.376], abs=0.01),
    }
    assert isinstance(classifier.network, ConvNet)
    assert any(isinstance(layer, nn.Tanh) for layer in classifier.network.modules())
    images, labels = digits.on_after_batch_transfer(digits.pack[digits.splits["test"]], 0)  # type: ignore[index]
    accuracy = (classifier(images).argmax(dim=1) == labels).float().mean()
    assert float(accuracy) == pytest.approx(run.results["metrics"]["test/accuracy"], abs=1e-6)


def test_built_in_python_loads_around_the_network_given_again(digits: Digits, tmp_path: Path) -> None:
    classifier = Classifier(MLP(64, 10), 10, sgd)
    fitted = trainer(tmp_path)
    fitted.fit(classifier, digits)
    fitted.save_checkpoint(tmp_path / "python.ckpt")
    with pytest.raises(MisconfigurationException, match="give the network again"):
        Classifier.load_from_checkpoint(tmp_path / "python.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "python.ckpt", network=MLP(64, 10), optimizer=sgd)
    assert all(torch.equal(value, classifier.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_refuses_data_with_other_classes(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = train("--trainer.max_epochs=1")
    monkeypatch.setattr(Digits, "class_names", tuple("abcdefghij"))
    with pytest.raises(SystemExit):
        train("--ckpt_path", str(run.last))


def test_refuses_a_network_of_another_shape(digits: Digits, tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"MLP gives \[64, 7\] for 64 images; expected .*\[64, 10\]"):
        trainer(tmp_path).fit(Classifier(MLP(64, 7), 10, sgd), digits)


@pytest.mark.parametrize(
    ("flags", "interval"),
    [
        (["--model.scheduler=models.schedule.WarmupCosine"], "step"),
        ([f"--model.scheduler={SCHEDULERS}.OneCycleLR", "--model.scheduler.max_lr=0.1"], "step"),
        ([f"--model.scheduler={SCHEDULERS}.StepLR", "--model.scheduler.step_size=1"], "epoch"),
        ([f"--model.scheduler={SCHEDULERS}.MultiStepLR", "--model.scheduler.milestones=[1]"], "epoch"),
        (["--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/loss"], "epoch"),
        (["--model.scheduler=null"], "epoch"),
    ],
)
def test_schedules_step_as_they_need(train: Callable[..., Run], flags: list[str], interval: str) -> None:
    run = train(*flags, "--trainer.max_epochs=2", "--data.batch_size=256", "--trainer.log_every_n_steps=1")
    loops = run.checkpoint["loops"]["fit_loop"]
    steps = loops["epoch_loop.scheduler_progress"]["total"]["completed"]
    assert steps == 12 if interval == "step" else 1 <= steps <= 2
    header = (run.folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "lr" in header


def test_a_plateau_lowers_the_rate(train: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "plateau.yaml").write_text(
        "model: {scheduler: {class_path: lightning.pytorch.cli.ReduceLROnPlateau,"
        " init_args: {monitor: train/loss, mode: max, patience: 0, factor: 0.5}}}"
    )
    run = train("--config", str(tmp_path / "plateau.yaml"), "--trainer.max_epochs=3")
    assert run.checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.003 / 4)


@pytest.mark.parametrize(
    "scheduler", ["models.schedule.WarmupCosine", f"{SCHEDULERS}.OneCycleLR --model.scheduler.max_lr=0.1"]
)
def test_a_schedule_that_is_over_before_the_run_is_refused_and_a_longer_one_noted(
    train: Callable[..., Run],
    refused: Callable[..., str],
    tmp_path: Path,
    data_root: Path,
    capsys: pytest.CaptureFixture[str],
    scheduler: str,
) -> None:
    flags = f"--model.scheduler={scheduler} --trainer.max_epochs=1".split()
    places = ("--runs", tmp_path / "runs", "--data.root", data_root)
    error = refused("fit", *flags, "--model.scheduler.total_steps=20", *places)
    assert "the schedule is over after 20 optimizer steps, but the run has 21; make the run as short, or" in error
    assert not list(tmp_path.rglob("*.*"))
    train(*flags, "--model.scheduler.total_steps=22")
    assert "The schedule has 22 steps, the run 21:" in capsys.readouterr().out


ONE_CYCLE = [f"--model.scheduler={SCHEDULERS}.OneCycleLR", "--model.scheduler.max_lr"]
PLATEAU = ["--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([*ONE_CYCLE, "-1"], "the learning rate is -1; give a number of at least 0."),
        (
            [*ONE_CYCLE, "0.1", "--model.scheduler.epochs=3", "--model.scheduler.steps_per_epoch=5"],
            "the schedule is as long as the run; leave out its epochs and steps_per_epoch.",
        ),
        ([f"--model.scheduler={SCHEDULERS}.StepLR", "--model.scheduler.step_size=0"], "step_size is 0; give a number"),
        ([*PLATEAU, "val/loss", "--model.scheduler.factor=2"], "model.scheduler: Factor should be < 1.0.\n"),
        (
            [*PLATEAU, "val/f1"],
            "error: model.scheduler.monitor is val/f1, which is not logged; choose from train/accuracy, train/loss, "
            "val/accuracy, val/loss.\n",
        ),
        (
            [f"--model.scheduler={SCHEDULERS}.ReduceLROnPlateau"],
            "name lightning.pytorch.cli.ReduceLROnPlateau, with a monitor such as val/loss.",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(
    refused: Callable[..., str], tmp_path: Path, data_root: Path, flags: list[str], words: str
) -> None:
    assert words in refused("fit", *flags, "--runs", tmp_path / "runs", "--data.root", data_root)


def test_a_plateau_waits_for_the_epochs_that_are_validated(train: Callable[..., Run]) -> None:
    worse = ("--model.scheduler.mode=max", "--model.scheduler.patience=0", "--model.scheduler.threshold=10")
    run = train(*PLATEAU, "val/loss", *worse, "--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=5")
    assert run.checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.003 / 10)


def test_says_which_milestones_the_run_does_not_reach(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = (f"--model.scheduler={SCHEDULERS}.MultiStepLR", "--model.scheduler.milestones=[1, 2, 5]")
    train(*schedule, "--trainer.max_epochs=2")
    assert "MultiStepLR has milestones from 2 on, which a run of 2 epochs does not reach.\n" in capsys.readouterr().out


@pytest.mark.parametrize("scheduler", ["models.schedule.WarmupCosine", f"{SCHEDULERS}.OneCycleLR"])
def test_a_resumed_run_may_be_made_longer(
    train: Callable[..., Run], resume: Callable[..., Run], capsys: pytest.CaptureFixture[str], scheduler: str
) -> None:
    peak = ("--model.scheduler.max_lr=0.003",) if "OneCycle" in scheduler else ()
    whole = train(f"--model.scheduler={scheduler}", *peak, "--trainer.max_epochs=3")
    run = train(f"--model.scheduler={scheduler}", *peak, "--trainer.max_epochs=2")
    longer = resume(run, "--trainer.max_epochs=3")
    assert "The schedule was made for 42 steps and now has 63: the rate goes on" in capsys.readouterr().out
    assert longer.checkpoint["epoch"] == 3
    rates = [run.checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] for run in (longer, whole)]
    assert rates[0] == pytest.approx(rates[1])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--model.freeze=[]", "trained other parameters, or grouped them otherwise; leave model.freeze, unfreeze,"),
        ("--model.unfreeze={1: [stages]}", "trained other parameters, or grouped them otherwise; leave model.freeze"),
        ("--model.decay_norms_and_biases=false", "trained other parameters, or grouped them otherwise; leave"),
        ("--model.optimizer=torch.optim.SGD --model.optimizer.lr=0.1", "was trained by torch.optim.AdamW; leave"),
        ("--model.network.head_sizes=[5]", "do not fit ConvNet as it is given: 3 of another shape (network.head.1."),
        ("--model.network.head_sizes=[]", "do not fit ConvNet as it is given: 2 unexpected (network.head.3.weight, "),
    ],
)
def test_a_resumed_run_has_the_network_and_the_optimizer_that_it_had(
    flags: str, words: str, train: Callable[..., Run], refused: Callable[..., str]
) -> None:
    run = train("--model.freeze=[stages]", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    config = (run.folder / "config.yaml").read_text()
    sentence = refused("fit", "--resume", run.folder, "--trainer.max_epochs=2", *re.split(r" (?=--)", flags))
    assert words in sentence
    assert "or begin a new run from" in sentence
    assert (run.folder / "config.yaml").read_text() == config  # so that it goes on without the flags
    assert not (run.folder / "restarts.json").exists()


def test_a_single_image_that_batch_norm_cannot_take_is_one_sentence(
    refused: Callable[..., str], data_root: Path, tmp_path: Path
) -> None:
    network = ("--model.network=models.resnet.ResNet", "--model.network.channels=[4,4,4,4]")
    places = ("--runs", tmp_path / "runs", "--data.root", data_root)
    sentence = refused("fit", *network, "--model.network.blocks=[1,1,1,1]", "--data.batch_size=1", *places)
    assert "A batch of a single image leaves batch norm nothing to take a variance of; leave such a last" in sentence


def test_a_schedule_over_the_run_needs_a_run_that_ends(
    refused: Callable[..., str], data_root: Path, tmp_path: Path
) -> None:
    places = ("--runs", tmp_path / "runs", "--data.root", data_root)
    error = refused("fit", "--trainer.max_epochs=-1", *places)
    assert "the run has no end for the schedule to come to; give trainer.max_epochs" in error


def test_compiled_keys_are_those_of_the_plain_network_and_each_size_of_batch_has_its_own_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[tuple[nn.Module, bool]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network, dynamic: compiled.append((network, dynamic)))
    plain, other = (Classifier(MLP(64, 10), 10, sgd, compile=compile_) for compile_ in (False, True))
    assert compiled == [(other.network, False)]
    assert plain.state_dict().keys() == other.state_dict().keys()


def test_channels_last_changes_nothing_but_the_memory_format() -> None:
    network, images = ConvNet(3, (8, 8), 10).eval(), torch.randn(4, 3, 8, 8)
    plain = network(images)
    formats: list[bool] = []

    def spy(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        formats.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    network.stages[0].register_forward_pre_hook(spy)
    classifier = Classifier(network, 10, sgd, channels_last=True)
    assert torch.allclose(classifier(images), plain, atol=1e-5)
    assert formats == [True]


def one_step_loss(digits: Digits, **arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of one batch, its logits and labels."""
    torch.manual_seed(0)
    classifier = Classifier(MLP(64, 10), 10, sgd, **arguments)
    classifier.trainer = Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False)
    classifier.trainer.datamodule = digits  # type: ignore[attr-defined]
    classifier.setup("fit")
    assert digits.pack is not None
    images, labels = digits.transform(digits.pack[digits.splits["train"]], training=False)
    return classifier.training_step((images, labels), 0).detach(), classifier(images).detach(), labels


def test_balanced_weights_give_every_class_the_same_say(digits: Digits) -> None:
    loss, logits, labels = one_step_loss(digits, class_weights="balanced")
    each = nn.functional.cross_entropy(logits, labels, reduction="none")
    of_classes = [each[labels == label].mean() for label in range(10)]
    assert float(loss) == pytest.approx(float(torch.stack(of_classes).mean()), rel=1e-5)


def test_given_weights_count_as_they_are(digits: Digits) -> None:
    weights = [float(label) for label in range(10)]
    loss, logits, labels = one_step_loss(digits, class_weights=weights)
    each = nn.functional.cross_entropy(logits, labels, reduction="none")
    assert float(loss) == pytest.approx(float((each * labels).mean()), rel=1e-5)


@pytest.mark.parametrize(
    "weights", [[1.0] * 9, [-1.0] + [1.0] * 9, [], [0.0] * 10, [1.0] * 9 + [math.nan], [1.0] * 9 + [math.inf]]
)
def test_refuses_weights_that_are_not_one_for_each_class(weights: list[float]) -> None:
    with pytest.raises(
        MisconfigurationException, match=r"model\.class_weights is .*; give 10 finite numbers of at least 0"
    ):
        Classifier(MLP(64, 10), 10, sgd, class_weights=weights)


def test_balanced_weights_need_data_that_know_their_counts(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(torch.rand(4, 1, 8, 8), torch.arange(4)))
    with pytest.raises(MisconfigurationException, match=r"does not say its class_counts; give numbers"):
        trainer(tmp_path).fit(Classifier(MLP(64, 10), 10, sgd, class_weights="balanced"), loader, loader)


def test_views_are_averaged_in_test_and_predict_alone(
    train: Callable[..., Run], digits: Digits, tmp_path: Path
) -> None:
    run = train("--trainer.max_epochs=2", "--model.test_time_augmentation=flip")
    classifier = Classifier.load_from_checkpoint(run.best)
    plain = Classifier.load_from_checkpoint(run.best, test_time_augmentation=None)
    labels = digits.pack.labels[digits.splits["test"]]  # type: ignore[union-attr]
    batches = trainer(tmp_path).predict(plain, digits)
    assert batches is not None
    alone: Tensor = torch.cat(batches)  # type: ignore[arg-type]
    batches = trainer(tmp_path).predict(classifier, digits)
    assert batches is not None
    both: Tensor = torch.cat(batches)  # type: ignore[arg-type]
    assert not torch.equal(alone, both)
    (validated,), (again,) = (trainer(tmp_path).validate(model, digits, verbose=False) for model in (plain, classifier))
    assert validated == again
    assert run.results["metrics"]["test/accuracy"] == pytest.approx(
        accuracy_score(labels, both.argmax(dim=1)), abs=1e-7
    )
    assert torch.allclose(both.exp().sum(dim=1), torch.ones(len(both)), atol=1e-5)


def parameters_of(run: Run) -> Tensor:
    state = run.checkpoint["state_dict"]
    return torch.cat([state[name].flatten() for name in state if name.endswith(("weight", "bias"))])


@pytest.mark.parametrize(
    ("optimizer", "fused"),
    [
        (torch.optim.SGD, True),
        (torch.optim.AdamW, True),
        (torch.optim.RMSprop, None),
        (partial(torch.optim.Adam, foreach=True), None),
        (partial(torch.optim.Adam, fused=False), False),
    ],
)
def test_updates_in_one_pass_what_can_be_unless_told_otherwise(
    optimizer: Callable[..., torch.optim.Optimizer], fused: bool | None, digits: Digits, tmp_path: Path
) -> None:
    weights: list[torch.Tensor] = []
    for make in (optimizer, partial(optimizer, foreach=True, fused=None) if fused else optimizer):
        torch.manual_seed(0)
        model = Classifier(MLP(64, 10), 10, partial(make, lr=0.01))
        fitted = quiet_trainer(tmp_path, max_epochs=1, precision="bf16-mixed", gradient_clip_val=0.1)
        fitted.fit(model, digits)
        assert fitted.optimizers[0].param_groups[0].get("fused") == (fused if make is optimizer else None)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.allclose(weights[0], weights[1], rtol=1e-3, atol=1e-4)


def test_gradients_are_clipped_from_the_command_line(train: Callable[..., Run]) -> None:
    flags = ["--trainer.max_steps=1", "--model.optimizer=torch.optim.SGD", "--model.scheduler=null"]
    flags += ["--trainer.gradient_clip_val=0.01", "--trainer.accumulate_grad_batches=2"]
    before, after = (parameters_of(train(*flags, f"--model.optimizer.lr={lr}")) for lr in (0.0, 1.0))
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_accumulated_batches_step_as_one_large_batch(train: Callable[..., Run]) -> None:
    flags = [f"--config={CONFIGS}/digits/mlp.yaml", "--trainer.max_epochs=2", "--data.drop_last=true"]
    flags += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
    large = train(*flags, "--data.batch_size=128")
    small = train(
        *flags, "--data.batch_size=32", "--trainer.accumulate_grad_batches=4", "--trainer.limit_train_batches=40"
    )
    assert small.checkpoint["global_step"] == large.checkpoint["global_step"] == 20
    assert torch.allclose(parameters_of(small), parameters_of(large), atol=1e-5)


def test_a_step_of_fewer_accumulated_batches_counts_them_fully(train: Callable[..., Run]) -> None:
    # 10 batches of 128 and one of 14 are 40 of 32 and one of 14, which has an eleventh step to itself.
    flags = [f"--config={CONFIGS}/digits/mlp.yaml", "--trainer.max_epochs=2"]
    flags += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
    large = train(*flags, "--data.batch_size=128")
    small = train(*flags, "--data.batch_size=32", "--trainer.accumulate_grad_batches=4")
    assert small.checkpoint["global_step"] == large.checkpoint["global_step"] == 22
    assert torch.allclose(parameters_of(small), parameters_of(large), atol=1e-5)
    assert small.results["metrics"]["train/loss"] == pytest.approx(large.results["metrics"]["train/loss"], abs=1e-5)
