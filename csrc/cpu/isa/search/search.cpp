// The search for the nearest codes on one instruction set: the exact scan, and the filtered ones (scan.h).
//
// A depth of N rows of D dimensions and K codes takes 2·N·K·D operations, in int8 (AVX-512 VNNI), int16 or float32, and
// 3 to 13 differences and products in float for each dimension of a row, for as many codes scored one by one. In
// memory: rows, residuals and the packed codebook (1, 2 or 4 bytes a dimension) are read once a depth, the latter once
// a tile of 48 to 96 rows from the second- or third-level cache; residuals are written once a depth, into the
// second-level cache where there are few dimensions (../../quantize.cpp). On two threads of Zen 4, N×D, K of 16384×64,
// 1024 / 4096×256, 4096 / 65536×32, 512 / 16384×8, 16384, normal data, as a share of the peak of vpdpbusd (462 Gop/s a
// thread): 56% / 74% / 39% / 48%; of vpmaddwd and vpaddd on AVX2 (188 Gop/s): 69% / 84% / 52% / 48%. The scan alone
// reaches 90% / 99% / 84% / 96% of vpdpbusd's; short scans leave the rest to rounding, choosing and finishing rows, the
// one of 4096 codes of 256 dimensions to scoring codes that come from the third-level cache.
#include "../../kernels.h"
#include "scan.h"

namespace visgen::VISGEN_ISA {
namespace {

// Scores every code in double.
template <Metric metric, class Real>
void search_exactly(const Search& search, int64_t first_row, int64_t last_row) {
  const QuantizeParameters& call = *search.call;
  const int64_t dimensions = call.codebooks.dimensions;
  const Scratch buffer(sizeof(Real) * dimensions);
  for (int64_t row = first_row; row < last_row; ++row) {
    if (!active(call, row, search.depth)) {
      skip_row<Real>(search, row);
      continue;
    }
    const Real* r = residual(search, row, buffer.as<Real>());
    const bool finite = all_finite(r, dimensions);
    Nearest nearest;
    if (finite) {
      consider_codes<metric>(nearest, r, static_cast<const Real*>(search.codebook), 0, call.codebooks.codes,
                             dimensions);
    }
    finish_row(search, row, r, nearest.code < 0 ? 0 : nearest.code, finite);
  }
}

template <class Real>
void search_exactly(const Search& search, int64_t first_row, int64_t last_row) {
  switch (search.call->metric) {
    case Metric::l2:
      return search_exactly<Metric::l2, Real>(search, first_row, last_row);
    case Metric::cosine:
      return search_exactly<Metric::cosine, Real>(search, first_row, last_row);
    case Metric::dot:
      return search_exactly<Metric::dot, Real>(search, first_row, last_row);
  }
}

template <class F, class Real>
constexpr FilterKernels filter() {
  return {pack_blocks<F, Real>, search_tiles<F, Real>, kLanes, kAccumulators};
}

#if defined(VISGEN_INT8_FILTER)
template <class Real>
constexpr FilterKernels kInt8 = filter<Int8, Real>();
#else
template <class Real>
constexpr FilterKernels kInt8 = {};
#endif
#if defined(VISGEN_INT16_FILTER)
template <class Real>
constexpr FilterKernels kInt16 = filter<Int16, Real>();
#else
template <class Real>
constexpr FilterKernels kInt16 = {};
#endif

// In the order of Filter.
constexpr FilterKernels filters_float[3] = {kInt8<float>, kInt16<float>, filter<Float32, float>()};
constexpr FilterKernels filters_double[3] = {kInt8<double>, kInt16<double>, {}};

}  // namespace

const SearchKernels search_kernels = {
    {search_exactly<float>, search_exactly<double>}, measure<float>, measure<double>, filters_float, filters_double};

}  // namespace visgen::VISGEN_ISA
