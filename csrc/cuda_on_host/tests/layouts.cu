// The functions of mma.cuh, one warp a block, with every lane's registers read from and written to memory as they are:
// the tests compare them with the tables of the PTX ISA. Compiles for a GPU, too.
#include "../../cuda/mma.cuh"
#include "runner.h"

namespace visgen {
namespace {

enum Instruction { kBFloat16, kInt8, kTF32 };

// a[blocks][32][4], b[blocks][32][2], d[blocks][32][4]: 32-bit registers.
template <int instruction, class Result>
__global__ void multiply(const uint32_t* a, const uint32_t* b, Result* d) {
  const unsigned lane = blockIdx.x * 32 + threadIdx.x;
  uint32_t of_a[4], of_b[2];
  Result of_d[4];
  for (int i = 0; i < 4; ++i) of_a[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) of_b[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) of_d[i] = d[lane * 4 + i];
  if constexpr (instruction == kBFloat16) multiply_bf16(of_d, of_a, of_b);
  if constexpr (instruction == kInt8) multiply_s8(of_d, of_a, of_b);
  if constexpr (instruction == kTF32) multiply_tf32(of_d, of_a, of_b);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = of_d[i];
}

// x[32 rows][16 bytes] → shared memory → fragments[2][32][4]: as they lie, and transposed.
__global__ void load(const uint8_t* x, uint32_t* fragments) {
  char* tile = dynamic_shared<char>();
  copy_async(tile + 16 * threadIdx.x, x + 16 * threadIdx.x);
  commit_copies();
  wait_copies<0>();
  sync_block();
  uint32_t fragment[4];
  load_matrices(fragment, tile + 16 * threadIdx.x);
  for (int i = 0; i < 4; ++i) fragments[threadIdx.x * 4 + i] = fragment[i];
  load_matrices_transposed(fragment, tile + 16 * threadIdx.x);
  for (int i = 0; i < 4; ++i) fragments[128 + threadIdx.x * 4 + i] = fragment[i];
}

// Lane l copies l % 17 valid bytes of x[32][16] to y[32][16], in two groups of which the second is awaited last.
__global__ void copy(const uint8_t* x, uint8_t* y) {
  uint8_t* tile = dynamic_shared<uint8_t>();
  const unsigned row = 16 * threadIdx.x;
  copy_async(tile + row, x + row, static_cast<int>(threadIdx.x % 17));
  commit_copies();
  copy_async(tile + 512 + row, x + row);
  commit_copies();
  wait_copies<1>();
  for (int i = 0; i < 16; ++i) y[row + i] = tile[row + i];
  wait_copies<0>();
  for (int i = 0; i < 16; ++i) y[512 + row + i] = tile[512 + row + i];
}

__global__ void round_to_tf32(const float* x, uint32_t* y, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += 32) y[i] = to_tf32(x[i]);
}

}  // namespace
}  // namespace visgen

using namespace visgen;

VISGEN_TEST visgen_test_multiply_bf16(unsigned blocks, const void* a, const void* b, float* d) {
  const auto* left = static_cast<const uint32_t*>(a);
  const auto* right = static_cast<const uint32_t*>(b);
  return run_test([=] { launch<multiply<kBFloat16, float>>({dim3(blocks), dim3(32)}, Stream(), left, right, d); });
}

VISGEN_TEST visgen_test_multiply_s8(unsigned blocks, const void* a, const void* b, int32_t* d) {
  const auto* left = static_cast<const uint32_t*>(a);
  const auto* right = static_cast<const uint32_t*>(b);
  return run_test([=] { launch<multiply<kInt8, int32_t>>({dim3(blocks), dim3(32)}, Stream(), left, right, d); });
}

VISGEN_TEST visgen_test_multiply_tf32(unsigned blocks, const void* a, const void* b, float* d) {
  const auto* left = static_cast<const uint32_t*>(a);
  const auto* right = static_cast<const uint32_t*>(b);
  return run_test([=] { launch<multiply<kTF32, float>>({dim3(blocks), dim3(32)}, Stream(), left, right, d); });
}

VISGEN_TEST visgen_test_load_matrices(const uint8_t* x, uint32_t* fragments) {
  return run_test([=] { launch<load>({dim3(1), dim3(32), 512}, Stream(), x, fragments); });
}

VISGEN_TEST visgen_test_copy_async(const uint8_t* x, uint8_t* y) {
  return run_test([=] { launch<copy>({dim3(1), dim3(32), 1024}, Stream(), x, y); });
}

VISGEN_TEST visgen_test_to_tf32(const float* x, uint32_t* y, int count) {
  return run_test([=] { launch<round_to_tf32>({dim3(1), dim3(32)}, Stream(), x, y, count); });
}
