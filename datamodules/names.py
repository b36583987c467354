"""Names of files and classes as text, whatever a stranger has called them."""


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
