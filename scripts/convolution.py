"""Show how convolution works: by hand beside torch, as kernels on a photograph, and by its output sizes.

    python scripts/convolution.py by_hand [--signal 0,0,1,1] [--kernel 1,-1] [--padding 0] [--stride 1] [--dilation 1]
    python scripts/convolution.py kernels [--image china] [--output FILE]
    python scripts/convolution.py sizes [--size 7] [--kernel_size 3] [--output FILE]

What networks call convolution is cross-correlation: at each position of the signal, the numbers under the kernel are
multiplied by its weights and summed, without mirroring the kernel (I. Goodfellow, Y. Bengio and A. Courville, "Deep
Learning", 2016, section 9.1).

Shapes: an image of `H` rows and `W` columns, a kernel of `h` rows and `w` columns.
"""

from core.user_error import UserError  # isort: skip - first, for a Ctrl-C during the other imports
import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scripts.command.boundary import CommandParser, report_errors, whole_number
from scripts.command.expansion import expand
from scripts.command.output_file import picture_file, save_picture

Numbers = NDArray[np.float64]

SAMPLES = ("china", "flower")  # photographs that come with scikit-learn
SIDE = 320  # pixels of a photograph's longer side
MOST_CELLS = 16  # longest side of an image whose cells are drawn one by one

VERTICAL = np.outer([1.0, 1, 1], [-1, 0, 1])
SOBEL = np.outer([1.0, 2, 1], [-1, 0, 1])
IDENTITY = np.diag([0.0, 1, 0])
PLUS = np.array([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])

# Weights that sum to 0 give 0 in an area of one brightness; weights that sum to 1 keep the brightness.
KERNELS: Mapping[str, Numbers] = {
    "vertical edges": VERTICAL,  # J. M. S. Prewitt, 1970
    "horizontal edges": VERTICAL.T,
    "Sobel, vertical": SOBEL,  # I. Sobel and G. Feldman, 1968
    "Sobel, horizontal": SOBEL.T,
    "Laplacian": PLUS - 4 * IDENTITY,
    "blur": np.full((5, 5), 0.04),
    "sharpen": 5 * IDENTITY - PLUS,
}


@dataclass(frozen=True)
class Steps:
    """How a kernel moves over a signal."""

    padding: int = 0  # number of zeros added on each side of the signal
    stride: int = 1  # distance from one window to the next
    dilation: int = 1  # distance between neighbouring numbers of a window


PLAIN = Steps()


def output_size(size: int, kernel_size: int, steps: Steps = PLAIN) -> int:
    """Return the number of windows along a side; 0 if the kernel is larger than the padded signal.

    Example:
        >>> output_size(7, 3), output_size(7, 3, Steps(padding=1)), output_size(7, 3, Steps(stride=2))
        (5, 7, 3)
        >>> output_size(224, 7, Steps(padding=3, stride=2))  # the first layer of a ResNet
        112
    """
    return max(0, (size + 2 * steps.padding - steps.dilation * (kernel_size - 1) - 1) // steps.stride + 1)


def windows(signal: Numbers, kernel: Numbers, steps: Steps = PLAIN) -> Numbers:
    """Return each window of a signal `[W]` or `[H, W]` after padding: `[windows, w]` or `[rows, columns, h, w]`.

    Example:
        >>> windows(np.array([1, 2, 3, 4]), np.array([1, -1])).tolist()
        [[1, 2], [2, 3], [3, 4]]
    """
    reach = [steps.dilation * (size - 1) + 1 for size in kernel.shape]
    view = np.lib.stride_tricks.sliding_window_view(np.pad(signal, steps.padding), reach)
    strided, dilated = slice(None, None, steps.stride), slice(None, None, steps.dilation)
    return view[(strided,) * signal.ndim + (dilated,) * signal.ndim]


def cross_correlate(signal: Numbers, kernel: Numbers, steps: Steps = PLAIN) -> Numbers:
    """Multiply each window of a signal, `[W]` or `[H, W]`, by a kernel, `[w]` or `[h, w]`, and sum the products.

    Example:
        >>> cross_correlate(np.array([0, 0, 1, 1, 1, 0]), np.array([-1, 1])).tolist()  # finds a rise and a fall
        [0, 1, 0, 0, -1]
        >>> cross_correlate(np.array([1, 2, 3, 4]), np.array([1, 0, -1])).tolist()  # not mirrored: 1 - 3 and 2 - 4
        [-2, -2]
    """
    products = windows(signal, kernel, steps) * kernel
    return np.asarray(products.sum(axis=tuple(range(signal.ndim, products.ndim))))


def worked_example(signal: Numbers, kernel: Numbers, steps: Steps = PLAIN) -> str:
    """Write out the products and the sum of each window of a signal or an image, and the result of torch."""
    import torch

    name = f"conv{signal.ndim}d"
    convolve = getattr(torch.nn.functional, name)
    batch, weight = torch.tensor(signal)[None, None], torch.tensor(kernel)[None, None]
    by_torch = convolve(batch, weight, **asdict(steps))[0, 0].numpy()
    by_hand = cross_correlate(signal, kernel, steps)
    sums = []
    for window, result in zip(windows(signal, kernel, steps).reshape(-1, kernel.size), by_hand.flat, strict=True):
        products = (f"{number:g}*{weight:g}" for number, weight in zip(window, kernel.flat, strict=True))
        sums.append(f"{' + '.join(products)} = {result:g}")
    with np.printoptions(formatter={"float_kind": "{:g}".format}):
        lines = ["signal" if signal.ndim == 1 else "image", str(signal), "kernel", str(kernel), "each window", *sums]
        lines += [f"torch.nn.functional.{name}", str(by_torch)]
    return "\n".join([*lines, "largest difference", f"{np.abs(by_torch - by_hand).max():g}"])


def numbers(text: str) -> Numbers:
    """Parse numbers such as `0,1,-1`, for argparse's `type`."""
    return np.array([float(part) for part in text.split(",")])


def by_hand(options: argparse.Namespace) -> None:
    """Print the cross-correlation of a signal and of an image, number by number, beside torch's."""
    steps = Steps(options.padding, options.stride, options.dilation)
    image = np.array([[0.0, 0, 9, 9, 9]] * 5)
    examples = []
    for signal, kernel in ((options.signal, options.kernel), (image, KERNELS["vertical edges"])):
        if not output_size(len(signal), len(kernel), steps):
            raise UserError(
                f"A kernel of {len(kernel)} reaches further than a signal of {len(signal)} with padding "
                f"{steps.padding} and dilation {steps.dilation}; give a longer one, more padding or less dilation."
            )
        examples.append(worked_example(signal, kernel, steps))
    print(*examples, sep="\n\n")


def grey_photograph(name: str) -> Numbers:
    """Read an image file or a photograph of `SAMPLES` as grey levels in [0, 255], `[H, W]`."""
    from sklearn import datasets

    from datamodules.decoding.image_file import UnreadableImageError, as_shown, open_image

    file = Path(datasets.__file__).with_name("images") / f"{name}.jpg" if name in SAMPLES else name
    try:
        with open_image(file) as opened:
            photograph = as_shown(opened).convert("L")
    except UnreadableImageError as error:
        raise UserError(f"--image {name} cannot be read: {error}; give an image file, china or flower.") from error
    photograph.thumbnail((SIDE, SIDE))
    return np.asarray(photograph, np.float64)


def kernels(options: argparse.Namespace) -> Image.Image:
    """Draw the results of kernels that find edges, blur and sharpen a photograph; numbers below 0 are blue."""
    from scripts.report.chart import new_figure, picture_of

    image, figure = grey_photograph(options.image), new_figure()
    figure.set_size_inches(12, 2 * (1.1 + 3 * image.shape[0] / image.shape[1]))
    for axes, (name, kernel) in zip(figure.subplots(2, 4).flat, {"image": IDENTITY, **KERNELS}.items(), strict=True):
        result = cross_correlate(image, kernel)  # not padded: the edge of the padding would be the strongest
        if kernel.sum() > 0.5:
            axes.imshow(result, cmap="gray", vmin=0, vmax=255)
        else:
            limit = float(np.quantile(np.abs(result), 0.995)) or 1.0
            axes.imshow(result, cmap="RdBu_r", vmin=-limit, vmax=limit)
        weights = [" ".join(f"{weight:>2g}" for weight in row) for row in kernel]
        axes.set_title("\n".join([name, *weights]), fontsize=9, family="monospace")
        axes.set_axis_off()
    return picture_of(figure)


def sizes(options: argparse.Namespace) -> Image.Image:
    """Draw how padding, stride and dilation change the size of a square image.

    The image is grey; its first window is blue, and the numbers that only the second window has are orange. The result
    is drawn to the right.
    """
    from matplotlib.colors import ListedColormap

    from scripts.report.chart import new_figure, picture_of
    from scripts.report.table import Table, show

    size, kernel_size = options.size, options.kernel_size
    if not kernel_size <= size <= MOST_CELLS:
        raise UserError(f"--size is {size}; give a size from --kernel_size, {kernel_size}, to {MOST_CELLS}.")
    half, full = (kernel_size - 1) // 2, kernel_size - 1
    tried = PLAIN, Steps(half), Steps(full), Steps(0, 2), Steps(half, 2), Steps(0, 1, 2), Steps(full, 1, 2)
    cases = [steps for steps in dict.fromkeys(tried) if output_size(size, kernel_size, steps)]
    zero, grey, orange, blue = range(4)
    colours = ListedColormap(["white", "#e8e8e8", "#e69f00", "#56b4e9"])
    rows, figure = [], new_figure()
    figure.set_size_inches(5, 2.2 * len(cases))
    for (image_axes, result_axes), steps in zip(figure.subplots(len(cases), 2, squeeze=False), cases, strict=True):
        padding, stride, dilation = asdict(steps).values()
        result_size = output_size(size, kernel_size, steps)
        term = f"({size} + 2*{padding} - {dilation}*({kernel_size} - 1) - 1) // {stride} + 1"
        rows.append([*map(str, asdict(steps).values()), str(result_size), term])
        image = np.pad(np.full((size, size), grey), padding)
        result = np.full((result_size, result_size), grey)
        window = dilation * np.arange(kernel_size)
        if result_size > 1:
            image[np.ix_(window, window + stride)] = result[0, 1] = orange
        image[np.ix_(window, window)] = result[0, 0] = blue
        image_axes.set_title(f"padding {padding}, stride {stride}, dilation {dilation}", fontsize=9)
        result_axes.set_title(f"{size}x{size} to {result_size}x{result_size}", fontsize=9)
        for axes, cells in ((image_axes, image), (result_axes, result)):
            axes.pcolormesh(cells, cmap=colours, vmin=zero, vmax=blue, edgecolors="#888888", linewidth=0.6)
            axes.set(xlim=(-0.1, len(image) + 0.1), ylim=(len(image) + 0.1, -0.1), aspect="equal")
            axes.set_axis_off()
    show(Table([*asdict(PLAIN), "size", "computed as"], rows))
    return picture_of(figure)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user error ends in one message and exit status 2."""
    parser = CommandParser(prog="scripts/convolution.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for function in (by_hand, kernels, sizes):
        name = function.__name__
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.set_defaults(command=function)
        if name == "by_hand":
            command.add_argument("--signal", type=numbers, default="0,0,0,1,1,1,0", help="numbers, such as 0,0,1,1")
            command.add_argument("--kernel", type=numbers, default="-1,0,1", help="numbers, such as --kernel=-1,1")
            for step, least in asdict(PLAIN).items():
                command.add_argument(f"--{step}", type=partial(whole_number, least=least), default=least)
            continue
        if name == "kernels":
            command.add_argument("--image", type=expand, default="china", help="an image file, or china or flower")
        else:
            command.add_argument("--size", type=whole_number, default=7, help="side of the image; by default 7")
            command.add_argument("--kernel_size", type=whole_number, default=3, help="by default 3")
        file = f"runs/{name}.png"
        command.add_argument("--output", type=picture_file, default=file, help=f"by default {file}")
    with report_errors():
        options = parser.parse_args(args)
        if picture := options.command(options):
            save_picture(picture, options.output)
            print(options.output)


if __name__ == "__main__":
    main()
