"""What a command prints for an expected error, and for a wrong flag or key; loaded only when there is one."""

import re
from bdb import BdbQuit
from collections.abc import Sequence

import torch
from jsonargparse import ArgumentParser

from core.durable_file import NO_SPACE
from core.user_error import CommandError, UserError
from models.serialization.class_path import DENIED, not_known
from scripts.command.suggestion import suggest_class, suggest_flag

# Parts of jsonargparse's messages that say nothing more to a user.
NOISE = ("Does not validate against", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value")
PREFIX = re.compile(r".*Parser key \"[\w.]+\": |Problem with given class_path '[\w.]+': |Type typing\..* class: ")

# The types in such messages, in plain words.
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "collections.abc.Sequence": "a list",
    "tuple": "a list",
    "dict": "keys and values",
}
EXPECTED = re.compile(rf"Expected (?:a )?(?:<class '({'|'.join(TYPES)})'>|typing\.Literal\[(.*)\])")


def error_message(error: Exception) -> str:
    """Return the message of an expected error; empty for any other, which is a bug."""
    smaller = "use a smaller --data.batch_size, with --trainer.accumulate_grad_batches for steps of as many images"
    text = str(error)
    if isinstance(error, UserError | CommandError | FloatingPointError):
        return text
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"{error.filename or 'A file'} could not be written: {error.strerror}; free space there."
    if isinstance(error, torch.OutOfMemoryError):
        return f"The GPU's memory is full: {smaller}, or --trainer.precision bf16-mixed."
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text):
        return f"Memory is full: {smaller}, or fewer --data.num_workers."
    if isinstance(error, RuntimeError) and re.search("connection (reset|closed|refused)", text, re.IGNORECASE):
        from callbacks.run.peers import LOST

        return LOST
    if isinstance(error, BdbQuit):
        return "The debugger was left, which ends the command; a breakpoint needs a terminal to type in."
    return ""


def one_line(message: str) -> str:
    """Join the lines of jsonargparse's message, without the alternatives that it lists."""
    lines = (line.strip(" -\t") for line in message.splitlines())
    text = " ".join(line for line in lines if line.strip(". ") and not line.startswith(NOISE)).rstrip(". ")
    return text if text.endswith(("!", "?")) else f"{text}."


def parser_message(message: str, parser: ArgumentParser, configs: Sequence[str]) -> str:
    """Turn jsonargparse's message about a wrong flag or key into one for users; `suggest_flag` takes the configs."""
    line = one_line(message)
    if denied := DENIED.search(line):
        return not_known("The configuration", denied[1])
    key = ".".join(re.findall(r'Parser key "([\w.]+)"', line))
    wrong_value = _wrong_value(key, message) if key else None
    if wrong_value and re.search("<class '(int|float)'>", line):  # jsonargparse also looks for a class of that name
        return wrong_value
    if suggestion := suggest_class(line) or suggest_flag(line, parser, configs) or wrong_value:
        return suggestion
    if key and re.search(
        r"'class_path' is not|class_path '(lightning.Callback|torch.nn.Module)': O|Not a valid subclass", line
    ):
        return (
            f"{key} needs a class, and its arguments under init_args; write {key}: "
            "{class_path: CLASS, init_args: {NAME: VALUE}}."
        )
    help_flag = f"--{key}.help CLASS" if key and re.search("Option '|are required", line) else "--help"
    reason = re.sub(r"\.* Got value: Namespace\(.*", ".", PREFIX.sub("", line))
    return f"{key}: {reason}".removeprefix(": ") + f" See: scripts/train.py fit {help_flag}."


def _wrong_value(key: str, message: str) -> str | None:
    """Return the message for a value of a wrong type; None if the message is about something else."""
    expected = dict.fromkeys(TYPES.get(type_) or f"one of {choices}" for type_, choices in EXPECTED.findall(message))
    if "a number" in expected:
        expected.pop("a whole number", None)
    value = re.search(r"(?:Given|Got) value: (.*?)(?:\. Got value|$)", message, re.MULTILINE)
    if not expected or not value:
        return None
    quotes = " YAML reads yes, no, 007 and 12:30 as other than text: put them in quotes." if "text" in expected else ""
    return f"{key} has the value {value[1]}; give {' or '.join(expected)}.{quotes}"
