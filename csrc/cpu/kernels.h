// The kernels of one instruction set, family by family, and the choice among the sets this machine can run.
//
// A new family adds its struct here, one line in KernelTable, and its table in cpu/isa/<family>.cpp.
#pragma once

#include "../common/layout.h"

namespace visgen {

struct NoiseParameters;
struct DiffuseParameters;
struct QuantizeBackwardParameters;
struct Search;
struct Extent;
struct Deviation;
struct PackedCodebook;
struct FilteredSearch;
struct Embedding;
struct CodeSums;
template <class Real>
struct FiniteScalarRows;
struct BinaryParameters;

// Each kernel works through units [first_unit, last_unit) of its parameters' partition.
struct NoiseKernels {
  using Kernel = void (*)(const NoiseParameters&, int64_t first_unit, int64_t last_unit);
  Kernel gaussian_float, gaussian_double, uniform_float, uniform_double;
};

struct DiffuseKernels {
  using Kernel = void (*)(const DiffuseParameters&, int64_t first_unit, int64_t last_unit);
  Kernel forward_float, forward_double, backward_float, backward_double;
};

struct FilterKernels {  // of one filter and arithmetic type; null where the instruction set has no such filter
  using Pack = Deviation (*)(const PackedCodebook&, int64_t first_block, int64_t last_block);
  using SearchTiles = void (*)(FilteredSearch&, int64_t first_tile, int64_t last_tile);
  Pack pack = nullptr;
  SearchTiles search_tiles = nullptr;
  int64_t lanes = 0, accumulators = 0;
};

struct SearchKernels {
  using Measure = Extent (*)(const Search&, double* scales, int64_t first_code, int64_t last_code);
  using SearchKernel = void (*)(const Search&, int64_t first_row, int64_t last_row);
  const FilterKernels (&filters_float)[3];
  const FilterKernels (&filters_double)[3];
  Measure measure_float, measure_double;
  SearchKernel search_exactly_float, search_exactly_double;
};

struct QuantizeKernels {
  using EmbedKernel = void (*)(const Embedding&, int64_t first_row, int64_t last_row);
  using BackwardKernel = void (*)(const QuantizeBackwardParameters&, int64_t first_row, int64_t last_row);
  EmbedKernel embed_float, embed_double;
  BackwardKernel backward_float, backward_double;
};

struct CodebookKernels {
  using SumChunks = void (*)(const CodeSums&, int64_t first_chunk, int64_t last_chunk);
  using SumEdges = void (*)(const CodeSums&);
  SumChunks sum_chunks_float, sum_chunks_double;
  SumEdges sum_edges_float, sum_edges_double;
};

struct FiniteScalarKernels {
  using Kernel = void (*)(const FiniteScalarRows<double>&, int64_t first_unit, int64_t last_unit);
  Kernel quantize_float, quantize_double, backward_float, backward_double, decode;
};

struct BinaryQuantizeKernels {
  using Kernel = void (*)(const BinaryParameters&, int64_t first_unit, int64_t last_unit);
  Kernel quantize_float, quantize_double, backward_float, backward_double, decode;
};

struct KernelTable {
  const char* name;
  const NoiseKernels& noise;
  const DiffuseKernels& diffuse;
  const SearchKernels& search;
  const QuantizeKernels& quantize;
  const CodebookKernels& codebook;
  const FiniteScalarKernels& finite_scalar;
  const BinaryQuantizeKernels& binary_quantize;
};

// The widest instruction set that the build and the machine have, or what VISGEN_CPU_CAPABILITY names.
const KernelTable& kernels();

// Throws, for kernels, which are compiled without exceptions. Torch hands it from a thread of its pool to the caller;
// what other memory the kernel holds is lost.
[[noreturn]] void no_memory_for(int64_t bytes);

constexpr int64_t kUnit = 16384;  // elements; several units make a thread's share

}  // namespace visgen
