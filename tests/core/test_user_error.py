import ast
import re
from collections.abc import Iterator

import pytest

from core.user_error import CommandError, UserError
from tests.discovery import ROOT
from tests.test_structure import SOURCES

TODO = re.compile(
    r"(?:^|[;:,.] |\b(?:or|and|so) )(?:add|choose|correct|expected|fetch|finish|free|freeze|get|give|keep|leave|look at"
    r"|make|name|open|put|read|remove|rename|replace|restore|run|save|say|see|set|start|take|time|train|use|wait|write)\b"
    r"|did you mean|\bneeds? (?:--|a |one )|near_names\(|\bremed(?:y|ies)\b|\{whole\}"
)
"""What tells the user to do something."""


def written(node: ast.expr) -> str:
    """A message as it stands in the source, each value in braces."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(written, node.values))
    return f"{{{ast.unparse(node.value if isinstance(node, ast.FormattedValue) else node)}}}"


def messages() -> Iterator[tuple[str, str]]:
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
                yield f"{file.relative_to(ROOT)}:{node.lineno}", written(node.args[0])


MESSAGES = list(messages())


def test_the_sources_raise_it() -> None:
    assert len(MESSAGES) > 150
    assert "MisconfigurationException(" not in "".join(file.read_text() for file in SOURCES)


@pytest.mark.parametrize(("place", "message"), MESSAGES, ids=[place for place, _ in MESSAGES])
def test_a_message_says_what_to_do_and_ends_like_a_sentence(place: str, message: str) -> None:
    # A sentence that was made elsewhere is told there what it lacks.
    passed_on = re.fullmatch(
        r"(\{[^{}]*\}|[\w ]+\.|[: .]|or |See: scripts[/.\w ]+)+", message
    )  # the sentence was made elsewhere
    assert passed_on or TODO.search(message), message
    assert passed_on or message.endswith((".", "?", "}")), message


def test_a_command_error_is_no_mistake_of_the_user() -> None:
    assert not issubclass(CommandError, UserError)
    assert not issubclass(UserError, CommandError)
