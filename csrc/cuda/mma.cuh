// Tensor-core instructions, and the copies that feed them.
//
// Every function is called by all 32 lanes of a warp together (the asynchronous copies by any thread). With g =
// lane / 4 and t = lane % 4, the elements that a lane holds are (PTX ISA, "Matrix fragments for mma"):
//
//   multiply_bf16: D[16×8] += A[16×16] · B[16×8]     bfloat16 in, float out
//     A: a[i] holds the row g + 8·(i % 2), the columns 2t + 8·(i / 2) and the next (the lower column in the lower half)
//     B: b[i] holds the rows 2t + 8i and the next, the column g
//   multiply_s8:   D[16×8] += A[16×32] · B[32×8]     int8 in, int32 out
//     A: a[i] holds the row g + 8·(i % 2), the columns 4t + 16·(i / 2) and the next three (lowest byte first)
//     B: b[i] holds the rows 4t + 16i and the next three, the column g
//   multiply_tf32: D[16×8] += A[16×8] · B[8×8]       tf32 in (floats of 10 mantissa bits, from `to_tf32`), float out
//     A: a[i] holds the row g + 8·(i % 2), the column t + 4·(i / 2)
//     B: b[i] holds the row t + 4i, the column g
//   D of all three: d[i] holds the row g + 8·(i / 2), the column 2t + i % 2
//
// - `load_matrices(fragment, row)` loads four 8×8 matrices of 16-bit elements from shared memory: lane l passes the
//   address of row l % 8 of matrix l / 8 (16 bytes, aligned to 16), and receives in fragment[j], of matrix j, the
//   row g, the columns 2t and 2t+1. With the matrices (rows 0…7, columns 0…7), (8…15, 0…7), (0…7, 8…15) and
//   (8…15, 8…15) of a tile that is the operand A of multiply_bf16. `load_matrices_transposed` hands out the rows 2t
//   and 2t+1 of the column g instead: operand B from a tile stored row by row.
// - `copy_async(to, from)` copies 16 bytes from global to shared memory, both aligned to 16, without waiting;
//   `copy_async(to, from, valid_bytes)` reads only that many and fills up with zeros. `commit_copies()` closes a
//   group of the thread's copies; `wait_copies<n>()` waits until at most n of its groups are under way. Other
//   threads see the data after a barrier that follows the wait.
// - The order in which a tensor core adds is its own: sums of floats agree with the host's to rounding, integers
//   exactly.
#pragma once

#include <cstdint>
#include <cstring>

#include "launch.cuh"

namespace visgen {

#ifdef __CUDACC__

__device__ __forceinline__ void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void multiply_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The nearest tf32 (ties away from zero), as bits for multiply_tf32.
__device__ __forceinline__ uint32_t to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ void load_matrices(uint32_t (&fragment)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&fragment)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

__device__ __forceinline__ void copy_async(void* to, const void* from, int valid_bytes = 16) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
      "l"(__cvta_generic_to_global(from)), "r"(valid_bytes)
      : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int groups>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

#else

__device__ __forceinline__ void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  host::multiply_bf16(d, a, b);
}

__device__ __forceinline__ void multiply_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  host::multiply_s8(d, a, b);
}

__device__ __forceinline__ void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  host::multiply_tf32(d, a, b);
}

__device__ __forceinline__ uint32_t to_tf32(float value) { return host::to_tf32(value); }

__device__ __forceinline__ void load_matrices(uint32_t (&fragment)[4], const void* row) {
  host::load_matrices(fragment, row, false);
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&fragment)[4], const void* row) {
  host::load_matrices(fragment, row, true);
}

__device__ __forceinline__ void copy_async(void* to, const void* from, int valid_bytes = 16) {
  host::copy_async(to, from, valid_bytes);
}

__device__ __forceinline__ void commit_copies() { host::commit_copies(); }

template <int groups>
__device__ __forceinline__ void wait_copies() {
  host::wait_copies(groups);
}

#endif

}  // namespace visgen
