from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.user_error import UserError
from scripts.convolution import (
    KERNELS,
    MOST_CELLS,
    Steps,
    cases,
    cross_correlate,
    grey_photograph,
    kernels_picture,
    main,
    output_size,
    sizes_picture,
    torch_cross_correlate,
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
    by_hand = cross_correlate(signal, kernel, steps)
    np.testing.assert_allclose(by_hand, torch_cross_correlate(signal, kernel, steps))
    assert len(by_hand) == output_size(9, 3, steps)
    image, square = random.normal(size=(7, 9)), random.normal(size=(2, 3))
    np.testing.assert_allclose(
        cross_correlate(image, square, steps), torch_cross_correlate(image, square, steps), atol=1e-12
    )


def test_a_size_that_means_nothing_is_refused() -> None:
    for arguments, named in (
        ((0, 3), "size"),
        ((3, 0), "kernel_size"),
        ((3, 3, Steps(padding=-1)), "padding"),
        ((3, 3, Steps(stride=0)), "stride"),
        ((3, 3, Steps(dilation=0)), "dilation"),
    ):
        with pytest.raises(UserError, match=f"^{named} is"):
            output_size(*arguments)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_give_nothing_or_the_same_where_an_image_is_even(name: str) -> None:
    found = torch_cross_correlate(np.full((8, 8), 7.0), KERNELS[name])
    assert np.allclose(found, 0) or np.allclose(found, 7)


def test_edges_are_found_in_their_direction() -> None:
    upright = np.zeros((9, 9))
    upright[:, 5:] = 9.0
    for name, image, blind in (
        ("vertical", upright, upright.T),
        ("horizontal", upright.T, upright),
    ):
        for kernel in (f"{name} edges", f"Sobel, {name}"):
            assert torch_cross_correlate(image, KERNELS[kernel]).max() > 0
            assert not torch_cross_correlate(blind, KERNELS[kernel]).any()


def test_cases_differ_and_leave_a_window() -> None:
    for size, kernel_size in ((7, 3), (3, 3), (5, 1), (8, 4)):
        found = cases(size, kernel_size)
        assert len(set(found)) == len(found) > 0
        assert all(output_size(size, kernel_size, steps) for steps in found)


@pytest.mark.parametrize("name", ["china", "flower"])
def test_photographs_that_are_shipped(name: str) -> None:
    image = grey_photograph(name)
    assert max(image.shape) == 320
    assert kernels_picture(image).width > 1000


@pytest.mark.slow
def test_commands_print_and_draw(convolution: Callable[..., Done], tmp_path: Path) -> None:
    status, out, _ = convolution("by_hand", "--signal", "1,2,3", "--kernel=1,-1")
    assert status == 0
    assert "2*1 + 3*-1 = -1" in out
    assert out.count("largest difference  0\n") == 2
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
def test_the_picture_of_sizes_has_a_plane_for_each_case() -> None:
    assert sizes_picture(7, 3).height > sizes_picture(2, 1).height
    assert sizes_picture(MOST_CELLS, 3).mode == "RGB"


def test_mistakes_are_told_in_one_sentence(
    convolution: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("text")
    for args, expected in (
        (("by_hand", "--signal", "1,x"), "1,x is not numbers; give one to 32"),
        (("by_hand", "--kernel", "nan"), "nan is not numbers; give one to 32"),
        (("by_hand", "--signal", "1,2", "--kernel", "1,2,3"), "reaches further than the signal of 2"),
        (("by_hand", "--dilation", "3"), "reaches further than the image of 5"),
        (("by_hand", "--stride", "0"), "stride is 0"),
        (("sizes", "--size", "2"), "--size is 2"),
        (("sizes", "--size", "1000"), "--size is 1000"),
        (("sizes", "--kernel_size", "0"), "kernel_size is 0"),
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
