"""Escape untrusted file and class names for display, and list names in messages."""

import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from itertools import compress, count
from typing import Any


def escape_name(name: str) -> str:
    r"""Return a name as one printable line; each unprintable character becomes its escape code.

    Example:
        >>> escape_name("Käse\x1b[2J"), escape_name("two\nlines"), escape_name("caf\udce9")
        ('Käse\\x1b[2J', 'two\\nlines', 'caf\\xe9')
    """

    def code(letter: str) -> str:
        byte = ord(letter) - 0xDC00  # Python decodes an undecodable byte of a file name as this surrogate
        return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else letter.encode("unicode_escape").decode()

    return "".join(letter if letter.isprintable() else code(letter) for letter in name)


def in_markdown(name: str) -> str:
    r"""Return a name as Markdown text, also for a table cell, that is no markup, HTML or link.

    Example:
        >>> in_markdown("<b>|[a](http://b.c)")
        '&lt;b&gt;\\|\\[a\\](http&#58;//b.c)'
    """
    text = re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", escape_name(name))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("://", "&#58;//")


def distinct_names(names: Iterable[str]) -> list[str]:
    r"""Escape class names for use as keys or columns, and number those that would be equal.

    Example:
        >>> distinct_names(["crane", "reel", "crane"]), distinct_names(["caf\udce9", "caf\\xe9"])
        (['crane', 'reel', 'crane (2)'], ['caf\\xe9', 'caf\\xe9 (2)'])
    """
    texts = [escape_name(name) for name in names]
    used, distinct = set(texts), dict[str, None]()
    for text in texts:
        name = text
        if text in distinct:
            name = next(f"{text} ({number})" for number in count(2) if f"{text} ({number})" not in used)
            used.add(name)
        distinct[name] = None
    return list(distinct)


def label_name(label: Any, class_names: Sequence[str]) -> str:
    """Return the class name of a label; of a multi-label vector of 0 and 1, the names joined by `;`."""
    return ";".join(compress(class_names, label)) if isinstance(label, Iterable) else class_names[label]


def some_of(names: Sequence[str], limit: int = 10) -> str:
    """Join the first `limit` names by commas, with `...` if there are more."""
    return ", ".join([*map(escape_name, names[:limit]), *(["..."] if len(names) > limit else [])])


def near_names(name: str, names: Collection[str], otherwise: str = "") -> str:
    """Return the end of a message about an unknown name: similar names, else `otherwise` or all names.

    Example:
        >>> near_names("resnet8", ["resnet18", "vgg16"])
        'did you mean resnet18?'
        >>> near_names("?", ["resnet18", "vgg16"])
        'there is resnet18, vgg16'
    """
    near = get_close_matches(name, names, n=3)
    return f"did you mean {', '.join(near)}?" if near else otherwise or f"there is {', '.join(names)}"
