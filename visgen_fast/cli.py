"""The command line `visgen-fast`.

A user's mistake is answered with one sentence on standard error and exit code 2; anything else that goes wrong is a bug
and shows its traceback. Modules are imported where they are needed, so that help is there at once.
"""

import errno
import importlib
import signal
import sys
from collections.abc import Sequence

from .commands.info import version
from .commands.terminal import complain, standard_streams
from .errors import Stopped, UserError
from .host_memory import keep_freed_memory

_EXTRAS = {
    "train": {"accelerate", "safetensors", "tyro", "rich", "PIL", "matplotlib", "tensorboard", "sklearn"},
    "judge": {"starlette", "uvicorn", "scipy"},
    "text": {"transformers"},
    "data": {"pyarrow"},
}
# Of a write, which does not know its file's name.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

# A training that saved a checkpoint and ended before its last step: EX_TEMPFAIL of sysexits.h, "try again".
STOPPED = 75

COMMANDS = (
    "train",
    "sample",
    "evaluate",
    "export",
    "encode",
    "index",
    "samplers",
    "schedule",
    "judge",
    "recipes",
    "info",
    "bench",
    "demo",
)  # each a file of commands/
_HELP = """\
usage: visgen-fast COMMAND ...

Train visual generative models, and draw images with them.

commands:
  train RECIPE        train a recipe; its images, losses and checkpoints go to a folder
  sample CHECKPOINT   draw images with a trained model
  evaluate CHECKPOINT measure a trained model: reconstruction and codes, errors by noise level, or bits
  export CHECKPOINT   write a trained model to one file, which sample and evaluate read
  encode RUN          write what a first stage says of all images, which a model above is trained on
  index FOLDER        make an index of tar files of images, so that train can read them
  samplers            list the samplers, with their costs and orders
  schedule NAME       show noise schedules, and what their training weighs
  judge serve SET ... let people choose between the pictures of folders; judge results rates the folders
  recipes             list the recipes
  info                show versions, device and compiled libraries; --check compares every kernel with plain PyTorch
  bench [FAMILY]      measure the operations (in a checkout of the repository)
  demo                train a small model on images that are at hand, in two minutes on two CPU cores
  --version           show the version alone

examples:
  visgen-fast train rectified-flow --out runs/digits
  visgen-fast train rectified-flow --dataset my/images --size 64 --out runs/mine
  visgen-fast train rectified-flow --out runs/digits --resume
  visgen-fast sample runs/digits --labels 3 7 --guidance 3 --sampler unipc --steps 10
  visgen-fast sample runs/digits --like samples.png --seeds 1 2 3
  visgen-fast evaluate runs/rq-vae --beam 4
  visgen-fast schedule cosine laplace:scale=0.5 cosine:reference=16,resolution=64 --out schedule.png
  torchrun --nproc-per-node 2 -m visgen_fast train rectified-flow --dataset fashion-mnist --mixed-precision bf16

visgen-fast COMMAND --help says more; visgen-fast train RECIPE --help lists a recipe's settings.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0; 2 after a mistake of the user's; 75 where a training stopped early, to be resumed; 141 where nobody reads on.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with standard_streams():
            return _run(arguments)
    except UserError as error:
        complain(error)
    except Stopped as stopped:
        complain(stopped)
        return STOPPED
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = next((extra for extra, packages in _EXTRAS.items() if package in packages), None)
        if extra is None:
            raise
        complain(f"this needs {error.name}: pip install 'visgen_fast[{extra}]'")
    except BrokenPipeError:
        return 128 + signal.SIGPIPE  # as a shell reports of programs that this signal ends
    except OSError as error:
        if error.filename is None and error.errno not in _DISK_ERRORS:
            raise
        complain(error.strerror if error.filename is None else f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        print("\nvisgen-fast: interrupted; --resume continues a training run from its last checkpoint", file=sys.stderr)
        return 130
    return 2


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if arguments == ["--version"]:
        print(f"visgen-fast {version()}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        raise UserError(f"there is no command {command!r}; there are {', '.join(COMMANDS)}")
    keep_freed_memory()
    module = importlib.import_module(f".commands.{command}", __package__)
    return getattr(module, command)(rest)
