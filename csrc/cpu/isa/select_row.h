// A row of guided logits, a tile at a time.
#pragma once

#include "../../ops/select.h"

#include "block.h"
#include "tile.h"

namespace visgen::VISGEN_ISA {

template <class Real>
using VectorOf = typename Block<Real, 1>::Vector;
template <class Real>
constexpr int kWidth = kVectorBytes / sizeof(Real);
constexpr int kListed = kDoubles * WideVectors::kCount;  // codes whose noise blocks are made together
template <class Real>
constexpr Real kInfinity = static_cast<Real>(__builtin_inf());

// u + guidance·(c − u), rounded after each step as PyTorch does it; −∞ where either is.
template <class Value, class Real>
VISGEN_HOST_DEVICE Value guided(Value c, Value u, Real guidance) {
  Value scaled = (Value{} + guidance) * (c - u);
#if defined(__x86_64__)
  asm("" : "+x"(scaled));  // no compiler may contract the product with the sum
#elif defined(__aarch64__)
  asm("" : "+w"(scaled));
#endif
  const Value masked = Value{} - kInfinity<Real>, sum = u + scaled;
  return c == masked ? masked : u == masked ? masked : sum;
}

template <class Real>
void guide(const Real* conditional, const Real* unconditional, Real guidance, int64_t count, Real* out) {
  int64_t i = 0;
  for (; i + kWidth<Real> <= count; i += kWidth<Real>) {
    VectorOf<Real> c, u;
    memcpy(&c, conditional + i, sizeof(c));
    memcpy(&u, unconditional + i, sizeof(u));
    const VectorOf<Real> logits = guided(c, u, guidance);
    memcpy(out + i, &logits, sizeof(logits));
  }
  for (; i < count; ++i) out[i] = guided(conditional[i], unconditional[i], guidance);
}

// Whole vectors of logits, of codes that follow one another or are listed; −∞ stands where there is none.
template <class Real>
struct Tile {
  const Real* logits;
  int64_t count, begin;  // the code of the first, or what is added to those listed
  const int32_t* listed;

  int64_t code_at(int64_t i) const { return begin + (listed ? listed[i] : i); }
};

// The guided logits of one row. Codes are numbered as elements of the sample.
template <class Real>
class Row {
 public:
  Row(const DrawParameters& p, int64_t index)
      : p(p),
        unit(unit_at(p.partition, index)),
        settings(p, unit.sample),
        seed(static_cast<uint64_t>(p.seeds[unit.sample])) {}

  // Calls body(tile) for tiles of which all but the first begin where a block of noise does.
  template <class Body>
  void each_tile(Body body) const {
    alignas(64) Real buffer[kTile], other[kTile];
    for (int64_t begin = unit.begin, count; begin < unit.end; begin += count) {
      count = kTile - begin % kTile;
      count = count < unit.end - begin ? count : unit.end - begin;
      const Real* logits = load_tile(p.logits, p.shape, unit.sample, begin, count, buffer);
      if (settings.guided) {
        const Real* unconditional = load_tile(p.unconditional, p.shape, unit.sample, begin, count, other);
        guide(logits, unconditional, settings.guidance, count, buffer);
        logits = buffer;
      }
      const int64_t whole = (count + kLanes - 1) / kLanes * kLanes;
      if (whole > count) {
        if (logits != buffer) memcpy(buffer, logits, sizeof(Real) * count);
        for (int64_t i = count; i < whole; ++i) buffer[i] = -kInfinity<Real>;
        logits = buffer;
      }
      body(Tile<Real>{logits, whole, begin, nullptr});
    }
  }

  const DrawParameters& p;
  const Unit unit;
  const DrawSettings<Real> settings;
  const uint64_t seed;
};

// Bit l: whether lane l is negative.
VISGEN_HOST_DEVICE uint32_t negative_lanes(FloatVector x) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)x);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)x));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)x));
#elif defined(__aarch64__)
  return lane_bits((IntVector)x >> 31);
#else
  uint32_t lanes = 0;
  for (int lane = 0; lane < kLanes; ++lane) lanes |= static_cast<uint32_t>(x[lane] < 0) << lane;
  return lanes;
#endif
}

VISGEN_HOST_DEVICE uint32_t negative_lanes(DoubleVector x) {
#if defined(__AVX512F__)
  return _mm512_movepi64_mask((__m512i)x);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_pd((__m256d)x));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_pd((__m128d)x));
#else
  uint32_t lanes = 0;
  for (int lane = 0; lane < kDoubles; ++lane) lanes |= static_cast<uint32_t>(x[lane] < 0) << lane;
  return lanes;
#endif
}

// Learns the largest logit of a row.
template <class Real>
class Largest {
 public:
  void look_at(const Tile<Real>& tile) {
    const Bits magnitude = (Bits{} - 1) ^ (Bits)(-VectorOf<Real>{});
    for (int64_t i = 0; i < tile.count; i += kWidth<Real>) {
      VectorOf<Real> x;
      memcpy(&x, tile.logits + i, sizeof(x));
      const Bits bits = (Bits)x & magnitude;
      farthest_ = bits > farthest_ ? bits : farthest_;
      most_ = x > most_ ? x : most_;
    }
  }

  // NaN of a row that has NaN or +∞, or nothing finite.
  Real value() const {
    const VectorOf<Real> farthest = (VectorOf<Real>)farthest_;
    Real largest = most_[0];
    bool bad = false;
    for (int lane = 0; lane < kWidth<Real>; ++lane) {
      largest = most_[lane] > largest ? most_[lane] : largest;
      bad = bad || farthest[lane] != farthest[lane];
    }
    bad = bad || largest == kInfinity<Real> || largest == -kInfinity<Real>;
    return bad ? static_cast<Real>(__builtin_nan("")) : largest;
  }

 private:
  using Bits = decltype(VectorOf<Real>{} < VectorOf<Real>{});
  VectorOf<Real> most_ = VectorOf<Real>{} - kInfinity<Real>;
  Bits farthest_{};  // as integers, NaN is larger than infinity
};

template <class Real>
Real largest_of(const Row<Real>& row) {
  Largest<Real> largest;
  row.each_tile([&](const Tile<Real>& tile) { largest.look_at(tile); });
  return largest.value();
}

}  // namespace visgen::VISGEN_ISA
