"""tools/lint_cuda.py keeps CUDA's own facilities inside the four headers."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("lint_cuda", ROOT / "tools" / "lint_cuda.py")
lint_cuda = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lint_cuda)


@pytest.mark.parametrize(
    "line",
    [
        "#include <cuda_runtime.h>",
        "#include <cuda_fp16.h>",
        "# include <cub/cub.cuh>",
        "#include <cooperative_groups.h>",
        "kernel<<<grid, block, 0, stream>>>(x);",
        "__syncthreads();",
        "if (__syncthreads_or(done)) return;",
        "__syncwarp();",
        "sum += __shfl_xor_sync(0xffffffff, sum, 1);",
        "unsigned votes = __ballot_sync(mask, true);",
        "__shared__ float tile[32];",
        "atomicAdd(&total, 1);",
        "float4 wide = *reinterpret_cast<const float4*>(x);",
        "float value = __ldg(x);",
        "__half half_value;",
        'asm volatile("" ::: "memory");',
        "cudaMemsetAsync(x, 0, n, stream);",
        "namespace cg = cooperative_groups; cooperative_groups::this_grid();",
        "wmma::fragment<int> f;",
        "#ifdef __CUDA_ARCH__",
    ],
)
def test_each_facility_of_cuda_is_refused_with_its_line(line: str) -> None:
    (problem, *_) = lint_cuda.problems("csrc/cuda/example.cu", f"// a comment\n\n{line}\n")
    assert problem.startswith("csrc/cuda/example.cu:3: ")


def test_what_kernels_are_written_with_is_allowed() -> None:
    source = """
    // __syncthreads() and <<<>>> in a comment, /* atomicAdd */
    __global__ void __launch_bounds__(256) kernel(const float* __restrict__ x) {
      VISGEN_SHARED(float, tile, 32);
      sync_block();
      fail("asm <<<");
      atomic_add(counts, 1);
      tile[threadIdx.x] = shuffle_xor(x[blockIdx.x * blockDim.x], 1) << 3;
    }"""
    assert lint_cuda.problems("csrc/cuda/example.cu", source) == []


def test_the_four_headers_may_use_everything() -> None:
    assert lint_cuda.problems("csrc/cuda/warp.cuh", "__syncthreads();") == []
    assert lint_cuda.problems("csrc/cuda/tile.cuh", "__syncthreads();") != []


def test_the_sources_of_this_tree_keep_to_the_headers() -> None:
    assert lint_cuda.main() == 0
