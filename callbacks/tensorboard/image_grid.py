"""Images with captions, and filters, as one picture.

Shapes: `B` images with `C` channels, `H` rows and `W` columns.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from core.names import escape_name
from datamodules.batching.transform import unnormalised

TILE = 96  # least pixels of a tile's longer side, which has fewer than twice as many
GAP = 8  # pixels between tiles and around them
FONT_SIZE, LINE_HEIGHT = 12, 15  # pixels of a caption's letters, and from one line to the next
BACKGROUND = (235, 235, 235)  # shows the edges of white images and of black ones

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)  # the layers whose filters can be drawn
COLUMNS = 8  # tiles in a row
MOST_INPUTS = 16  # input channels up to which each filter has a row of its own


def image_grid(images: Tensor, captions: Sequence[str], columns: int = COLUMNS) -> Image.Image:
    """Lay images out in rows, each with its caption below, which may have several lines.

    Small images are enlarged by a whole factor, pixel by pixel; large ones are reduced by averaging squares of pixels.
    Nothing is interpolated.
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
        tile = picture(image)
        tile = tile.resize((width * factor, height * factor), Image.Resampling.NEAREST).reduce(divisor)
        grid.paste(tile, (left, top))
        for line_number, line in enumerate(caption.split("\n")):
            text = shortened(escape_name(line), cell_width - GAP, font)
            draw.text((left, top + tile_height + line_number * LINE_HEIGHT), text, "black", font)
    return grid


def unnormalised_images(images: Tensor, preprocessing: Mapping[str, Any]) -> Tensor:
    """Images `[B, C, H, W]` as they were before the normalisation that `preprocessing` tells of, if any."""
    mean, std = preprocessing.get("mean"), preprocessing.get("std")
    if not mean or not std:
        return images.clamp(0, 1)
    return unnormalised(images, mean, std, 65535 if preprocessing.get("bit_depth") == 16 else 255)


def as_rgb(images: Tensor) -> Tensor:
    """Images as uint8 `[B, 3, H, W]` on the CPU: of one or two channels, the first as grey; of more, the first three.

    The images are uint8, float in [0, 1], or uint16, `[B, C, H, W]`; the last are spread between the lowest and the
    highest level of each, as few microscopes use all 65,536.
    """
    images = images.detach().cpu()
    if images.dtype == torch.uint16:
        levels = images.float()
        lowest, highest = (end(levels, (1, 2, 3), keepdim=True) for end in (torch.amin, torch.amax))
        images = (levels - lowest) / (highest - lowest).clamp(min=1)
    if images.is_floating_point():
        images = (images.float() * 255).round().to(torch.uint8)
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)


def picture(image: Tensor) -> Image.Image:
    """An image uint8 `[3, H, W]` as a picture."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Shorten a text in its middle to so many pixels: names that begin alike often differ at their end."""
    short, kept = text, len(text)
    while kept and font.getlength(short) > width:
        kept -= 1
        short = f"{text[: kept - kept // 2].rstrip()}…{text[len(text) - kept // 2 :].lstrip()}"
    return short


def convolutions(network: nn.Module) -> list[str]:
    """The names of the layers whose filters can be drawn, in the order of their construction."""
    return [name for name, module in network.named_modules() if isinstance(module, CONVOLUTIONS)]


def filters_picture(weight: Tensor, most: int) -> Image.Image:
    """Draw the filters of a convolution on one scale, symmetric around 0; three input channels as colours."""
    weight = weight.detach().float().cpu()
    if weight.ndim == 3:
        weight = weight[:, :, None]
    largest = weight.abs().max()
    inputs = weight.shape[1]
    if inputs == 3:
        tiles = (0.5 + weight[:most] / (2 * largest.clamp(min=1e-30))).clamp(0, 1)
        return image_grid(tiles, list(map(str, range(len(tiles)))), COLUMNS)
    slices = weight.flatten(0, 1)[:most]
    numbers = range(len(slices))
    captions = [str(number) if inputs == 1 else f"{number % inputs} to {number // inputs}" for number in numbers]
    captions[0] += f"\n{-float(largest):.2g} to {float(largest):.2g}"
    columns = inputs if 1 < inputs <= MOST_INPUTS else COLUMNS
    return image_grid(coloured(slices, -largest, largest, "RdBu_r"), captions, columns)


def coloured(maps: Tensor, low: Tensor, high: Tensor, colours: str) -> Tensor:
    """Colour numbers, float `[B, h, w]`, by one of matplotlib's maps from `low` to `high`: uint8 `[B, 3, h, w]`."""
    from matplotlib import colormaps

    shares = (maps - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    levels = colormaps[colours](shares.clamp(0, 1).numpy(), bytes=True)[..., :3]
    return torch.from_numpy(levels).permute(0, 3, 1, 2)
