"""Draw a confusion matrix of `K` classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from callbacks.tensorboard.image_grid import shortened
from core.names import escape_name

MOST_NUMBERED = 20  # number of classes up to which each cell shows its number of images
NUMBERED_CELL, NUMBERED_FONT = 32, 16  # least side of a cell with a number, and size of its font, in pixels
CELL, FONT = 12, 11  # side of a cell without a number, and size of the font, in pixels; class names fit beside it
LONGEST_SIDE = 3000  # pixels of all cells in a row; cells that must be smaller than `CELL` have no class names
WIDEST_NAME = 150  # pixels of a class name
FRAME, LINES = "#888888", (235, 235, 235)  # colours of the border, and of the lines between cells

SHADES = 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7  # fractions of a row's images at which the next shade begins

# The shades: cividis, which looks nearly the same with and without colour blindness (Nuñez et al., 2018).
COLOURS = "#d9dfea", "#b5c3d9", "#8da3c4", "#6a86ad", "#4b6a97", "#2f5080", "#173869", "#00224e"


def shade_levels(confusion: NDArray[np.int64], totals: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return the shade of each cell `[K, K]`: 0 for an empty cell, else 1 to 8 by its fraction of the row's images.

    `totals` `[K]` is the number of images of each row, by default the sum of its cells.
    """
    fractions = confusion / np.maximum(confusion.sum(axis=1) if totals is None else totals, 1)[:, None]
    levels: NDArray[np.int64] = np.where(confusion > 0, np.digitize(fractions, SHADES) + 1, 0)
    return levels


def confusion_picture(
    confusion: NDArray[np.int64], class_names: Sequence[str], totals: NDArray[np.int64] | None = None
) -> Image.Image:
    """Draw a confusion matrix, int64 `[K, K]`, with a row per label and a column per prediction.

    `totals`, int64 `[K]`, is the number of images of each row; a multi-label image counts in several rows. The
    picture's `info` has two numbers of pixels: `before`, in front of the first row and column, and `cell`, the side of
    a cell.
    """
    count, has_numbers = len(class_names), len(class_names) <= MOST_NUMBERED
    font_size = NUMBERED_FONT if has_numbers else FONT
    font = ImageFont.load_default(font_size)
    if has_numbers:
        cell = max(NUMBERED_CELL, int(font.getlength(f"{confusion.max():,}")) + 6)
    else:
        cell = max(1, min(CELL, LONGEST_SIDE // count))
    names = [shortened(escape_name(name), WIDEST_NAME, font) for name in class_names] if cell >= CELL else []
    margin, line = int(max(map(font.getlength, names), default=0)) + 12, int(1.5 * font_size)
    offset, side = margin + line, count * cell

    levels = shade_levels(confusion, totals)
    palette = np.array([ImageColor.getrgb(colour) for colour in ("white", *COLOURS)], np.uint8)
    squares = palette[levels].repeat(cell, axis=0).repeat(cell, axis=1)
    if names:
        squares[cell - 1 :: cell] = squares[:, cell - 1 :: cell] = LINES
    title = "rows: label, columns: prediction"
    if totals is None or (totals == confusion.sum(axis=1)).all():
        title = f"{int(np.trace(confusion)):,} of {int(confusion.sum()):,} right; {title}"
    canvas = Image.new("RGB", (max(offset + side, int(font.getlength(title))) + 8, offset + side + 8), "white")
    canvas.info |= {"before": offset, "cell": cell}
    canvas.paste(Image.fromarray(squares), (offset, offset))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((offset - 1, offset - 1, offset + side, offset + side), outline=FRAME)
    draw.text((4, 2), title, "black", font)
    for number, name in enumerate(names):
        draw.text((offset - 6, offset + (number + 0.5) * cell), name, "black", font, anchor="rm")
        column_name = Image.new("RGB", (margin - 2, cell), "white")
        ImageDraw.Draw(column_name).text((6, cell / 2), name, "black", font, anchor="lm")
        canvas.paste(column_name.rotate(90, expand=True), (offset + number * cell, line))
    for row, column in np.argwhere(confusion) if has_numbers else ():
        centre = offset + (column + 0.5) * cell, offset + (row + 0.5) * cell
        ink = "white" if levels[row, column] > len(SHADES) // 2 else "black"
        draw.text(centre, f"{confusion[row, column]:,}", ink, font, anchor="mm")
    return canvas
