#include "search_depth.h"

#include <algorithm>
#include <atomic>

#include "../device.h"

namespace visgen {
namespace {

std::atomic<Filter> first_filter = Filter::int8;

// Bytes that live as long as this: a tensor, so that they come from torch's allocator.
class Memory {
 public:
  Memory(const Tensor& like, int64_t bytes) : tensor_(empty_on(like, {bytes}, ScalarType::Byte)) {}
  template <class T>
  T* as() {
    return static_cast<T*>(tensor_.mutable_data_ptr());
  }

 private:
  Tensor tensor_;
};

class DepthSearch {
 public:
  DepthSearch(const Search& search, const Tensor& like)
      : search_(search),
        call_(*search.call),
        codebooks_(call_.codebooks),
        like_(like),
        table_(kernels()),
        filters_(call_.in_double ? table_.filters_double : table_.filters_float) {}

  void run() {
    if (!worth_filtering()) return exactly();
    Memory scales(like_, codebooks_.codes * sizeof(double));
    const Extent extent = measure(scales.as<double>());
    if (!filterable(extent)) return exactly();
    const int64_t most_tiles = (call_.rows - 1) / kAccumulatorsMost + 1;
    std::vector<uint8_t> taken(most_tiles);
    FilteredSearch filtered;
    filtered.taken = taken.data();
    filtered.rows_of_tile = rows_of_tile();
    filtered.tiles = (call_.rows - 1) / filtered.rows_of_tile + 1;
    for (int filter = next_filter(static_cast<int>(first_filter.load())); filter < 3;
         filter = next_filter(filter + 1)) {
      filtered.may_give_up = next_filter(filter + 1) < 3;
      if (search_with(filter, filtered, extent, scales.as<double>())) return;
    }
  }

 private:
  static constexpr int64_t kAccumulatorsMost = 24;

  bool worth_filtering() const {
    return call_.rows > 4 && codebooks_.codes > 16 && codebooks_.dimensions > 0 && codebooks_.dimensions <= 8192 &&
           first_filter.load() != Filter::exact && next_filter(static_cast<int>(first_filter.load())) < 3;
  }

  // The first filter from this one on that the instruction set has, or 3.
  int next_filter(int filter) const {
    while (filter < 3 && !filters_[filter].pack) ++filter;
    return filter;
  }

  bool filterable(const Extent& extent) const {
    if (extent.value < 0) return false;  // no code is a number
    return !call_.in_double || extent.value == 0 || (extent.value > 0x1p-100 && extent.value < 0x1p+100);
  }

  void exactly() { run_loop(search_, call_.rows, units_of_share(codebooks_.codes * codebooks_.dimensions)); }

  Extent measure(double* scales) {
    constexpr int64_t kCodes = 256;
    const int64_t units = (codebooks_.codes - 1) / kCodes + 1;
    std::vector<Extent> extents(units);
    const auto kernel = call_.in_double ? table_.measure_double : table_.measure_float;
    parallel_for(0, units, 1 + 16384 / codebooks_.dimensions / kCodes, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        extents[unit] = kernel(search_, scales, unit * kCodes, std::min(codebooks_.codes, (unit + 1) * kCodes));
      }
    });
    Extent all;
    for (const Extent& extent : extents) {
      all.value = std::max(all.value, extent.value);
      all.norm = std::max(all.norm, extent.norm);
    }
    return all;
  }

  // Wider groups make fewer largest sums to look through, narrower ones fewer codes to score one by one.
  int64_t group(int64_t accumulators) const {
    if (codebooks_.dimensions > 8 && codebooks_.codes <= 8192) return 2;
    return accumulators == 24 ? 8 : 4;
  }

  // So that the largest sums of a tile stay in the second-level cache.
  int64_t rows_of_tile() const {
    const int64_t bytes_of_row = codebooks_.codes / group(table_.filters_float[2].accumulators) * 4;
    const int64_t rows = std::clamp<int64_t>(262144 / (bytes_of_row + 1), 48, 96);
    const int64_t few = (call_.rows + 7) / 8;
    return (std::min(rows, few) + 23) / 24 * 24;
  }

  // Whether all tiles are done.
  bool search_with(int filter, FilteredSearch& filtered, const Extent& extent, const double* scales) {
    const FilterKernels& kernels = filters_[filter];
    const int64_t dimensions_of_word = 4 >> filter;
    PackedCodebook& packed = filtered.packed;
    packed.search = &search_;
    packed.filter = static_cast<Filter>(filter);
    packed.lanes = kernels.lanes;
    packed.group = group(kernels.accumulators);
    packed.blocks = (codebooks_.codes - 1) / (packed.group * packed.lanes) + 1;
    packed.steps = (codebooks_.dimensions - 1) / dimensions_of_word + 1;
    packed.extent = extent;
    packed.scales = scales;
    set_step(packed);
    const int64_t width = packed.group * packed.lanes;
    Memory words(like_, packed.blocks * packed.steps * width * 4), half_squares(like_, packed.blocks * width * 4);
    packed.words = words.as<void>();
    packed.half_squares = half_squares.as<float>();
    packed.deviation = pack(packed, kernels);
    filtered.rows = filtered.candidates = 0;
    filtered.gave_up = false;
    parallel_for(0, filtered.tiles, 1, [&](int64_t begin, int64_t end) { kernels.search_tiles(filtered, begin, end); });
    return !filtered.gave_up;
  }

  void set_step(PackedCodebook& packed) const {
    packed.step = packed.inverse_step = 1;
    if (packed.filter == Filter::float32) return;
    const double largest = largest_integer(packed.filter, codebooks_.dimensions);
    const double inverse = std::min(largest / packed.extent.value, kLargestInverse);
    packed.inverse_step = call_.in_double ? inverse : static_cast<double>(static_cast<float>(inverse));
    packed.step = 1 / packed.inverse_step;
  }

  Deviation pack(const PackedCodebook& packed, const FilterKernels& kernels) {
    std::vector<Deviation> deviations(packed.blocks);
    const int64_t share = 1 + 16384 / (packed.steps * packed.group * packed.lanes);
    parallel_for(0, packed.blocks, share, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) deviations[block] = kernels.pack(packed, block, block + 1);
    });
    Deviation all;
    for (const Deviation& deviation : deviations) {
      all.error = std::max(all.error, deviation.error);
      all.half_square = std::max(all.half_square, deviation.half_square);
    }
    return all;
  }

  const Search& search_;
  const QuantizeParameters& call_;
  const Codebooks& codebooks_;
  const Tensor& like_;
  const SearchKernels& table_;
  const FilterKernels* filters_;
};

}  // namespace

void search_depth(const Search& search, const Tensor& like) { DepthSearch(search, like).run(); }

}  // namespace visgen

// For tests and benchmarks: 0 to 3, the first of the filters int8, int16 and float32 to be tried, or the exact scan.
// Returns what it was before.
extern "C" __attribute__((visibility("default"))) int visgen_fast_set_first_filter(int filter) {
  return static_cast<int>(visgen::first_filter.exchange(static_cast<visgen::Filter>(filter)));
}
