"""Short names for runs, from the settings in which they differ."""

from collections.abc import Mapping, Sequence

ABSENT = "-"  # stands for an unknown value


def names_by_difference(settings: Mapping[str, Sequence[str]]) -> tuple[list[str], set[str]]:
    """Name runs by the first settings that tell them apart, of which "" stands for itself; give these keys, too."""
    telling: dict[str, Sequence[str]] = {}
    told = 1
    for key, values in settings.items():
        if (more := len(set(zip(*telling.values(), values, strict=True)))) > told:
            telling[key], told = values, more
    ends = [key.rpartition(".")[2] for key in telling]
    keys = ends if len(set(ends)) == len(ends) else list(telling)
    return [" ".join(map(_written, keys, values)) for values in zip(*telling.values(), strict=True)], set(telling)


def _written(key: str, value: str) -> str:
    is_class = value.isidentifier() and value[0].isupper()
    return value if is_class or not key else f"{key}={value}"
