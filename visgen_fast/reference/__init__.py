"""Every operation, defined in plain PyTorch: names and signatures of `visgen_fast.ops`, readable next to the paper."""

from .activate import *
from .binary_quantize import *
from .codebook import *
from .diffuse import *
from .finite_scalar import *
from .modulate import *
from .multiscale import *
from .noise import *
from .optimize import *
from .quantize import *
from .select import *
from .solve import *
