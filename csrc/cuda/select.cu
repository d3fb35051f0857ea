// The family `select` on a GPU: a block draws the code of one row of logits.
//
// Per logit and pass: 1 load; a draw takes half a word of noise (an eighth of a Philox block), a multiply-add and two
// conversions, which show that all but a few codes cannot win; these get the other bits of their noise, and scores in
// double. The row is read from memory in the first pass, for its largest logit; other passes find it in the cache.
//
// Issue slots an element in the machine code for 9.0 (benchmarks/machine_code): sample_tokens float32 124.6 a logit,
// sample_tokens guided top_k top_p float32 362 a logit.
#include "../ops/select_call.h"

#include "../common/gumbel.h"
#include "tile.cuh"
#include "warp.cuh"

namespace visgen {
namespace {

constexpr int kGroup = 8;  // logits that a thread takes at once: those of one noise block
constexpr int kMostThreads = 1024;

template <class Real>
constexpr Real kInfinity = static_cast<Real>(__builtin_huge_val());

template <class Real, bool wide>
struct Row {
  const DrawParameters& p;
  const Unit unit;  // its codes are numbered as elements of the sample
  const DrawSettings<Real> settings;

  __device__ Row(const DrawParameters& p, int64_t index)
      : p(p), unit(unit_at(p.partition, index)), settings(p, unit.sample) {}

  __device__ int64_t groups_begin() const { return unit.begin / kGroup * kGroup; }

  // u + guidance·(c − u), rounded after each step as PyTorch does it; −∞ where either is, and beyond the row.
  __device__ void load(int64_t begin, Real (&logits)[kGroup]) const {
    load_tile<wide>(p.logits, p.shape, unit.sample, begin, logits);
    if (settings.guided) {
      Real unconditional[kGroup];
      load_tile<wide>(p.unconditional, p.shape, unit.sample, begin, unconditional);
      VISGEN_UNROLL
      for (int i = 0; i < kGroup; ++i) {
        const Real c = logits[i], u = unconditional[i];
        const bool masked = c == -kInfinity<Real> || u == -kInfinity<Real>;
        logits[i] = masked ? -kInfinity<Real> : u + rounded_product(settings.guidance, c - u);
      }
    }
    VISGEN_UNROLL
    for (int i = 0; i < kGroup; ++i) {
      if (begin + i < unit.begin || begin + i >= unit.end) logits[i] = -kInfinity<Real>;
    }
  }

  // Calls body(number of the first, logits) for the thread's groups of the row.
  template <class Body>
  __device__ __forceinline__ void each_group(Body body) const {
    for (int64_t begin = groups_begin() + threadIdx.x * kGroup; begin < unit.end; begin += blockDim.x * kGroup) {
      Real logits[kGroup];
      load(begin, logits);
      body(begin, logits);
    }
  }
};

// The largest logit; NaN or +∞ where one is, −∞ where nothing is finite.
template <class Real, bool wide>
__device__ Real largest_of(const Row<Real, wide>& row) {
  OrderOf<Real> most = 0;
  row.each_group([&](int64_t, const Real(&logits)[kGroup]) {
    VISGEN_UNROLL
    for (int i = 0; i < kGroup; ++i) {
      const OrderOf<Real> order = logits[i] == logits[i] ? order_of(logits[i]) : ~OrderOf<Real>(0);
      most = order > most ? order : most;
    }
  });
  return number_of<Real>(block_max(most, OrderOf<Real>(0)));
}

// The first code of this logit.
template <class Real, bool wide>
__device__ int64_t first_of(const Row<Real, wide>& row, Real logit) {
  int64_t found = row.unit.end;
  row.each_group([&](int64_t begin, const Real(&logits)[kGroup]) {
    for (int i = kGroup - 1; i >= 0; --i) {
      if (logits[i] == logit && begin + i < found) found = begin + i;
    }
  });
  return block_reduce(found, Minimum(), row.unit.end);
}

constexpr int kBins = 2048;

struct Place {
  int bin;
  int64_t rank;  // from the top, within the bin
};

// The bin that holds the k-th from the top; the first warp looks, a lane in each share of the bins.
__device__ __forceinline__ void find_bin(const uint32_t* counts, int64_t k, Place* found) {
  constexpr int kShare = kBins / kWarpSize;
  int bin = kBins - 1 - lane_index() * kShare;
  int64_t own = 0;
  for (int i = 0; i < kShare; ++i) own += counts[bin - i];
  int64_t sum = own;  // from the top to this lane
  for (int delta = 1; delta < kWarpSize; delta *= 2) {
    const int64_t other = shuffle_up(sum, delta);
    if (lane_index() >= delta) sum += other;
  }
  k -= sum - own;
  if (k <= 0 || k > own) return;
  for (; k > counts[bin]; --bin) k -= counts[bin];
  *found = {bin, k};
}

// The k-th largest logit: each pass counts those of a range of numbers in bins, and goes on with one of them.
template <class Real, bool wide>
__device__ Real kth_largest(const Row<Real, wide>& row, int64_t k, Real largest) {
  using Order = OrderOf<Real>;
  VISGEN_SHARED(uint32_t, counts, kBins);
  VISGEN_SHARED(Place, found, 1);
  Order low = order_of(-kInfinity<Real>), high = order_of(largest);
  while (low < high) {
    int shift = 0;
    while (((high - low) >> shift) >= kBins) ++shift;
    for (int i = threadIdx.x; i < kBins; i += blockDim.x) counts[i] = 0;
    sync_block();
    row.each_group([&](int64_t begin, const Real(&logits)[kGroup]) {
      for (int i = 0; i < kGroup; ++i) {
        const Order place = order_of(logits[i]) - low;
        if (place <= high - low && begin + i >= row.unit.begin && begin + i < row.unit.end) {
          atomic_add(&counts[place >> shift], 1u);
        }
      }
    });
    sync_block();
    if (warp_index() == 0) find_bin(counts, k, found);
    sync_block();
    k = found[0].rank;
    const Order first = static_cast<Order>(found[0].bin) << shift, last = first + ((Order(1) << shift) - 1);
    high = last < high - low ? low + last : high;
    low += first;
    sync_block();  // the next pass overwrites what was found
  }
  return number_of<Real>(low);
}

struct Masses {
  double kept, above;
};

// Σ e^{(ℓ − largest)·scale} of the logits from `least` on, and of those above `logit`.
template <class Real, bool wide>
__device__ Masses masses_of(const Row<Real, wide>& row, Real largest, double scale, Real least, Real logit) {
  double kept = 0, above = 0;
  row.each_group([&](int64_t, const Real(&logits)[kGroup]) {
    for (int i = 0; i < kGroup; ++i) {
      if (!(logits[i] >= least) || logits[i] == -kInfinity<Real>) continue;
      const double mass = cuda::exponential((static_cast<double>(logits[i]) - largest) * scale);
      kept += mass;
      if (logits[i] > logit) above += mass;
    }
  });
  return {block_sum(kept), block_sum(above)};
}

// What a thread knows of the best score.
struct Best {
  double score;
  int64_t code;  // −1: nothing was tried yet
};

struct Better {
  __device__ __forceinline__ Best operator()(const Best& a, const Best& b) const {
    const bool first = a.code >= 0 && (b.code < 0 || a.score > b.score || (a.score == b.score && a.code < b.code));
    return first ? a : b;
  }
};

struct Lacking {
  float deficit;
  int thread;
};

struct Less {
  __device__ __forceinline__ Lacking operator()(const Lacking& a, const Lacking& b) const {
    return a.deficit < b.deficit || (a.deficit == b.deficit && a.thread < b.thread) ? a : b;
  }
};

// The argmax of ℓ + t·gumbel of the logits from `least` on, as in cpu/isa/select.cpp, where the bound is explained. A
// thread compares with the best of its own and of a first guess, which all share.
template <class Real, bool wide>
class Draw {
 public:
  __device__ Draw(const Row<Real, wide>& row, Real largest, Real least)
      : row_(row),
        seed_(static_cast<uint64_t>(row.p.seeds[row.unit.sample])),
        t_(row.settings.temperature),
        largest_(largest),
        least_(least) {
    const double slope = 0x1p+23 / 0.693147180559945309417 / t_;
    slope_ = slope < 3e38 ? static_cast<float>(slope) : 3e38f;
    raise(largest - 3.5248 * t_);
  }

  __device__ Best run() {
    VISGEN_SHARED(double, score, 1);
    bool guessed = false;
    for (int64_t first = row_.groups_begin(); first < row_.unit.end; first += blockDim.x * kGroup) {
      const int64_t begin = first + threadIdx.x * kGroup;
      Real logits[kGroup];
      float deficits[kGroup];
      uint32_t leading[kGroup];
      find_deficits(begin, logits, leading, deficits);
      if (!guessed) {
        int at = 0;
        VISGEN_UNROLL
        for (int i = 1; i < kGroup; ++i) at = deficits[i] < deficits[at] ? i : at;
        const int thread = thread_in_block();
        const Lacking least = block_reduce(Lacking{deficits[at], thread}, Less(), Lacking{INFINITY, kMostThreads});
        guessed = least.deficit < INFINITY;
        if (guessed) {
          if (least.thread == thread) {
            try_code(begin + at, logits[at], leading[at]);
            score[0] = best_.score;
          }
          sync_block();
          raise(score[0]);
        }
      }
      VISGEN_NO_UNROLL
      for (int i = 0; i < kGroup; ++i) {
        if (deficits[i] < intercept_) try_code(begin + i, logits[i], leading[i]);
      }
    }
    return block_reduce(best_, Better(), Best{0, -1});
  }

 private:
  // A code cannot win unless its deficit is below the intercept; +∞ for what is not there or not kept.
  __device__ void find_deficits(int64_t begin, Real (&logits)[kGroup], uint32_t (&leading)[kGroup],
                                float (&deficits)[kGroup]) const {
    VISGEN_UNROLL
    for (int i = 0; i < kGroup; ++i) deficits[i] = INFINITY;
    if (begin >= row_.unit.end) return;
    row_.load(begin, logits);
    const auto block = cuda::philox_block(seed_, row_.p.stream, static_cast<uint64_t>(begin) / kGroup);
    VISGEN_UNROLL
    for (int i = 0; i < kGroup; ++i) {
      const uint32_t word = static_cast<uint32_t>(block.word[i / 2]);
      leading[i] = i % 2 == 0 ? word & 0xFFFFu : word >> 16;
      if (!(logits[i] >= least_) || logits[i] == -kInfinity<Real>) continue;
      const int32_t logarithm = cuda::bits_as<int32_t>(static_cast<float>(0xFFFFu - leading[i]));
      deficits[i] = static_cast<float>(logarithm) - static_cast<float>(logits[i] - largest_) * slope_;
    }
  }

  __device__ void try_code(int64_t code, Real logit, uint32_t leading) {
    const uint64_t place = static_cast<uint64_t>(code);
    const auto rest = cuda::philox_block(seed_, cuda::rest_stream(row_.p.stream), place / 4);
    uint32_t low = 0;
    VISGEN_UNROLL
    for (int j = 0; j < 4; ++j) low = place % 4 == static_cast<uint64_t>(j) ? static_cast<uint32_t>(rest.word[j]) : low;
    const Best found{logit + t_ * cuda::gumbel<double>(static_cast<uint64_t>(leading) << 32 | low), code};
    best_ = Better()(best_, found);
    raise(best_.score);
  }

  // The intercept of a score to beat, a little more where it or the deficits were rounded. It never rises.
  __device__ void raise(double score) {
    const double gap = largest_ - score, rounding = 0x1p-50 * (magnitude(largest_) + magnitude(score));
    const double intercept = ((gap + rounding) / t_ / 0.693147180559945309417 + (16 + 127)) * 0x1p+23;
    const double above = intercept + magnitude(intercept) * 0x1p-20 + 1024;
    const float rounded = above < 1e38 ? static_cast<float>(above) : 1e38f;
    intercept_ = rounded < intercept_ ? rounded : intercept_;
  }
  static __device__ double magnitude(double x) { return x < 0 ? -x : x; }

  const Row<Real, wide>& row_;
  const uint64_t seed_;
  const double t_;
  const Real largest_, least_;
  float slope_, intercept_ = INFINITY;
  Best best_{0, -1};
};

// The logit of a code, by which all threads go on.
template <class Real, bool wide>
__device__ Real logit_at(const Row<Real, wide>& row, int64_t code) {
  Real logits[kGroup], found = 0;
  row.load(code / kGroup * kGroup, logits);
  VISGEN_UNROLL
  for (int i = 0; i < kGroup; ++i) found = code % kGroup == i ? logits[i] : found;
  return found;
}

// One draw after the other, each among the logits above the last one, until less than top_p lies above: its code then
// is the argmax of those that top-p keeps, for all that is lower was ruled out with the codes before.
template <class Real, bool wide>
__device__ int64_t draw_code(const Row<Real, wide>& row, Real largest, Real& logit) {
  const auto& settings = row.settings;
  logit = largest;
  if (settings.temperature == 0) return first_of(row, largest);
  const double scale = 1 / (settings.temperature > 1e-300 ? settings.temperature : 1e-300);
  const Real kept = settings.top_k < row.p.codes ? kth_largest(row, settings.top_k, largest) : -kInfinity<Real>;
  for (Real least = kept;; least = next_above(logit)) {
    const int64_t code = Draw<Real, wide>(row, largest, least).run().code;
    logit = logit_at(row, code);
    if (settings.top_p == 1 || logit == largest) return code;
    const Masses masses = masses_of(row, largest, scale, kept, logit);
    if (masses.above / masses.kept < settings.top_p) return code;
  }
}

template <class Real, bool wide>
__global__ void __launch_bounds__(kMostThreads) draw_rows(DrawParameters p) {
  const int64_t index = blockIdx.x;
  const Row<Real, wide> row(p, index);
  const Real largest = largest_of(row);
  const bool bad = row.settings.bad || !(largest - largest == 0);
  Real logit = largest;
  const int64_t code = bad ? -1 : draw_code(row, largest, logit) - row.unit.begin;
  if (threadIdx.x == 0) p.drawn[index] = code;
  if (!p.log_probability) return;
  double found = NAN;
  if (!bad) {
    const double mass = masses_of(row, largest, 1, -kInfinity<Real>, largest).kept;
    found = (static_cast<double>(logit) - largest) - ::log(mass);
  }
  if (threadIdx.x == 0) p.log_probability[index] = static_cast<float>(found);
}

bool has_wide_groups(const DrawParameters& p, const Operand& operand) {
  return !operand.data || (p.codes % kGroup == 0 && is_wide(operand, p.shape, kGroup));
}

struct Select {
  static void run(DrawParameters p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    p.partition = rows_of(p);
    unsigned threads = kWarpSize;
    while (threads < kMostThreads && threads * kGroup < p.codes) threads *= 2;
    const LaunchShape shape{dim3(static_cast<unsigned>(p.partition.units())), dim3(threads)};
    if (p.in_double) return launch<draw_rows<double, false>>(shape, on.stream, p);
    const bool wide = has_wide_groups(p, p.logits) && has_wide_groups(p, p.unconditional);
    wide ? launch<draw_rows<float, true>>(shape, on.stream, p) : launch<draw_rows<float, false>>(shape, on.stream, p);
  }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { SelectOperations<Select>::add_to(m); }

}  // namespace visgen
