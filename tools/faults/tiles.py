"""Faults in tiles of samples and the words of warps, which all families share."""

from .mutation import Mutation

TESTS = ["python_tests/test_cuda_on_host.py"]
MUTATIONS = [
    Mutation(
        "a store one element past the end of a sample",
        "csrc/cuda/tile.cuh",
        "if (begin + i < shape.elements) data[",
        "if (begin + i <= shape.elements) data[",
    ),
    Mutation(
        "a load one element past the end of a sample",
        "csrc/cuda/tile.cuh",
        "begin + i < shape.elements ? decode",
        "begin + i <= shape.elements ? decode",
    ),
    Mutation(
        "the last, partial block of a sample is not launched",
        "csrc/cuda/tile.cuh",
        "(tiles + across - 1) / across",
        "(tiles + across - 1) / across - (tiles > across)",
    ),
    Mutation(
        "the stride of a wrong dimension",
        "csrc/cuda/tile.cuh",
        "(element - outer * shape.sizes[d]) * operand.strides[d]",
        "(element - outer * shape.sizes[d]) * operand.strides[d - 1]",
    ),
    Mutation(
        "wide accesses at addresses that are not aligned",
        "csrc/cuda/tile.cuh",
        "reinterpret_cast<uintptr_t>(operand.data) % alignment == 0",
        "reinterpret_cast<uintptr_t>(operand.data) % bytes == 0",
    ),
    Mutation(
        "all Philox blocks of a tile are its first",
        "csrc/cuda/tile.cuh",
        "block = cuda::philox_block(seed, stream, static_cast<uint64_t>(begin + i) / 4);\n    uint32_t word[4];",
        "block = cuda::philox_block(seed, stream, static_cast<uint64_t>(begin) / 4);\n    uint32_t word[4];",
    ),
    Mutation(
        "turns of a thread leave out tiles",
        "csrc/cuda/tile.cuh",
        "const uint32_t step = gridDim.x * blockDim.x * span;",
        "const uint32_t step = (gridDim.x * blockDim.x + 1) * span;",
        ["python_tests/test_diffuse.py", "-k", "cuda-on-host and gaussian_of_the_same_seeds"],
    ),
    Mutation(
        "the last exchange of a warp's reduction is left out",
        "csrc/cuda/warp.cuh",
        "for (int mask = lanes / 2; mask > 0; mask /= 2)",
        "for (int mask = lanes / 2; mask > 1; mask /= 2)",
    ),
    Mutation(
        "no barrier before a block reads its warps' sums",
        "csrc/cuda/warp.cuh",
        "partial[warp_index()] = value;\n  sync_block();",
        "partial[warp_index()] = value;",
        TESTS,
    ),
    Mutation(
        "no barrier before a block's sums are overwritten",
        "csrc/cuda/warp.cuh",
        "  sync_block();  // the next call may overwrite `partial`\n",
        "",
        TESTS,
    ),
]
