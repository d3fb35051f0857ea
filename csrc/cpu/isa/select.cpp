// The family `select` on one instruction set: a code drawn from each row of logits.
//
// Nothing is sorted, and nothing of a row's size is kept: passes over the row, which stays in the cache, make the
// guided logits anew. A draw takes, per logit, half a word of noise, a multiply-add and two conversions, which show
// that all but a few codes cannot win; these get the other bits of their noise, and scores in double.
#include "../kernels.h"
#include "select_draw.h"
#include "select_kept.h"

namespace visgen::VISGEN_ISA {
namespace {

// The first code of this logit.
template <class Real>
int64_t first_of(const Row<Real>& row, Real logit) {
  int64_t found = row.unit.end;
  row.each_tile([&](const Tile<Real>& tile) {
    for (int64_t i = 0; i < tile.count && found == row.unit.end; ++i) {
      if (tile.logits[i] == logit) found = tile.begin + i;
    }
  });
  return found;
}

// e^x to 1 unit in the last place, of x up to 0; what would be no normal number is a tiny one.
VISGEN_HOST_DEVICE DoubleVector exponential_of(DoubleVector x) {
  x = x < -708.0 ? DoubleVector{} - 708.0 : x;
  const DoubleVector shifted = x * 0x1.71547652b82fep+0 + 0x1.8p+52;  // the last bits are x / ln 2, rounded
  const DoubleVector count = shifted - 0x1.8p+52;
  const DoubleVector rest = (x - count * 0x1.62e42feep-1) - count * 0x1.a39ef35793c76p-33;
  DoubleVector p = 2.500005660352282e-08 * rest + 2.763024833574069e-07;  // the largest relative error is 3.6e-18
  p = p * rest + 2.7557588386430905e-06;
  p = p * rest + 2.4801493099031572e-05;
  p = p * rest + 0.00019841269506564;
  p = p * rest + 0.0013888888943629988;
  p = p * rest + 0.008333333333494468;
  p = p * rest + 0.04166666666653016;
  p = p * rest + 0.16666666666666413;
  p = p * rest + 0.5000000000000011;
  p = (p * rest) * rest + rest + 1.0;
  return (DoubleVector)((WideVector)p + ((WideVector)shifted << 52));
}

struct Masses {
  double kept, above;
};

// Σ e^{(ℓ − largest)·scale} of the logits from `least` on, and of those above `logit`.
template <class Source, class Real>
Masses masses_of(const Source& source, double largest, double scale, Real least, Real logit) {
  typedef Real Reals __attribute__((vector_size(sizeof(Real) * kDoubles)));
  DoubleVector kept{}, above{};
  source.each_tile([&](const Tile<Real>& tile) {
    for (int64_t i = 0; i < tile.count; i += kDoubles) {
      Reals x;
      memcpy(&x, tile.logits + i, sizeof(x));
      const DoubleVector value = __builtin_convertvector(x, DoubleVector);
      const DoubleVector mass = exponential_of((value - largest) * scale);
      kept += value >= static_cast<double>(least) ? mass : DoubleVector{};
      above += value > static_cast<double>(logit) ? mass : DoubleVector{};
    }
  });
  Masses result{};
  for (int lane = 0; lane < kDoubles; ++lane) result.kept += kept[lane], result.above += above[lane];
  return result;
}

struct Drawn {
  int64_t code;
  double logit, largest;
};

// One draw after the other from the logits that top-k keeps, those of `source` from `kept` on, each among the logits
// above the last one, until less than top_p lies above: its code then is the argmax of those that top-p keeps, for all
// that is lower was ruled out with the codes before.
template <class Real, class Source>
Drawn draw_kept(const Row<Real>& row, const Source& source, Real largest, Real kept) {
  const double t = row.settings.temperature, scale = 1 / (t > 1e-300 ? t : 1e-300);
  for (Real least = kept;;) {
    const Draw<Real> draw(row, source, largest, least);
    const Drawn drawn{draw.code(), static_cast<double>(draw.logit()), static_cast<double>(largest)};
    if (row.settings.top_p == 1 || draw.logit() == largest) return drawn;
    const Masses masses = masses_of(source, drawn.largest, scale, kept, draw.logit());
    if (masses.above / masses.kept < row.settings.top_p) return drawn;
    least = next_above(draw.logit());
  }
}

// A code of −1 for a bad row.
template <class Real>
Drawn draw_code(const Row<Real>& row) {
  const auto& settings = row.settings;
  const bool filtered = settings.top_k < row.p.codes && settings.temperature > 0;
  if (settings.bad) return {-1, 0, 0};
  if (filtered && settings.top_k <= Kept<Real>::kMost && row.p.codes <= INT32_MAX) {
    const Kept<Real> kept(row, settings.top_k);
    const Real largest = kept.largest();
    if (largest != largest) return {-1, 0, 0};
    if (kept.fits()) return draw_kept(row, kept, largest, -kInfinity<Real>);
  }
  const Real largest = largest_of(row);
  if (largest != largest) return {-1, 0, 0};
  if (settings.temperature == 0)
    return {first_of(row, largest), static_cast<double>(largest), static_cast<double>(largest)};
  return draw_kept(row, row, largest, filtered ? kth_largest(row, settings.top_k, largest) : -kInfinity<Real>);
}

template <class Real>
void draw_rows(const DrawParameters& p, int64_t first_row, int64_t last_row) {
  for (int64_t index = first_row; index < last_row; ++index) {
    const Row<Real> row(p, index);
    const auto [code, logit, largest] = draw_code(row);
    p.drawn[index] = code < 0 ? -1 : code - row.unit.begin;
    if (!p.log_probability) continue;
    double found = __builtin_nan("");
    if (code >= 0) found = logit - largest - ::log(masses_of(row, largest, 1, -kInfinity<Real>, kInfinity<Real>).kept);
    p.log_probability[index] = static_cast<float>(found);
  }
}

}  // namespace

const Loops<DrawParameters> select_kernels = {{draw_rows<float>, draw_rows<double>}};

}  // namespace visgen::VISGEN_ISA
