// Large batches go past the cache. A plain store reads its line into the cache first, and takes the place of another;
// that pays only where the next reader still finds it there.
#pragma once

#include "tile.h"

namespace visgen::VISGEN_ISA {

// Whether a batch of this type is more than a core's share of the last-level cache.
inline bool is_beyond_cache(const SampleShape& shape, DType dtype) {
  constexpr int64_t kShare = int64_t{8} << 20;
  return shape.samples * shape.elements * size_of(dtype) >= kShare;
}

#if defined(__x86_64__)
constexpr bool kHasStreams = true;
#else
constexpr bool kHasStreams = false;
#endif

// `input` is what is read for it: where that is narrower, the cache keeps more of the output.
template <class Real>
bool is_streamed(const Operand& output, const SampleShape& shape, const Operand& input) {
  return kHasStreams && usable_in_place<Real>(output, shape) && is_beyond_cache(shape, input.dtype);
}

// Copies numbers past the cache, but for lines that are not whole.
template <class Real>
void stream(const Real* in, int64_t count, Real* out) {
  int64_t j = 0;
#if defined(__x86_64__)
  constexpr int64_t kEach = kVectorBytes / sizeof(Real);
  const int64_t before = -reinterpret_cast<uintptr_t>(out) % kVectorBytes / sizeof(Real);
  for (; j < before && j < count; ++j) out[j] = in[j];
  for (; j + kEach <= count; j += kEach) {
#if defined(__AVX512F__)
    _mm512_stream_si512((__m512i*)(out + j), _mm512_loadu_si512(in + j));
#elif defined(__AVX2__)
    _mm256_stream_si256((__m256i*)(out + j), _mm256_loadu_si256((const __m256i*)(in + j)));
#else
    _mm_stream_si128((__m128i*)(out + j), _mm_loadu_si128((const __m128i*)(in + j)));
#endif
  }
#endif
  for (; j < count; ++j) out[j] = in[j];
}

// What a thread has streamed becomes visible to the others before it says that it is done.
inline void end_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// A tile of an output: where to compute it, and how it gets to memory.
template <class Real>
class Output {
 public:
  Output(const Operand& operand, const SampleShape& shape, const Operand& input, int64_t sample, int64_t begin,
         Real* buffer)
      : data(tile_for_output(operand, shape, sample, begin, buffer)),
        operand_(operand),
        shape_(shape),
        sample_(sample),
        begin_(begin) {
    if (is_streamed<Real>(operand, shape, input)) streamed_ = data, data = buffer;
  }

  void store(int64_t count) const {
    if (streamed_) return stream(data, count, streamed_);
    store_tile(operand_, shape_, sample_, begin_, count, data);
  }

  Real* data;

 private:
  const Operand& operand_;
  const SampleShape& shape_;
  int64_t sample_, begin_;
  Real* streamed_ = nullptr;  // to there
};

constexpr int64_t kLine = 64;  // bytes that come to the cache together

// Brings a tile to the cache that will be read soon, where its elements follow one another; there may be none.
inline void prefetch_tile(const Operand& operand, const SampleShape& shape, int64_t sample, int64_t begin) {
  if (shape.dimensions > 1 || operand.strides[0] != 1) return;
  const int64_t bytes = size_of(operand.dtype), first = sample * operand.sample_stride + begin;
  const char* data = static_cast<const char*>(operand.data) + first * bytes;
  for (int64_t byte = 0; byte < kTile * bytes; byte += kLine) __builtin_prefetch(data + byte, 0, 2);
}

// The same of rows, some lines at a time.
class Ahead {
 public:
  void aim(const char* data, int64_t rows, int64_t row_bytes, int64_t pitch) {
    row_ = data, rows_ = rows, row_bytes_ = row_bytes, pitch_ = pitch, done_ = 0;
  }

  void bring(int64_t bytes) {
    while (bytes > 0 && rows_ > 0) {
      const int64_t left = row_bytes_ - done_, now = bytes < left ? bytes : left;
      for (int64_t byte = done_; byte < done_ + now; byte += kLine) __builtin_prefetch(row_ + byte, 0, 2);
      bytes -= now, done_ += now;
      if (done_ == row_bytes_) row_ += pitch_, done_ = 0, --rows_;
    }
  }

 private:
  const char* row_ = nullptr;
  int64_t rows_ = 0, row_bytes_ = 0, pitch_ = 0, done_ = 0;  // of the row, bytes
};

}  // namespace visgen::VISGEN_ISA
