"""Ranks as forks of one process: each has imported everything already, which takes longer than what tests do there."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable


def as_ranks(count: int, function: Callable[[], None]) -> list[int]:
    """Has `count` ranks do `function`, and waits for all. Returns their exit codes, 1 after an error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            os.environ.update({name: str(value) for name, value in names.items()}, MASTER_PORT=port)
            os.environ["MASTER_ADDR"] = "127.0.0.1"
            os._exit(_code_of(function))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _code_of(function: Callable[[], None]) -> int:
    try:
        function()
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
