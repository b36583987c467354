from pathlib import Path

from scripts.training.several_runs_plan import plan_runs


def test_says_what_would_be_trained_and_begins_nothing(tmp_path: Path) -> None:
    flags = ["--trainer.max_epochs=7", "--experiment=seeds", "--runs", str(tmp_path / "runs")]
    plan = plan_runs(flags)
    assert plan.experiment == tmp_path / "runs/seeds"
    assert plan.config["trainer"]["max_epochs"] == 7
    assert plan.flags == tuple(flags)
    assert not list(tmp_path.iterdir())
