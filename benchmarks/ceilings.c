// One thread's share of the two measurements a CPU's ceilings come from; benchmarks/ceilings.py compiles this file with
// the system's compiler and calls it from as many threads as the run uses.
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define CHAINS 24
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define CHAINS 12
#else
#define VECTOR_BYTES 16
#define CHAINS 12
#endif

typedef float Vector __attribute__((vector_size(VECTOR_BYTES)));

// Copies without reading the destination into the cache first: the least traffic a copy can cause. Both addresses and
// `bytes` are multiples of 64. Elsewhere than on x86 the C library's memcpy chooses its own stores.
void copy_nontemporal(char* to, const char* from, int64_t bytes) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < bytes; i += 64) _mm512_stream_si512((__m512i*)(to + i), _mm512_load_si512(from + i));
  _mm_sfence();
#elif defined(__AVX__)
  for (int64_t i = 0; i < bytes; i += 32)
    _mm256_stream_si256((__m256i*)(to + i), _mm256_load_si256((const __m256i*)(from + i)));
  _mm_sfence();
#elif defined(__SSE2__)
  for (int64_t i = 0; i < bytes; i += 16)
    _mm_stream_si128((__m128i*)(to + i), _mm_load_si128((const __m128i*)(from + i)));
  _mm_sfence();
#else
  memcpy(to, from, (size_t)bytes);
#endif
}

const char* copy_method(void) {
#if defined(__x86_64__)
  return "non-temporal stores";
#else
  return "memcpy";
#endif
}

// Enough independent multiply-adds on registers to keep every unit busy. Returns the multiply-adds of single floats
// done.
int64_t multiply_add(int64_t iterations) {
  Vector sums[CHAINS], factor, offset;
  for (int lane = 0; lane < (int)(VECTOR_BYTES / sizeof(float)); ++lane) {
    factor[lane] = 0.999f;
    offset[lane] = 0.001f;
  }
  for (int chain = 0; chain < CHAINS; ++chain) sums[chain] = offset * (float)(chain + 1);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (int chain = 0; chain < CHAINS; ++chain) sums[chain] = sums[chain] * factor + offset;
  }
  Vector total = sums[0];
  for (int chain = 1; chain < CHAINS; ++chain) total += sums[chain];
  // The sum is always positive; the comparison keeps the loop from being optimized away.
  return total[0] > 0.0f ? iterations * CHAINS * (int64_t)(VECTOR_BYTES / sizeof(float)) : 0;
}
