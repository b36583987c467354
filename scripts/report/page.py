"""Write HTML pages from Jinja2 templates, each as one file that loads nothing else."""

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from core.durable_file import replace_file
from core.names import escape_name
from scripts.report.table import Bold

SIDE = 192  # pixels of the longer side of a picture in the page; the browser enlarges smaller pictures

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),
    autoescape=True,  # values, unless they are `Markup`
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    # Names of files and classes may contain control characters and undecodable bytes.
    finalize=lambda value: escape_name(value) if type(value) is str else value,
)
TEMPLATES.tests["bold"] = lambda text: type(text) is Bold


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template with values and write the page atomically."""
    replace_file(path, TEMPLATES.get_template(template).render(values))


def embedded(image: Image.Image, side: int = SIDE) -> Markup:
    """Return an `<img>` element with the image as data, reduced to `side` pixels on its longer side."""
    class_ = " class=tiny" if max(image.size) <= side else ""
    if not class_:
        image = image.copy()
        image.thumbnail((side, side))
    kind = "png" if max(image.size) <= side // 2 else "jpeg"
    file = io.BytesIO()
    image.save(file, kind, quality=85)
    return Markup(f'<img{class_} alt="" src="data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}">')
