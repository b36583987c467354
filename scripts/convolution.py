"""What convolution is: by hand beside torch, as kernels on a photograph, and what it makes of sizes.

    python scripts/convolution.py by_hand [--signal 0,0,1,1] [--kernel 1,-1] [--padding 0] [--stride 1] [--dilation 1]
    python scripts/convolution.py kernels [--image china] [--output kernels.png]
    python scripts/convolution.py sizes [--size 7] [--kernel_size 3] [--output sizes.png]

What networks call convolution is cross-correlation: the kernel is laid over each window of the signal as it is, not
mirrored, and the products are summed (I. Goodfellow, Y. Bengio and A. Courville, "Deep Learning", 2016, section 9.1).

Shapes: an image of `H` rows and `W` columns, a kernel of `h` rows and `w` columns.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from rich import box, get_console
from rich.table import Table
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F

from core.user_error import UserError
from datamodules.decoding.image_file import UnreadableImageError, as_shown, open_image
from scripts.command.boundary import mistakes_in_one_sentence
from scripts.command.expansion import expand
from scripts.command.picture_file import picture_file, save_picture, show_picture
from scripts.report.figure import new_figure, picture_of

Numbers = NDArray[np.float64]

SHIPPED = ("china", "flower")  # photographs that come with scikit-learn

SIDE = 320  # pixels that a photograph's longer side is reduced to

MOST_NUMBERS = 32  # numbers of a signal up to which they are printed one by one

MOST_CELLS = 16  # cells on a side up to which they are drawn one by one

# Each sums to 0, and so gives 0 where the image is even, or to 1, and so keeps its brightness.
KERNELS: Mapping[str, Numbers] = {
    # J. M. S. Prewitt, 1970; I. Sobel and G. Feldman, 1968, which weighs the middle more.
    "vertical edges": np.array([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]]),
    "horizontal edges": np.array([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1]]),
    "Sobel, vertical": np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
    "Sobel, horizontal": np.array([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]]),
    "Laplacian": np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]),
    "blur": np.full((5, 5), 1 / 25),
    "sharpen": np.array([[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
}


class Steps(NamedTuple):
    """How a kernel goes over a signal.

    Args:
        padding: Zeros added on each side.
        stride: From one window to the next.
        dilation: From one number of the signal that meets the kernel to the next; 1 leaves none out.
    """

    padding: int = 0
    stride: int = 1
    dilation: int = 1


PLAIN = Steps()


def output_size(size: int, kernel_size: int, steps: Steps = PLAIN) -> int:
    """How many windows there are along a side; 0 if the kernel is larger than the padded signal.

    Raises:
        ValueError: If a number is too small to mean anything.

    Example:
        >>> output_size(7, 3), output_size(7, 3, Steps(padding=1)), output_size(7, 3, Steps(stride=2))
        (5, 7, 3)
        >>> output_size(7, 3, Steps(dilation=2))  # as far as a kernel of 5 reaches
        3
        >>> output_size(224, 7, Steps(padding=3, stride=2))  # the first layer of a ResNet
        112
    """
    least = {"size": 1, "kernel_size": 1, "padding": 0, "stride": 1, "dilation": 1}
    for (name, lowest), value in zip(least.items(), (size, kernel_size, *steps), strict=True):
        if value < lowest:
            raise ValueError(f"{name} is {value}; give a whole number of at least {lowest}")
    reach = steps.dilation * (kernel_size - 1) + 1
    return max(0, (size + 2 * steps.padding - reach) // steps.stride + 1)


def windows(signal: Numbers, kernel: Numbers, steps: Steps = PLAIN) -> Iterator[tuple[tuple[int, ...], Numbers]]:
    """The place of each result, and the numbers of the signal that meet the kernel there.

    Args:
        signal: Numbers of any dimensions.
        kernel: Numbers of as many.
        steps: How the kernel goes, the same along each dimension.

    Raises:
        ValueError: If there is no signal or no kernel.

    Example:
        >>> [window.tolist() for _, window in windows(np.array([1, 2, 3, 4]), np.array([1, -1]))]
        [[1, 2], [2, 3], [3, 4]]
    """
    padded = np.pad(signal, steps.padding)
    for place in np.ndindex(*map(partial(output_size, steps=steps), signal.shape, kernel.shape)):
        starts = (number * steps.stride for number in place)
        reach = (
            slice(start, start + steps.dilation * size, steps.dilation)
            for start, size in zip(starts, kernel.shape, strict=True)
        )
        yield place, padded[tuple(reach)]


def cross_correlate(signal: Numbers, kernel: Numbers, steps: Steps = PLAIN) -> Numbers:
    """Lay a kernel over each window of a signal or an image, multiply, and sum.

    Args:
        signal: `[W]` or `[H, W]`.
        kernel: `[w]` or `[h, w]`.
        steps: How it goes, the same along each dimension.

    Returns:
        A number for each window.

    Raises:
        ValueError: If there is no signal or no kernel.

    Example:
        >>> cross_correlate(np.array([0, 0, 1, 1, 1, 0]), np.array([-1, 1]))  # finds where a signal rises and falls
        array([ 0.,  1.,  0.,  0., -1.])
        >>> cross_correlate(np.array([1, 2, 3, 4]), np.array([1, 0, -1]))  # not mirrored: 1 - 3 and 2 - 4
        array([-2., -2.])
        >>> image = np.array([[0, 0, 9, 9]] * 4)  # an upright edge
        >>> cross_correlate(image, KERNELS["vertical edges"])
        array([[27., 27.],
               [27., 27.]])
    """
    results = np.zeros([output_size(*sizes, steps) for sizes in zip(signal.shape, kernel.shape, strict=True)])
    for place, window in windows(signal, kernel, steps):
        results[place] = (window * kernel).sum()
    return results


def torch_cross_correlate(signal: Numbers, kernel: Numbers, steps: Steps = PLAIN) -> Numbers:
    """The same by `torch.nn.functional.conv1d` or `conv2d`."""
    convolve = F.conv1d if signal.ndim == 1 else F.conv2d
    image, weight = (torch.as_tensor(np.asarray(part, np.float64))[None, None] for part in (signal, kernel))
    results: Tensor = convolve(image, weight, padding=steps.padding, stride=steps.stride, dilation=steps.dilation)
    return results[0, 0].numpy()


def worked_example(signal: Numbers, kernel: Numbers, steps: Steps = PLAIN) -> Iterator[str]:
    r"""Say what is multiplied and summed, line by line, and what torch gives; of an image, for the first window.

    Args:
        signal: `[W]` or `[H, W]`; there is a window.
        kernel: `[w]` or `[h, w]`.
        steps: How it goes.

    Example:
        >>> print(*worked_example(np.array([1, 2, 3]), np.array([1, -1])), sep="\n")
        signal  1 2 3
        kernel  1 -1
          1*1 + 2*-1 = -1
          2*1 + 3*-1 = -1
        torch.nn.functional.conv1d  -1 -1
        largest difference  0
    """
    by_hand, by_torch = (each(signal, kernel, steps) for each in (cross_correlate, torch_cross_correlate))
    sums = (
        f"{' + '.join(f'{number:g}*{weight:g}' for number, weight in zip(window.flat, kernel.flat, strict=True))}"
        f" = {by_hand[place]:g}"
        for place, window in windows(signal, kernel, steps)
    )
    if signal.ndim == 1:
        yield from (_shown("signal", signal), _shown("kernel", kernel), *(f"  {each}" for each in sums))
    else:
        yield from (_shown("image", signal), _shown("kernel", kernel))
        yield from (f"first window  {next(sums)}", _shown("by hand", by_hand))
    yield _shown(f"torch.nn.functional.conv{signal.ndim}d", by_torch)
    yield f"largest difference  {np.abs(by_torch - by_hand).max():g}"


def _shown(name: str, numbers: Numbers) -> str:
    if numbers.ndim == 1:
        return f"{name}  {' '.join(f'{number:g}' for number in numbers)}"
    texts = [[f"{number:g}" for number in row] for row in numbers]
    width = max(len(text) for row in texts for text in row)
    return "\n".join([name, *("  " + " ".join(text.rjust(width) for text in row) for row in texts)])


def kernels_picture(image: Numbers, kernels: Mapping[str, Numbers] = KERNELS) -> Image.Image:
    """Show an image of grey levels in [0, 255], `[H, W]`, and what each kernel makes of it.

    What may be negative is blue there and red where it is positive.
    """
    columns = 4
    rows = -(-(1 + len(kernels)) // columns)
    figure = new_figure()
    figure.set_size_inches(12, rows * (1.1 + 3 * image.shape[0] / image.shape[1]))
    planes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in planes:
        axes.set_axis_off()
    planes[0].imshow(image, cmap="gray", vmin=0, vmax=255)
    planes[0].set_title("image")
    for axes, (name, kernel) in zip(planes[1:], kernels.items(), strict=False):
        found = torch_cross_correlate(image, kernel)  # zeros beyond the border would be the strongest edge of all
        if kernel.sum() > 0.5:
            axes.imshow(found, cmap="gray", vmin=0, vmax=255)
        else:
            end = float(np.quantile(np.abs(found), 0.995)) or 1.0
            axes.imshow(found, cmap="RdBu_r", vmin=-end, vmax=end)
        if kernel.shape == (3, 3):
            name += "\n" + "\n".join(" ".join(f"{weight:>2g}" for weight in row) for row in kernel.tolist())
        else:
            name += f"\n\nall {kernel.shape[0]}x{kernel.shape[1]} are\n1/{kernel.size}"
        axes.set_title(name, fontsize=9, family="monospace")
    return picture_of(figure)


def cases(size: int, kernel_size: int) -> list[Steps]:
    """Steps that leave a window and show what padding, stride and dilation do, each alone and then together.

    Example:
        >>> [output_size(7, 3, steps) for steps in cases(7, 3)]
        [5, 7, 9, 3, 4, 3, 7, 2]
    """
    half = (kernel_size - 1) // 2
    tried = [
        Steps(),
        Steps(padding=half),
        Steps(padding=kernel_size - 1),
        Steps(stride=2),
        Steps(padding=half, stride=2),
        Steps(dilation=2),
        Steps(padding=2 * half, dilation=2),
        Steps(stride=2, dilation=2),
    ]
    return [steps for steps in dict.fromkeys(tried) if output_size(size, kernel_size, steps)]


def size_table(size: int, kernel_size: int) -> Table:
    """List what padding, stride and dilation make of the size of an image."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("padding", "stride", "dilation", "size", "computed as"):
        table.add_column(heading, justify="left" if heading == "computed as" else "right")
    for steps in cases(size, kernel_size):
        found = output_size(size, kernel_size, steps)
        term = f"({size} + 2*{steps.padding} - {steps.dilation}*({kernel_size} - 1) - 1) // {steps.stride} + 1"
        table.add_row(*map(str, steps), str(found), term)
    return table


def sizes_picture(size: int, kernel_size: int) -> Image.Image:
    """Draw what padding, stride and dilation make of the size of a square image.

    In each case: the image, dashed the zeros around it, filled what meets the kernel in its first window and outlined
    in its second; to the right, the result.
    """
    shown = cases(size, kernel_size)
    figure = new_figure()
    rows = -(-len(shown) // 4)
    figure.set_size_inches(14, 2.6 * rows)
    planes = figure.subplots(rows, 4, squeeze=False).flatten()
    for axes in planes:
        axes.set_axis_off()
    for axes, steps in zip(planes, shown, strict=False):
        _draw_case(axes, size, kernel_size, steps)
    return picture_of(figure)


def _draw_case(axes: Axes, size: int, kernel_size: int, steps: Steps) -> None:
    whole, found = size + 2 * steps.padding, output_size(size, kernel_size, steps)

    def cell(row: float, column: float, **style: object) -> None:
        axes.add_patch(Rectangle((column, row), 1, 1, **style))  # type: ignore[arg-type]  # styles are of many types

    for row in range(whole):
        for column in range(whole):
            inside = all(steps.padding <= place < steps.padding + size for place in (row, column))
            style = {"facecolor": "#e8e8e8"} if inside else {"facecolor": "white", "linestyle": ":"}
            cell(row, column, edgecolor="#888888", linewidth=0.6, **style)
    taps = [steps.dilation * number for number in range(kernel_size)]
    for row in taps:
        for column in taps:
            cell(row, column, facecolor="#56b4e9", edgecolor="#0072b2", linewidth=1)
    for row in taps if found > 1 else ():
        for column in taps:
            place = column + steps.stride + 0.14, row + 0.14
            axes.add_patch(Rectangle(place, 0.72, 0.72, fill=False, edgecolor="#d55e00", linewidth=1.5))
    left, top = whole + 2, (whole - found) / 2
    for row in range(found):
        for column in range(found):
            colour = {(0, 0): "#56b4e9", (0, 1): "#f4b183"}.get((row, column), "#e8e8e8")
            cell(top + row, left + column, facecolor=colour, edgecolor="#888888", linewidth=0.6)
    axes.annotate("", (left - 0.3, whole / 2), (whole + 0.3, whole / 2), arrowprops={"arrowstyle": "->"})
    axes.set(xlim=(-0.2, left + max(found, size) + 0.2), ylim=(whole + 0.2, -0.2), aspect="equal")
    named = zip(steps._fields, steps, (0, 1, 1), strict=True)
    told = ", ".join(f"{name} {value}" for name, value, plain in named if value != plain) or "plain"
    axes.set_title(f"{told}: {size}x{size} to {found}x{found}", fontsize=10)


def grey_photograph(name: str) -> Numbers:
    """Read an image file, or a photograph of `SHIPPED`, as grey levels in [0, 255], `[H, W]`, of at most `SIDE`."""
    if name in SHIPPED:
        photograph = Image.fromarray(load_sample_image(f"{name}.jpg"))
    else:
        try:
            with open_image(name) as opened:
                photograph = as_shown(opened).convert("RGB")
        except UnreadableImageError as error:
            raise UserError(
                f"--image {name} cannot be read: {error}; give an image file, {' or '.join(SHIPPED)}."
            ) from error
    photograph.thumbnail((SIDE, SIDE))
    return np.asarray(photograph.convert("L"), np.float64)


def numbers(text: str) -> list[float]:
    """The numbers in a text such as `0,1,-1`."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or len(found) > MOST_NUMBERS or not np.isfinite(found).all():
        raise UserError(f"{text} is not numbers; give one to {MOST_NUMBERS} with commas between, as in 0,1,-1.")
    return found


def _by_hand(options: argparse.Namespace) -> None:
    steps = Steps(options.padding, options.stride, options.dilation)
    image, kernel = np.array([[0.0, 0, 9, 9, 9]] * 5), KERNELS["vertical edges"]
    for what, size, kernel_size in (
        ("signal", len(options.signal), len(options.kernel)),
        ("image", len(image), len(kernel)),
    ):
        if not _checked_size(size, kernel_size, steps):
            raise UserError(
                f"The kernel of {kernel_size} reaches further than the {what} of {size} with padding {steps.padding} "
                f"and dilation {steps.dilation}; give a longer one, more padding or less dilation."
            )
    print(*worked_example(np.array(options.signal), np.array(options.kernel), steps), "", sep="\n")
    print(*worked_example(image, kernel, steps), sep="\n")


def _checked_size(size: int, kernel_size: int, steps: Steps) -> int:
    try:
        return output_size(size, kernel_size, steps)
    except ValueError as error:
        raise UserError(f"{error}.") from error


def _kernels(options: argparse.Namespace) -> None:
    _keep(kernels_picture(grey_photograph(options.image)), options)


def _sizes(options: argparse.Namespace) -> None:
    found = _checked_size(options.size, options.kernel_size, Steps())
    if not found or options.size > MOST_CELLS:
        raise UserError(
            f"--size is {options.size} and --kernel_size {options.kernel_size}; give a size from that of the kernel to "
            f"{MOST_CELLS}, so that its cells can be drawn."
        )
    get_console().print(size_table(options.size, options.kernel_size))
    _keep(sizes_picture(options.size, options.kernel_size), options)


def _keep(picture: Image.Image, options: argparse.Namespace) -> None:
    save_picture(picture, options.output)
    print(f"picture  {options.output}")
    if options.show:
        show_picture(picture, options.output)


COMMANDS: Mapping[str, tuple[Callable[[argparse.Namespace], None], str]] = {
    "by_hand": (_by_hand, "cross-correlation of a signal and of an image, number by number, beside torch's"),
    "kernels": (_kernels, "kernels that find edges, blur and sharpen, on a photograph"),
    "sizes": (_sizes, "how padding, stride and dilation change the size"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, described) in COMMANDS.items():
        each = commands.add_parser(name, help=described, description=described, allow_abbrev=False)
        if name == "by_hand":
            each.add_argument("--signal", type=numbers, default="0,0,0,1,1,1,0", help="numbers with commas between")
            each.add_argument("--kernel", type=numbers, default="-1,0,1", help="likewise; --kernel=-1,1")
            for option, default in Steps._field_defaults.items():
                each.add_argument(f"--{option}", type=int, default=default, help=f"{default} if absent")
            continue
        if name == "kernels":
            help_ = "an image file, or china or flower"
            each.add_argument("--image", type=expand, default=SHIPPED[0], metavar="FILE", help=help_)
        else:
            each.add_argument("--size", type=int, default=7, help="of the image, a side; 7 if absent")
            each.add_argument("--kernel_size", type=int, default=3, help="of the kernel; 3 if absent")
        each.add_argument("--output", type=picture_file, default=f"{name}.png", help=f"{name}.png if absent")
        each.add_argument("--show", action="store_true", help="open the picture")
    with mistakes_in_one_sentence():
        options = parser.parse_args(args)
        COMMANDS[options.command][0](options)
    sys.exit(0)


if __name__ == "__main__":
    main()
