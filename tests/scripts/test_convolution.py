from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.convolution import (
    KERNELS,
    Steps,
    cross_correlate,
    grey_photograph,
    main,
    output_size,
    worked_example,
)
from tests.conftest import Done

STEPS = [Steps(), Steps(1), Steps(0, 2), Steps(0, 1, 2), Steps(3, 2, 2), Steps(2, 3, 1)]


@pytest.fixture
def convolution(script: Callable[..., Callable[..., Done]]) -> Callable[..., Done]:
    return script(main)


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_by_hand_is_what_torch_gives(steps: Steps) -> None:
    random = np.random.default_rng(0)
    signal, kernel = random.normal(size=9), random.normal(size=3)
    image, square = random.normal(size=(7, 9)), random.normal(size=(2, 3))
    assert len(cross_correlate(signal, kernel, steps)) == output_size(9, 3, steps)
    for name, numbers, weights in (("conv1d", signal, kernel), ("conv2d", image, square)):
        lines = worked_example(numbers, weights, steps).splitlines()
        assert f"torch.nn.functional.{name}" in lines
        assert float(lines[-1]) < 1e-12


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_give_nothing_or_the_same_where_an_image_is_even(name: str) -> None:
    found = cross_correlate(np.full((8, 8), 7.0), KERNELS[name])
    assert np.allclose(found, 0) or np.allclose(found, 7)


def test_edges_are_found_in_their_direction() -> None:
    upright = np.zeros((9, 9))
    upright[:, 5:] = 9.0
    for name, image, blind in (
        ("vertical", upright, upright.T),
        ("horizontal", upright.T, upright),
    ):
        for kernel in (f"{name} edges", f"Sobel, {name}"):
            assert cross_correlate(image, KERNELS[kernel]).max() > 0
            assert not cross_correlate(blind, KERNELS[kernel]).any()


@pytest.mark.parametrize("name", ["china", "flower"])
def test_photographs_that_are_shipped(name: str) -> None:
    assert max(grey_photograph(name).shape) == 320


@pytest.mark.slow
def test_commands_print_and_draw(convolution: Callable[..., Done], tmp_path: Path) -> None:
    status, out, _ = convolution("by_hand", "--signal", "1,2,3", "--kernel=1,-1")
    assert status == 0
    assert "2*1 + 3*-1 = -1" in out
    assert out.count("largest difference\n0\n") == 2
    file = tmp_path / "photograph.jpg"
    Image.new("RGB", (40, 60), "teal").save(file)
    for command, flags in (("kernels", ("--image", file)), ("sizes", ("--size", "5"))):
        picture = tmp_path / f"{command}.png"
        status, out, error = convolution(command, *flags, "--output", picture)
        assert (status, error) == (0, "")
        assert str(picture) in out
        with Image.open(picture) as opened:
            opened.load()
    assert "(5 + 2*1 - 1*(3 - 1) - 1) // 2 + 1" in out


@pytest.mark.slow
@pytest.mark.parametrize(("size", "kernel_size", "rows"), [(16, 3, 7), (3, 3, 6), (5, 1, 3), (8, 4, 7)])
def test_sizes_are_of_cases_that_differ_and_leave_a_window(
    convolution: Callable[..., Done], tmp_path: Path, size: int, kernel_size: int, rows: int
) -> None:
    status, out, error = convolution(
        *("sizes", "--size", size, "--kernel_size", kernel_size, "--output", tmp_path / "sizes.png")
    )
    cells = [line.split("│") for line in out.splitlines() if line.startswith("│")]
    assert (status, error, len(cells), len({tuple(row[1:4]) for row in cells})) == (0, "", rows, rows)
    for row in cells:
        padding, stride, dilation, shrunk = map(int, row[1:5])
        assert output_size(size, kernel_size, Steps(padding, stride, dilation)) == shrunk > 0


def test_mistakes_are_told_in_one_sentence(
    convolution: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("text")
    for args, expected in (
        (("by_hand", "--signal", "1,x"), "argument --signal: invalid numbers value: '1,x'"),
        (("by_hand", "--signal", "1,2", "--kernel", "1,2,3"), "reaches further than a signal of 2"),
        (("by_hand", "--dilation", "3"), "reaches further than a signal of"),
        (("by_hand", "--stride", "0"), "argument --stride: '0' is no whole number of at least 1"),
        (("by_hand", "--padding=-1"), "argument --padding: '-1' is no whole number of at least 0"),
        (("sizes", "--size", "2"), "--size is 2; give a size from --kernel_size, 3, to 16."),
        (("sizes", "--size", "1000"), "--size is 1000"),
        (("sizes", "--kernel_size", "0"), "'0' is no whole number"),
        (("kernels", "--image", "none.jpg"), "the file is not there"),
        (("kernels", "--image", "text.png"), "it is no image"),
        (("kernels", "--output", "none/x.png"), "cannot be written"),
    ):
        status, out, error = convolution(*args)
        assert (status, out) == (2, "")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert expected in error
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["text.png"]
