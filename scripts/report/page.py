"""HTML pages in one file that loads nothing from elsewhere, written from Jinja2 templates."""

import base64
import io
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from core.durable_file import replace_file
from core.names import escape_name

# The longer side of a picture in the page, in pixels; smaller images are embedded as they are and drawn larger.
SIDE = 192

NUMBER = re.compile(r"[-+]?[\d.,]+( ?%)?( (to|±) [-+]?[\d.,]+( ?%)?)?")  # A number, a share or a range of them

# Templates lie beside the code that fills them; what they are given is escaped unless it is `Markup`.
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    # Names of files and classes may hold control characters and bytes of no encoding.
    finalize=lambda value: escape_name(value) if type(value) is str else value,
)
TEMPLATES.tests["numeric"] = lambda text: NUMBER.fullmatch(text) is not None


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template and write the page, whole or not at all."""
    replace_file(path, TEMPLATES.get_template(template).render(values))


def embedded(image: Image.Image, side: int = SIDE) -> Markup:
    """A picture within the page."""
    tiny = max(image.size) <= side
    if not tiny:
        image = image.copy()
        image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "PNG" if max(image.size) <= side // 2 else "JPEG", quality=85)
    kind = "png" if file.getvalue().startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(file.getvalue()).decode()
    return Markup('<img{} alt="" src="data:image/{};base64,{}">').format(
        Markup(" class=tiny") if tiny else "", kind, data
    )
