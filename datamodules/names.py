"""Names of files and classes as text, whatever a stranger has called them."""

import re


def readable(name: str) -> str:
    r"""A name as one line that any encoding and any terminal takes; what is neither a letter nor a sign, as its code.

    Args:
        name: A name or a sentence, with bytes of no known meaning as Python decodes those of file names.

    Example:
        >>> readable("Käse\x1b[2J"), readable("two\nlines"), readable("caf\udce9")
        ('Käse\\x1b[2J', 'two\\nlines', 'caf\\xe9')
    """
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def in_markdown(name: str) -> str:
    r"""A name as text in Markdown, also in a cell of a table: no markup, HTML or link in it counts.

    Example:
        >>> in_markdown("<b>|[a](http://b.c)")
        '&lt;b&gt;\\|\\[a\\](http&#58;//b.c)'
    """
    text = re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", readable(name))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("://", "&#58;//")
