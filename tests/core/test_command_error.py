from core.command_error import CommandError
from core.user_error import UserError


def test_is_no_mistake_of_the_user() -> None:
    assert not issubclass(CommandError, UserError)
    assert not issubclass(UserError, CommandError)
