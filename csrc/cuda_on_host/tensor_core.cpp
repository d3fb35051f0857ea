// The tensor-core instructions of ../cuda/mma.cuh, from the fragment tables of the PTX ISA.
//
// The last lane that comes gathers the operands from all lanes, multiplies, and hands out the result.
#include <bit>
#include <cstring>

#include "block.h"
#include "checker.h"
#include "counter.h"

namespace visgen::host {
namespace {

constexpr uint32_t kWholeWarp = 0xffffffffu;

struct Multiplication {
  void* d;
  const uint32_t* a;
  const uint32_t* b;
};

float from_bfloat16(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

struct BFloat16Operands {
  static constexpr int depth = 16, per_register = 2;
  using Result = float;
  using Sum = double;
  static double element(uint32_t word, int i) { return from_bfloat16(word >> 16 * i & 0xffff); }
};

struct Int8Operands {
  static constexpr int depth = 32, per_register = 4;
  using Result = int32_t;
  using Sum = int64_t;
  static int64_t element(uint32_t word, int i) { return static_cast<int8_t>(word >> 8 * i & 0xff); }
};

struct TF32Operands {
  static constexpr int depth = 8, per_register = 1;
  using Result = float;
  using Sum = double;
  static double element(uint32_t word, int) { return std::bit_cast<float>(word & 0xffffe000u); }
};

// With g = lane / 4 and t = lane % 4, each register holds `per_register` neighbours along the inner dimension: register
// i of A those of row g + 8 (i % 2) from per_register · t + depth / 2 · (i / 2) on, register i of B those of column g
// from per_register · t + depth / 2 · i on.
template <class Operands>
void complete_multiplication(uint32_t, const Visit* lanes) {
  constexpr int depth = Operands::depth, per_register = Operands::per_register;
  using Sum = typename Operands::Sum;
  const auto lane_of = [&](int lane) -> const Multiplication& {
    return *static_cast<const Multiplication*>(lanes[lane].payload);
  };
  Sum a[16][depth], b[depth][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, first = per_register * (lane % 4);
    for (int i = 0; i < per_register; ++i) {
      for (int r = 0; r < 4; ++r) {
        a[g + 8 * (r % 2)][first + depth / 2 * (r / 2) + i] = Operands::element(lane_of(lane).a[r], i);
      }
      for (int r = 0; r < 2; ++r) b[first + depth / 2 * r + i][g] = Operands::element(lane_of(lane).b[r], i);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    auto* d = static_cast<typename Operands::Result*>(lane_of(lane).d);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      Sum sum = d[i];
      for (int k = 0; k < depth; ++k) sum += a[row][k] * b[k][column];
      d[i] = static_cast<typename Operands::Result>(sum);
    }
  }
}

struct MatrixLoad {
  const char* row;
  uint32_t* fragment;
};

template <bool transposed>
void complete_matrix_load(uint32_t, const Visit* lanes) {
  Block& block = *running_block();
  const auto lane_of = [&](int lane) -> const MatrixLoad& {
    return *static_cast<const MatrixLoad*>(lanes[lane].payload);
  };
  for (int lane = 0; lane < kLanes; ++lane) {
    const int thread = block.first_of_warp() + lane;
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t pair[2];
      for (int i = 0; i < 2; ++i) {
        const int row = transposed ? 2 * (lane % 4) + i : lane / 4;
        const int column = transposed ? lane / 4 : 2 * (lane % 4) + i;
        const char* element = lane_of(8 * matrix + row).row + 2 * column;
        checker::read(thread, element, 2, block.thread(thread).place);
        memcpy(&pair[i], element, 2);
      }
      lane_of(lane).fragment[matrix] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
    }
  }
}

}  // namespace

void multiply_bf16(float* d, const uint32_t* a, const uint32_t* b) {
  counter::add(counter::kTensorCore);
  Multiplication own{d, a, b};
  running_block()->exchange({complete_multiplication<BFloat16Operands>, kWholeWarp, &own}, __builtin_return_address(0));
}

void multiply_s8(int32_t* d, const uint32_t* a, const uint32_t* b) {
  counter::add(counter::kTensorCore);
  Multiplication own{d, a, b};
  running_block()->exchange({complete_multiplication<Int8Operands>, kWholeWarp, &own}, __builtin_return_address(0));
}

void multiply_tf32(float* d, const uint32_t* a, const uint32_t* b) {
  counter::add(counter::kTensorCore);
  Multiplication own{d, a, b};
  running_block()->exchange({complete_multiplication<TF32Operands>, kWholeWarp, &own}, __builtin_return_address(0));
}

uint32_t to_tf32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits;  // infinity, NaN
  return (bits + 0x1000u) & 0xffffe000u;
}

void load_matrices(uint32_t* fragment, const void* row, bool transposed) {
  const void* place = __builtin_return_address(0);
  counter::add(counter::kMatrixLoad);
  Block& block = *running_block();
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    block.fail("load_matrices needs rows at multiples of 16 bytes", place);
  MatrixLoad own{static_cast<const char*>(row), fragment};
  block.exchange({transposed ? complete_matrix_load<true> : complete_matrix_load<false>, kWholeWarp, &own}, place);
}

}  // namespace visgen::host
