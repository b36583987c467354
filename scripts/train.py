"""Train, validate or test; every argument of a constructor is a flag.

python scripts/train.py fit --help
"""

import sys

from core.user_error import UserError

STAGES = ("fit", "validate", "test")
SEVERAL = {"--seeds", "--folds", "--fold"}  # flags that start several runs


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    The exit status is 2 after a user error, and 1 after another error or if `--like` has given other results.
    """
    args = list(sys.argv[1:] if args is None else args)
    if {"-h", "--help", "--help=all"} & {*args}:
        if not {"all", "--help=all"} & {*args}:
            from scripts.command.fit_help import page
            from scripts.command.standard_streams import prepare_standard_streams

            prepare_standard_streams()
            print(page())
            return
        args = ["fit", "--help"]

    import torch

    from callbacks.run.run_folder import release_folders
    from scripts.command.process import training_process
    from scripts.training.train_cli import TrainCLI

    try:
        with training_process():
            if not args or args[0] not in STAGES:
                raise UserError(f"The stage is {args[0] if args else 'missing'}; give one of {', '.join(STAGES)}.")
            if args[0] == "fit" and SEVERAL & {arg.partition("=")[0] for arg in args}:
                from scripts.training.several_runs import fit_several

                sys.exit(fit_several(args[1:]))
            cli = TrainCLI(args)
    except SystemExit as end:
        from callbacks.run.peers import leave

        leave(end)
        raise
    finally:
        release_folders()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # else Gloo's threads may abort the interpreter's exit
    if not cli.is_identical:
        sys.exit(1)


if __name__ == "__main__":
    main()
