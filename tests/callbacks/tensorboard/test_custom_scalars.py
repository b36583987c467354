from collections.abc import Callable

from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG

from tests.callbacks.tensorboard.test_preview import events
from tests.conftest import Run

SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1")


def test_every_figure_of_training_and_validation_has_a_chart(train: Callable[..., Run]) -> None:
    run = train(*SHORT)
    found = events(run.folder)
    (event,) = found.Tensors(CONFIG_SUMMARY_TAG)
    (category,) = Layout.FromString(event.tensor_proto.string_val[0]).category
    charts = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    assert charts == {"loss": ["train/loss", "val/loss"], "accuracy": ["train/accuracy", "val/accuracy"]}
    assert {tag for tags in charts.values() for tag in tags} <= set(found.Tags()["scalars"])
