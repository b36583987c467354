"""Diagrams as pictures, drawn without a display."""

from io import BytesIO

from matplotlib.figure import Figure
from PIL import Image

SIZE_INCHES, DOTS_PER_INCH = (8, 5), 120


def new_figure() -> Figure:
    """An empty figure that no window and no list of open figures holds on to."""
    return Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")


def picture_of(figure: Figure) -> Image.Image:
    """Draw a figure."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer, formats=("PNG",)).convert("RGB")
