"""Exit codes of the tools, and their last messages."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial

from warmstart.config import ConfigError, printable

from ..checkpoint.saver import SaveError
from ..distributed import comm
from ..distributed.environment import is_rank, is_spokesman
from ..distributed.errors import LOST, is_lost, why_lost
from ..distributed.rendezvous import LateError
from ..loop.non_finite import NonFiniteLossError
from ..records.logging import log_to_file, silence_stdout
from ..runtime.device import NO_DETERMINISTIC_KERNEL
from ..runtime.signals import leave, stop_signals


def run_tool(main: Callable[[], int]) -> None:
    """Run a tool and exit with its code.

    0 is success, 2 a mistake of the user (one message on stderr, nothing was overwritten), 3 a loss that is not
    finite, 4 a last checkpoint that could not be written, 128 + N the signal N: 130 Ctrl-C, 143 SIGTERM, 138
    SIGUSR1 (on Linux), 129 SIGHUP. Any other failure is a bug and shows its traceback. The traceback, or the
    message of 2, 3 and 4, is also in the run's log.txt. In a distributed run all ranks fail with the same message,
    and rank 0 prints it; 5 is a rank that exits because another one exited or timed out.
    """
    try:
        with stop_signals(partial(leave, is_main=comm.is_main), comm.is_main):
            sys.exit(main())
    except ConfigError as error:
        message, code = f"error: {error}", 2
    except NonFiniteLossError as error:
        message, code = f"error: {printable(str(error))}", 3
    except SaveError as error:
        message, code = f"error: {printable(str(error))}", 4
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    except PermissionError as error:
        message, code = f"error: {printable(str(error.filename))}: permission denied", 2
    except RuntimeError as error:
        if isinstance(error, LateError) or (is_rank() and is_lost(error)):
            print(f"{_who() if is_rank() else 'error'}: {why_lost(error)}", file=sys.stderr)
            sys.exit(LOST)
        if NO_DETERMINISTIC_KERNEL not in str(error):
            _tell_bug()
            raise
        message, code = f"error: PROFILE exact: {str(error).partition(', but you set')[0]}; use PROFILE auto", 2
    except BrokenPipeError:  # --print-config | head
        silence_stdout()
        sys.exit(0)
    except Exception:
        _tell_bug()
        raise
    if is_spokesman():
        log_to_file(message)
        with contextlib.suppress(OSError):  # a full disk must not change the exit code
            print(message, file=sys.stderr)
    sys.exit(code)


def _tell_bug() -> None:
    """Write the traceback into the run's log.txt, and print the rank above the traceback on the console."""
    who = f"{_who()} has failed:\n" if is_rank() else ""
    print(who, end="", file=sys.stderr)
    log_to_file(f"{who}{traceback.format_exc().rstrip()}")


def _who() -> str:
    return f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}, on {socket.gethostname()}"
