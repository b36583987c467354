from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.command.error_message import error_message, one_line


def test_a_parsers_message_becomes_one_line() -> None:
    message = "Parser key \"data\":\n  Does not validate against any\n  Errors:\n    - Option 'x' is not accepted\n"
    assert one_line(message) == "Parser key \"data\": Option 'x' is not accepted."


def test_an_unexpected_error_has_no_message() -> None:
    assert error_message(KeyError("a bug")) == ""


WRONG = {
    "--trainer.max_epochs=abc": "trainer.max_epochs has the value abc; give a whole number.",
    "--data.batch_size=many": "data.batch_size has the value many; give a whole number.",
    "--data.val_size=x": "data.val_size has the value x; give a number.",
    "--model.optimizer.lr=x": "model.optimizer.lr has the value x; give a number.",
    "--model.network.dropout=[1,2,x]": "model.network.dropout has the value [1, 2, 'x']; give a number.",
    "--test=perhaps": "test has the value perhaps; give true or false.",
    "--model.class_weights=foo": "model.class_weights has the value foo; give one of 'balanced' or a list.",
    "--model.network.channels=3": "model.network.channels has the value 3; give a list.",
    "--data.classes=[yes, no]": "data.classes has the value True; give text or a whole number. YAML reads yes, no,",
    "--data.classes=airplane": "data.classes has the value airplane; give a list.",
    "--model.unfreeze=[1]": "model.unfreeze has the value [1]; give keys and values.",
    "--model.optimizer.betas=3": "model.optimizer.betas has the value 3; give a list.",
    "--model.scheduler=torch.optim.lr_scheduler.StepLR": "model.scheduler: the following arguments are required: "
    "step_size. See: scripts/train.py fit --model.scheduler.help CLASS.",
    "--model.optimizer=models.convnet.ConvNet": "model.optimizer: Expected 'models.convnet.ConvNet' to be a subclass",
}


@pytest.mark.parametrize(("flag", "words"), WRONG.items())
def test_a_wrong_value_is_named_with_its_key_and_what_to_give(
    refused: Callable[..., str], tmp_path: Path, flag: str, words: str
) -> None:
    assert refused("fit", flag, "--runs", tmp_path / "runs").startswith(f"error: {words}")
