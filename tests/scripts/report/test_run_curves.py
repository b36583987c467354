from pathlib import Path

from scripts.report.run_curves import read_curves


def test_curves_that_are_not_there_or_not_finite_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    assert read_curves(file) == {}
    file.write_text("epoch,train/loss,val/loss\n0,1.5,\n0,,2.5\n1,nan,2.0\n,3,3\n")
    assert read_curves(file) == {"train/loss": [(0, 1.5)], "val/loss": [(0, 2.5), (1, 2.0)]}
