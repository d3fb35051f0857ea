// The k-th largest logit of a row, and the few codes that are not below it: nothing is sorted.
#pragma once

#include "select_row.h"

namespace visgen::VISGEN_ISA {

// The k-th largest logit: each pass counts those of a range of numbers in bins, and goes on with one of them.
template <class Real>
Real kth_largest(const Row<Real>& row, int64_t k, Real largest) {
  using Order = OrderOf<Real>;
  constexpr int kBins = 2048;
  Order low = order_of(-kInfinity<Real>), high = order_of(largest);
  uint32_t counts[kBins];
  while (low < high) {
    int shift = 0;
    while (((high - low) >> shift) >= kBins) ++shift;
    memset(counts, 0, sizeof(counts));
    row.each_tile([&](const Tile<Real>& tile) {
      for (int64_t i = 0; i < tile.count; ++i) {
        const Order place = order_of(tile.logits[i]) - low;
        if (place <= high - low) ++counts[place >> shift];
      }
    });
    Order bin = (high - low) >> shift;
    for (; k > counts[bin]; --bin) k -= counts[bin];
    const Order last = (((bin + 1) << shift) - 1);
    high = last < high - low ? low + last : high;
    low += bin << shift;
  }
  return number_of<Real>(low);
}

// A number that exactly k of `count` numbers, whole vectors of them, are not below; the k-th largest, if more are
// equal.
template <class Real>
Real bound_of_largest(const Real* numbers, int64_t count, int64_t k, Real least, Real largest) {
  OrderOf<Real> low = order_of(least), high = order_of(largest);
  while (low < high) {
    const OrderOf<Real> middle = high - (high - low) / 2;
    const VectorOf<Real> bound = VectorOf<Real>{} + number_of<Real>(middle);
    auto counts = bound < bound;
    for (int64_t i = 0; i < count; i += kWidth<Real>) {
      VectorOf<Real> x;
      memcpy(&x, numbers + i, sizeof(x));
      counts -= x >= bound;
    }
    int64_t reached = 0;
    for (int lane = 0; lane < kWidth<Real>; ++lane) reached += counts[lane];
    if (reached == k) return number_of<Real>(middle);
    if (reached > k) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return number_of<Real>(low);
}

// As many 32-bit codes as a vector has logits.
template <class Real>
struct CodesOf {
  typedef int32_t Vector __attribute__((vector_size(kVectorBytes)));
};
template <>
struct CodesOf<double> {
  typedef int32_t Vector __attribute__((vector_size(kVectorBytes / 2)));
};

// The codes of a row that top-k keeps, if they are few: those that may be among the k largest so far are listed, and
// the list is cut down from time to time.
template <class Real>
class Kept {
 public:
  static constexpr int64_t kMost = 2048;  // of top_k

  Kept(const Row<Real>& row, int64_t k) : begin_(row.unit.begin), k_(k), limit_(2 * k > 2 * kTile ? 2 * k : 2 * kTile) {
    row.each_tile([&](const Tile<Real>& tile) {
      largest_.look_at(tile);
      if (fits_) add(tile);
    });
    if (fits_) cut();
    fits_ = fits_ && size_ > 0;
  }

  // Not if too many codes are equal.
  bool fits() const { return fits_; }
  Real largest() const { return largest_.value(); }

  template <class Body>
  void each_tile(Body body) const {
    for (int64_t i = 0; i < size_; i += kTile) {
      const int64_t count = size_ - i < kTile ? (size_ - i + kListed - 1) / kListed * kListed : kTile;
      body(Tile<Real>{logits_ + i, count, begin_, codes_ + i});
    }
  }

 private:
  using Codes = typename CodesOf<Real>::Vector;

  void add(const Tile<Real>& tile) {
    Codes codes;
    for (int lane = 0; lane < kWidth<Real>; ++lane) codes[lane] = static_cast<int32_t>(tile.begin - begin_) + lane;
    for (int64_t i = 0; i < tile.count; i += kWidth<Real>, codes += kWidth<Real>) {
      VectorOf<Real> x;
      memcpy(&x, tile.logits + i, sizeof(x));
      append(x, codes);
    }
    if (size_ > limit_) cut();
    fits_ = size_ <= limit_;
  }

  // Down to the k largest and those that equal the last of them.
  void cut() {
    pad();
    if (size_ > k_) {
      const int64_t count = size_;
      least_ = bound_of_largest(logits_, (count + kListed - 1) / kListed * kListed, k_, least_, largest_.value());
      size_ = 0;
      for (int64_t i = 0; i < count; i += kWidth<Real>) {  // never writes beyond what was read
        VectorOf<Real> x;
        Codes codes;
        memcpy(&x, logits_ + i, sizeof(x));
        memcpy(&codes, codes_ + i, sizeof(codes));
        append(x, codes);
      }
    }
    pad();
  }

  // Those of a vector's logits that are not below the bound.
  void append(VectorOf<Real> x, Codes codes) {
    uint32_t lanes = negative_lanes(x < least_ ? VectorOf<Real>{} : VectorOf<Real>{} - 1);
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 4) {
      const __mmask16 chosen = static_cast<__mmask16>(lanes);
      _mm512_storeu_ps(logits_ + size_, _mm512_maskz_compress_ps(chosen, (__m512)x));
      _mm512_storeu_si512(codes_ + size_, _mm512_maskz_compress_epi32(chosen, (__m512i)codes));
    } else {
      const __mmask8 chosen = static_cast<__mmask8>(lanes);
      _mm512_storeu_pd(logits_ + size_, _mm512_maskz_compress_pd(chosen, (__m512d)x));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes_ + size_),
                          _mm256_maskz_compress_epi32(chosen, (__m256i)codes));
    }
    size_ += __builtin_popcount(lanes);
#else
    for (; lanes != 0; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      logits_[size_] = x[lane], codes_[size_++] = codes[lane];
    }
#endif
  }

  void pad() {
    for (int64_t i = size_; i % kListed != 0; ++i) logits_[i] = -kInfinity<Real>, codes_[i] = 0;
  }

  const int64_t begin_, k_, limit_;
  Largest<Real> largest_;
  Real least_ = -kInfinity<Real>;
  bool fits_ = true;
  int64_t size_ = 0;
  alignas(64) Real logits_[2 * kMost + kTile + kListed];
  int32_t codes_[2 * kMost + kTile + kListed];
};

}  // namespace visgen::VISGEN_ISA
