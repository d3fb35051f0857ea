"""What we use of the installed package; nothing imports it before it is asked for."""

from __future__ import annotations

import functools


class _Package:
    """What we use of vector-quantize-pytorch."""

    def __init__(self) -> None:
        from vector_quantize_pytorch import residual_vq, vector_quantize_pytorch

        self.residual, self.vector = residual_vq, vector_quantize_pytorch
        self.ResidualVQ, self.VectorQuantize = residual_vq.ResidualVQ, vector_quantize_pytorch.VectorQuantize
        try:
            self.Codebook = vector_quantize_pytorch.Codebook
        except AttributeError:
            raise ImportError("vector-quantize-pytorch must be 1.31 or newer") from None


@functools.cache
def theirs() -> _Package:
    return _Package()
