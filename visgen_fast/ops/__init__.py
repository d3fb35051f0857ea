"""The operations: each checks its arguments, then runs its kernel for the tensor's device.

An argument that does not fit is a TypeError or a ValueError of one sentence that names it. Arithmetic is float32
inside, float64 for float64, under autocast too. Second derivatives are right; `torch.func.vmap`, forward-mode tangents
and devices without kernels run the definition, `visgen_fast.reference`. Importing this costs no package but torch.
"""

from types import ModuleType as _Module

from .. import _library  # loads the compiled libraries before the families register with them
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

# What the families list in theirs.
__all__ = sorted(name for name, value in globals().items() if name[0] != "_" and not isinstance(value, _Module))
