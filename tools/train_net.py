"""Train, resume or evaluate the model that a YAML file describes.

python tools/train_net.py --config-file config/recipes/digits.yaml SOLVER.BASE_LR 0.01 --resume
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from warmstart.tools import interruptible

with interruptible(__name__):
    from warmstart.config import ConfigError, Flag
    from warmstart.engine import (
        LAUNCH_FLAGS,
        adopt_slurm,
        build_process_group,
        evaluate_only,
        launch,
        log_next_commands,
        read_command_line,
        run_tool,
        train,
        wants_launch,
    )

FLAGS = (
    Flag("--resume", "path", "continue the run in OUTPUT_DIR, or from a checkpoint file or folder"),
    Flag("--eval-only", "none", "only evaluate MODEL.WEIGHTS or, with --resume, a checkpoint"),
    Flag("--output", "one", "with --eval-only: a file for the scores, as JSON"),
    Flag("--overwrite", "none", "start a new run; the old one is deleted when this one has saved"),
    Flag("--allow-config-change", "none", "resume although model, data or seed differ"),
    Flag("--trust-checkpoint", "none", "read a checkpoint or MODEL.WEIGHTS even if that can run code in it"),
    *LAUNCH_FLAGS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the arguments of a command line and return its exit code."""
    adopt_slurm()
    flags, cfg = read_command_line(argv, FLAGS, "Train the model that a YAML file describes.")
    resume, overwrite, trust = flags["resume"], flags["overwrite"], flags["trust_checkpoint"]
    if flags["eval_only"] and overwrite:
        raise ConfigError("command line: --eval-only starts no run, so --overwrite has no meaning; leave it out")
    if flags["output"] is not None and not flags["eval_only"]:
        raise ConfigError(
            "command line: --output takes the scores of --eval-only; the folder of a run is OUTPUT_DIR"
            f" {flags['output']}"
        )
    if flags["eval_only"] and flags["allow_config_change"]:
        raise ConfigError("command line: --eval-only compares no configs; leave --allow-config-change out")
    if wants_launch(flags):
        return launch(cfg, flags, argv)
    with build_process_group(cfg):
        if flags["eval_only"]:
            evaluate_only(cfg, resume=resume, trust=trust, output=flags["output"])
        else:
            allow = flags["allow_config_change"]
            trainer = train(cfg, resume=resume, overwrite=overwrite, allow_config_change=allow, trust=trust)
            if trainer is not None:
                log_next_commands(cfg, trainer, FLAGS, sys.argv[1:] if argv is None else argv)
    return 0


if __name__ == "__main__":
    run_tool(main)
