"""Names of files and classes, from anybody, as text."""

import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from itertools import compress, count
from typing import Any

MOST_NAMED = 10  # names that a sentence lists


def escape_name(name: str) -> str:
    r"""A name as one line that is safe in any encoding and on any terminal; unprintable characters become their code.

    Example:
        >>> escape_name("Käse\x1b[2J"), escape_name("two\nlines"), escape_name("caf\udce9")
        ('Käse\\x1b[2J', 'two\\nlines', 'caf\\xe9')
    """
    return "".join(letter if letter.isprintable() else _code(letter) for letter in name)


def in_markdown(name: str) -> str:
    r"""A name as text in Markdown, also in a cell of a table, without effect as markup, HTML or link.

    Example:
        >>> in_markdown("<b>|[a](http://b.c)")
        '&lt;b&gt;\\|\\[a\\](http&#58;//b.c)'
    """
    text = re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", escape_name(name))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("://", "&#58;//")


def _code(letter: str) -> str:
    byte = ord(letter) - 0xDC00  # if this stands for a byte of no known meaning
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else letter.encode("unicode_escape").decode()


def escape(error: UnicodeError) -> tuple[str, int]:
    """For `codecs.register_error`: write what an encoding lacks as `escape_name` writes unprintable characters."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_code, error.object[error.start : error.end])), error.end


def distinct_names(names: Iterable[str]) -> list[str]:
    r"""Names of classes as readable text, for keys and columns: a name that another class has already gets a number.

    Example:
        >>> distinct_names(["crane", "reel", "crane"]), distinct_names(["caf\udce9", "caf\\xe9"])
        (['crane', 'reel', 'crane (2)'], ['caf\\xe9', 'caf\\xe9 (2)'])
    """
    texts = [escape_name(name) for name in names]
    taken, distinct = set(texts), dict[str, None]()
    for text in texts:
        name = text
        if text in distinct:
            name = next(f"{text} ({number})" for number in count(2) if f"{text} ({number})" not in taken)
            taken.add(name)
        distinct[name] = None
    return list(distinct)


def label_name(label: Any, class_names: Sequence[str]) -> str:
    """The name of an image's label; of several labels, 0 or 1 for each class, the names with `;` between."""
    return ";".join(compress(class_names, label)) if isinstance(label, Iterable) else class_names[label]


def some_of(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """The first names in a sentence, with dots for the rest."""
    return ", ".join([*map(escape_name, names[:most]), *(["..."] if len(names) > most else [])])


def near_names(name: str, names: Collection[str], otherwise: str = "") -> str:
    """End a sentence about an unknown name.

    Example:
        >>> near_names("resnet8", ["resnet18", "vgg16"])
        'did you mean resnet18?'
        >>> near_names("?", ["resnet18", "vgg16"])
        'there is resnet18, vgg16'
    """
    near = get_close_matches(name, names, n=3)
    return f"did you mean {', '.join(near)}?" if near else otherwise or f"there is {', '.join(names)}"
