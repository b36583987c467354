"""Build a data module from the flags of scripts/train.py."""

from collections.abc import Sequence
from contextlib import nullcontext

import yaml

from core.user_error import UserError
from datamodules.base import ImageDataModule
from models.serialization.class_path import Scope, check_classes
from scripts.command.configuration import Config, Parser, read_layers
from scripts.command.silence import silence_libraries


def build_data(flags: Sequence[str], checkpoint: tuple[str, Config] | None = None) -> ImageDataModule:
    """Build the data module that `fit` with these flags would use.

    Args:
        flags: Flags of `scripts/train.py`.
        checkpoint: The path of a checkpoint and its configuration, which the flags override.
    """
    config, flags, _, scope = read_layers(flags, checkpoint=checkpoint)
    return data_of_config(config, flags, scope)


def data_of_config(config: Config, flags: Sequence[str] = (), scope: Scope = nullcontext) -> ImageDataModule:
    """Build the data module of a configuration."""
    silence_libraries()
    parser = Parser(allow_abbrev=False)
    parser.add_argument("-c", "--config", action="config")
    parser.add_argument("--ckpt_path")
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    parser.link_arguments("seed_everything", "data.init_args.seed")
    data_config = {key: config[key] for key in ("seed_everything", "data") if key in config}
    try:
        with scope():
            parsed = parser.parse_args(["--config", yaml.safe_dump(data_config), *flags])
            check_classes(parsed, "The configuration")
            data: ImageDataModule = parser.instantiate_classes(parsed).data
    except (ValueError, ModuleNotFoundError, UserError) as error:
        from scripts.command.error_message import one_line

        raise UserError(one_line(str(error))) from error
    return data
