"""Convolution: by hand beside torch, as kernels on a photograph, and its output sizes.

    python scripts/convolution.py by_hand [--signal 0,0,1,1] [--kernel 1,-1] [--padding 0] [--stride 1] [--dilation 1]
    python scripts/convolution.py kernels [--image china] [--output FILE]
    python scripts/convolution.py sizes [--size 7] [--kernel_size 3] [--output FILE]

What networks call convolution is cross-correlation: the kernel is laid over each window of the signal as it is, not
mirrored, and the products are summed (I. Goodfellow, Y. Bengio and A. Courville, "Deep Learning", 2016, section 9.1).

Shapes: an image of `H` rows and `W` columns, a kernel of `h` rows and `w` columns.
"""

from core.user_error import UserError  # isort: skip - first, for a Ctrl-C during the other imports
import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scripts.command.boundary import CommandParser, mistakes_in_one_sentence
from scripts.command.expansion import expand
from scripts.command.picture_file import picture_file, save_picture, show_picture

Numbers = NDArray[np.float64]

SHIPPED = ("china", "flower")  # photographs that come with scikit-learn
SIDE = 320  # pixels of a photograph's longer side
MOST_NUMBERS = 32  # the longest signal whose numbers are printed one by one
MOST_CELLS = 16  # the largest image whose cells are drawn one by one

# Each sums to 0, and gives 0 where the image is even, or to 1, and keeps its brightness.
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
    """How a kernel moves over a signal."""

    padding: int = 0  # zeros that are added on each side
    stride: int = 1  # from one window to the next
    dilation: int = 1  # from one number of a window to the next; 1 leaves none out


PLAIN = Steps()
NAMES = "padding", "stride", "dilation"


def output_size(size: int, kernel_size: int, steps: Steps = PLAIN) -> int:
    """How many windows there are along a side; 0 if the kernel is larger than the padded signal.

    Example:
        >>> output_size(7, 3), output_size(7, 3, Steps(padding=1)), output_size(7, 3, Steps(stride=2))
        (5, 7, 3)
        >>> output_size(224, 7, Steps(padding=3, stride=2))  # the first layer of a ResNet
        112
    """
    values = zip(("size", "kernel_size", *NAMES), (size, kernel_size, *steps), (1, 1, *PLAIN), strict=True)
    for name, value, lowest in values:
        if value < lowest:
            raise UserError(f"{name} is {value}; give a whole number of at least {lowest}.")
    return max(0, (size + 2 * steps.padding - steps.dilation * (kernel_size - 1) - 1) // steps.stride + 1)


def windows(signal: Numbers, kernel: Numbers, steps: Steps = PLAIN) -> Numbers:
    """The numbers of a padded signal, `[W]` or `[H, W]`, in each window: `[windows, w]` or `[rows, columns, h, w]`.

    Example:
        >>> windows(np.array([1, 2, 3, 4]), np.array([1, -1])).tolist()
        [[1, 2], [2, 3], [3, 4]]
    """
    reach = [steps.dilation * (size - 1) + 1 for size in kernel.shape]
    every = np.lib.stride_tricks.sliding_window_view(np.pad(signal, steps.padding), reach)
    strided, dilated = ([slice(None, None, step)] * signal.ndim for step in (steps.stride, steps.dilation))
    return every[(*strided, *dilated)]


def cross_correlate(signal: Numbers, kernel: Numbers, steps: Steps = PLAIN) -> Numbers:
    """Lay a kernel, `[w]` or `[h, w]`, over each window of a signal, `[W]` or `[H, W]`, multiply, and sum.

    Example:
        >>> cross_correlate(np.array([0, 0, 1, 1, 1, 0]), np.array([-1, 1])).tolist()  # finds a rise and a fall
        [0, 1, 0, 0, -1]
        >>> cross_correlate(np.array([1, 2, 3, 4]), np.array([1, 0, -1])).tolist()  # not mirrored: 1 - 3 and 2 - 4
        [-2, -2]
        >>> cross_correlate(np.array([[0, 0, 9, 9]] * 4), KERNELS["vertical edges"]).tolist()
        [[27.0, 27.0], [27.0, 27.0]]
    """
    products = windows(signal, kernel, steps) * kernel
    return np.asarray(products.sum(axis=tuple(range(signal.ndim, products.ndim))))


def torch_cross_correlate(signal: Numbers, kernel: Numbers, steps: Steps = PLAIN) -> Numbers:
    """The same by `torch.nn.functional.conv1d` or `conv2d`."""
    import torch

    convolve = torch.nn.functional.conv1d if signal.ndim == 1 else torch.nn.functional.conv2d
    image, weight = (torch.as_tensor(np.asarray(part, np.float64))[None, None] for part in (signal, kernel))
    results: torch.Tensor = convolve(image, weight, padding=steps.padding, stride=steps.stride, dilation=steps.dilation)
    return results[0, 0].numpy()


def worked_example(signal: Numbers, kernel: Numbers, steps: Steps = PLAIN) -> Iterator[str]:
    r"""The products and sums of a signal, or of an image's first window, and the results of torch.

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
    sums = [
        f"{' + '.join(f'{number:g}*{weight:g}' for number, weight in zip(window, kernel.flat, strict=True))} = {sum_:g}"
        for window, sum_ in zip(windows(signal, kernel, steps).reshape(-1, kernel.size), by_hand.flat, strict=True)
    ]
    if signal.ndim == 1:
        yield from (_shown("signal", signal), _shown("kernel", kernel), *(f"  {each}" for each in sums))
    else:
        yield from (_shown("image", signal), _shown("kernel", kernel))
        yield from (f"first window  {sums[0]}", _shown("by hand", by_hand))
    yield _shown(f"torch.nn.functional.conv{signal.ndim}d", by_torch)
    yield f"largest difference  {np.abs(by_torch - by_hand).max():g}"


def _shown(name: str, numbers: Numbers) -> str:
    rows = [" ".join(f"{number:g}" for number in row) for row in np.atleast_2d(numbers)]
    return "\n  ".join([name, *rows]) if numbers.ndim > 1 else f"{name}  {rows[0]}"


def kernels_picture(image: Numbers) -> Image.Image:
    """Show an image of grey levels in [0, 255], `[H, W]`, and the result of each kernel, blue where it is negative."""
    from scripts.report.figure import new_figure, picture_of

    figure = new_figure()
    figure.set_size_inches(12, 2 * (1.1 + 3 * image.shape[0] / image.shape[1]))
    first, *others = figure.subplots(2, 4).flat
    first.imshow(image, cmap="gray", vmin=0, vmax=255)
    first.set_title("image")
    for axes, (name, kernel) in zip(others, KERNELS.items(), strict=True):
        result = torch_cross_correlate(image, kernel)  # without padding, whose zeros would be the strongest edge
        if kernel.sum() > 0.5:
            axes.imshow(result, cmap="gray", vmin=0, vmax=255)
        else:
            end = float(np.quantile(np.abs(result), 0.995)) or 1.0
            axes.imshow(result, cmap="RdBu_r", vmin=-end, vmax=end)
        weights = [" ".join(f"{weight:>2g}" for weight in row) for row in kernel]
        shown = weights if len(kernel) == 3 else ["", "all 5x5 are", "1/25"]
        axes.set_title("\n".join([name, *shown]), fontsize=9, family="monospace")
    for axes in (first, *others):
        axes.set_axis_off()
    return picture_of(figure)


def cases(size: int, kernel_size: int) -> list[Steps]:
    """Steps that leave a window and show the effect of padding, stride and dilation, alone and together.

    Example:
        >>> [output_size(7, 3, steps) for steps in cases(7, 3)]
        [5, 7, 9, 3, 4, 3, 7, 2]
    """
    half, full = (kernel_size - 1) // 2, kernel_size - 1
    tried = (Steps(), Steps(half), Steps(full), Steps(0, 2), Steps(half, 2), Steps(0, 1, 2), Steps(2 * half, 1, 2))
    return [steps for steps in dict.fromkeys((*tried, Steps(0, 2, 2))) if output_size(size, kernel_size, steps)]


def sizes_picture(size: int, kernel_size: int) -> Image.Image:
    """Draw the effect of padding, stride and dilation on the size of a square image.

    Each case shows the image in grey with the zeros around it, the first window in blue and the second outlined; to the
    right, the result.
    """
    from matplotlib.colors import ListedColormap

    from scripts.report.figure import new_figure, picture_of

    zero, grey, blue = range(3)
    colours = ListedColormap(["white", "#e8e8e8", "#56b4e9"])
    shown, figure = cases(size, kernel_size), new_figure()
    figure.set_size_inches(5, 2.2 * len(shown))
    for (left, right), steps in zip(figure.subplots(len(shown), 2, squeeze=False), shown, strict=True):
        whole, shrunk = size + 2 * steps.padding, output_size(size, kernel_size, steps)
        image, result = np.full((whole, whole), zero), np.full((shrunk, shrunk), grey)
        image[steps.padding : steps.padding + size, steps.padding : steps.padding + size] = grey
        taps = steps.dilation * np.arange(kernel_size)
        image[np.ix_(taps, taps)] = result[0, 0] = blue
        for axes, cells in ((left, image), (right, result)):
            axes.pcolormesh(cells, cmap=colours, vmin=zero, vmax=blue, edgecolors="#888888", linewidth=0.6)
            axes.set(xlim=(-0.1, whole + 0.1), ylim=(whole + 0.1, -0.1), aspect="equal")
            axes.set_axis_off()
        for axes, rows, columns in ((left, taps, taps + steps.stride), (right, 0, 1)):
            if shrunk > 1:
                places = np.meshgrid(columns + np.float64(0.5), rows + np.float64(0.5))
                axes.scatter(*places, marker="s", facecolors="none", edgecolors="#d55e00")
        named = zip(NAMES, steps, PLAIN, strict=True)
        changes = ", ".join(f"{name} {value}" for name, value, plain in named if value != plain) or "plain"
        left.set_title(f"{changes}: {size}x{size} to {shrunk}x{shrunk}", fontsize=10)
    return picture_of(figure)


def grey_photograph(name: str) -> Numbers:
    """Read an image file, or a photograph of `SHIPPED`, as grey levels in [0, 255], `[H, W]`, of at most `SIDE`."""
    from datamodules.decoding.image_file import UnreadableImageError, as_shown, open_image

    if name in SHIPPED:
        from sklearn.datasets import load_sample_image

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


def numbers(text: str) -> Numbers:
    """The numbers in a text such as `0,1,-1`."""
    try:
        values = np.array([float(part) for part in text.split(",")])
    except ValueError:
        values = np.empty(0)
    if not 0 < len(values) <= MOST_NUMBERS or not np.isfinite(values).all():
        raise UserError(f"{text} is not numbers; give one to {MOST_NUMBERS} with commas between, as in 0,1,-1.")
    return values


def by_hand(options: argparse.Namespace) -> None:
    """Cross-correlation of a signal and of an image, number by number, beside torch's."""
    steps = Steps(options.padding, options.stride, options.dilation)
    signal = options.signal, options.kernel
    edge = np.array([[0.0, 0, 9, 9, 9]] * 5), KERNELS["vertical edges"]
    for what, (numbers, weights) in {"signal": signal, "image": edge}.items():
        if not output_size(len(numbers), len(weights), steps):
            raise UserError(
                f"The kernel of {len(weights)} reaches further than the {what} of {len(numbers)} with padding "
                f"{steps.padding} and dilation {steps.dilation}; give a longer one, more padding or less dilation."
            )
    print(*worked_example(*signal, steps), "", *worked_example(*edge, steps), sep="\n")


def kernels(options: argparse.Namespace) -> Image.Image:
    """Kernels that find edges, blur and sharpen, on a photograph."""
    return kernels_picture(grey_photograph(options.image))


def sizes(options: argparse.Namespace) -> Image.Image:
    """How padding, stride and dilation change the size."""
    from scripts.report.table import Table, show

    size, kernel_size = options.size, options.kernel_size
    if not output_size(size, kernel_size) or size > MOST_CELLS:
        raise UserError(
            f"--size is {size} and --kernel_size {kernel_size}; give a size from that of the kernel to {MOST_CELLS}, "
            "so that its cells can be drawn."
        )
    rows = []
    for steps in cases(size, kernel_size):
        term = f"({size} + 2*{steps.padding} - {steps.dilation}*({kernel_size} - 1) - 1) // {steps.stride} + 1"
        rows.append([*map(str, steps), str(output_size(size, kernel_size, steps)), term])
    show(Table([*NAMES, "size", "computed as"], rows))
    return sizes_picture(size, kernel_size)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = CommandParser(prog="scripts/convolution.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (by_hand, kernels, sizes):
        each = commands.add_parser(command.__name__, help=command.__doc__, description=command.__doc__)
        each.set_defaults(command=command)
        add = each.add_argument
        if command is by_hand:
            add("--signal", type=numbers, default="0,0,0,1,1,1,0", help="numbers with commas between")
            add("--kernel", type=numbers, default="-1,0,1", help="likewise; --kernel=-1,1")
            for option, default in zip(NAMES, PLAIN, strict=True):
                add(f"--{option}", type=int, default=default, help=f"{default} if absent")
            continue
        if command is kernels:
            add("--image", type=expand, default="china", help="an image file, or china or flower")
        else:
            add("--size", type=int, default=7, help="of the image, a side; 7 if absent")
            add("--kernel_size", type=int, default=3, help="of the kernel; 3 if absent")
        output = f"runs/{command.__name__}.png"
        add("--output", type=picture_file, default=output, help=f"{output} if absent")
        add("--show", action="store_true", help="open the picture")
    with mistakes_in_one_sentence():
        options = parser.parse_args(args)
        if picture := options.command(options):
            save_picture(picture, options.output)
            print(f"picture  {options.output}")
            if options.show:
                show_picture(picture, options.output)


if __name__ == "__main__":
    main()
