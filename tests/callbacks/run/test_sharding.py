from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy

from callbacks.run.sharding import has_all_weights


def test_a_process_has_all_weights_unless_they_are_spread() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    assert has_all_weights(trainer)
    trainer._accelerator_connector.strategy = FSDPStrategy()
    assert not has_all_weights(trainer)
