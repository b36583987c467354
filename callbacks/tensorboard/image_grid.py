"""Draw a grid of captioned images, of a batch, or of a convolution's filters.

Shapes: `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from core.names import escape_name
from datamodules.batching.transform import Batch, unnormalised

TILE = 96  # least pixels of a tile's longer side, which is always shorter than twice as many
GAP = 8  # pixels between tiles and around the grid
FONT_SIZE, LINE_HEIGHT = 12, 15  # pixels of a caption's letters, and from one line to the next
BACKGROUND = (235, 235, 235)  # grey, to show the edges of both white and black images

COLUMNS = 8  # tiles in a row
MOST_INPUTS = 16  # number of input channels up to which each filter has its own row


def image_grid(images: Tensor, captions: Sequence[str], columns: int = COLUMNS) -> Image.Image:
    """Lay out images in rows, each above its caption, which may have several lines.

    Small images are enlarged by an integer factor, pixel by pixel; large images are reduced by averaging squares of
    pixels. Nothing is interpolated. Raises ValueError if there is not one caption per image.
    """
    images = as_rgb(images)
    height, width = images.shape[2:]
    factor, divisor = -(-TILE // max(height, width)), max(1, max(height, width) // TILE)
    tile_height, tile_width = -(-height * factor // divisor), -(-width * factor // divisor)

    font = ImageFont.load_default(FONT_SIZE)
    cell_height = tile_height + max(caption.count("\n") + 1 for caption in captions) * LINE_HEIGHT + GAP
    cell_width = max(tile_width, TILE) + GAP
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * cell_width + GAP, rows * cell_height + GAP), BACKGROUND)
    draw = ImageDraw.Draw(grid)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, columns)
        left, top = GAP + column * cell_width, GAP + row * cell_height
        enlarged = picture(image).resize((width * factor, height * factor), Image.Resampling.NEAREST)
        grid.paste(enlarged.reduce(divisor), (left, top))
        lines = [shortened(escape_name(line), cell_width - GAP, font) for line in caption.split("\n")]
        for line_number, line in enumerate(lines):
            draw.text((left, top + tile_height + line_number * LINE_HEIGHT), line, "black", font)
    return grid


def batch_picture(
    batch: Batch, preprocessing: Mapping[str, Any], class_names: Sequence[str], max_images: int
) -> Image.Image:
    """Draw the first images of a batch, without their normalization, captioned by their labels.

    The batch is normalised images, float `[B, C, H, W]`, and labels: int64 `[B]`, or float `[B, K]` if images are mixed
    or multi-label.
    """
    images, labels = (part[:max_images].detach().cpu() for part in batch)
    return image_grid(unnormalised_images(images, preprocessing), label_captions(labels, class_names))


def label_captions(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """Name the class of each image, or all classes of a mixed or multi-label image with their label values."""
    if labels.ndim == 1:
        return [class_names[label] for label in labels.tolist()]
    captions = []
    for row in labels.tolist():
        lines = [f"{name} {value:.2f}" for name, value in zip(class_names, row, strict=True) if value >= 0.005]
        captions.append("\n".join(lines) or "no label")
    return captions


def unnormalised_images(images: Tensor, preprocessing: Mapping[str, Any]) -> Tensor:
    """Undo the normalization of images `[B, C, H, W]`; without `mean` and `std` in `preprocessing`, clamp to [0, 1]."""
    mean, std = preprocessing.get("mean"), preprocessing.get("std")
    if not mean or not std:
        return images.clamp(0, 1)
    return unnormalised(images, mean, std, 65535 if preprocessing.get("bit_depth") == 16 else 255)


def as_rgb(images: Tensor) -> Tensor:
    """Convert images to uint8 `[B, 3, H, W]` on the CPU.

    The first channel of one or two becomes grey; of more than three channels, the first three are used.

    Args:
        images: uint8, float in [0, 1], or uint16, `[B, C, H, W]`. Each uint16 image is stretched from its lowest to its
            highest level, because few microscopes use all 65,536 levels.
    """
    images = images.detach().cpu()
    if images.dtype == torch.uint16:
        levels = images.float()
        lowest = levels.amin(dim=(1, 2, 3), keepdim=True)
        highest = levels.amax(dim=(1, 2, 3), keepdim=True)
        images = (levels - lowest) / (highest - lowest).clamp(min=1)
    if images.is_floating_point():
        images = (images.float() * 255).round().to(torch.uint8)
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)


def picture(image: Tensor) -> Image.Image:
    """Convert an image, uint8 `[3, H, W]`, to a PIL image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Shorten a text to a width in pixels by cutting its middle, because similar names often differ at their end."""
    short, length = text, len(text)
    while length and font.getlength(short) > width:
        length -= 1
        short = f"{text[: length - length // 2].rstrip()}…{text[len(text) - length // 2 :].lstrip()}"
    return short


def convolutions(network: nn.Module) -> list[str]:
    """Return the names of the layers whose filters can be drawn, in the order of their construction."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv1d | nn.Conv2d)]


def filters_picture(weight: Tensor, max_tiles: int) -> Image.Image:
    """Draw the first `max_tiles` tiles of a convolution's weight on one colour scale that is symmetric around 0.

    A filter of three input channels is one tile in colour; any other filter has a tile per input channel.
    """
    weight = weight.detach().float().cpu()
    if weight.ndim == 3:
        weight = weight[:, :, None]
    largest = weight.abs().max()
    inputs = weight.shape[1]
    if inputs == 3:
        tiles = (0.5 + weight[:max_tiles] / (2 * largest.clamp(min=1e-30))).clamp(0, 1)
        return image_grid(tiles, [str(number) for number in range(len(tiles))])
    slices = weight.flatten(0, 1)[:max_tiles]
    numbers = range(len(slices))
    captions = [str(number) if inputs == 1 else f"{number % inputs} to {number // inputs}" for number in numbers]
    captions[0] += f"\n{-float(largest):.2g} to {float(largest):.2g}"
    columns = inputs if 1 < inputs <= MOST_INPUTS else COLUMNS
    return image_grid(coloured(slices, -largest, largest, "RdBu_r"), captions, columns)


def coloured(maps: Tensor, low: Tensor, high: Tensor, colours: str) -> Tensor:
    """Colour maps, float `[B, h, w]`, by one of matplotlib's colour maps from `low` to `high`: uint8 `[B, 3, h, w]`."""
    from matplotlib import colormaps

    fractions = (maps - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    pixels = colormaps[colours](fractions.clamp(0, 1).numpy(), bytes=True)[..., :3]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
