// The kernels of one instruction set, family by family, and the choice among the sets this machine can run.
//
// A new family adds one line to VISGEN_FAMILIES, and defines <family>_kernels in cpu/isa/<family>.cpp.
#pragma once

#include <cstdint>

#include "../common/isa.h"

namespace visgen {

// Works through units [first, last) of what the parameters describe, in either type of arithmetic.
template <class Parameters>
struct Loop {
  void (*in_float)(const Parameters&, int64_t first, int64_t last);
  void (*in_double)(const Parameters&, int64_t first, int64_t last);
};

// A loop for each struct of parameters of a family.
template <class... Parameters>
struct Loops : Loop<Parameters>... {};

#define VISGEN_FAMILIES(FAMILY)                                                                          \
  FAMILY(noise, Loops<struct NoiseParameters>)                                                           \
  FAMILY(diffuse, Loops<struct DiffuseParameters, struct DiffuseBackwardParameters>)                     \
  FAMILY(multiscale, Loops<struct MultiscaleParameters, struct ScaledGradientParameters>)                \
  FAMILY(modulate, Loops<struct ModulateParameters, struct ModulateBackwardParameters>)                  \
  FAMILY(activate, Loops<struct ActivateParameters, struct ActivateBackwardParameters>)                  \
  FAMILY(operand_rows, Loops<struct SharedGradient>)                                                     \
  FAMILY(search, SearchKernels)                                                                          \
  FAMILY(quantize, Loops<struct Embedding, struct QuantizeBackwardParameters>)                           \
  FAMILY(codebook, Loops<struct RealRows, struct ChunkSums, struct EdgeSums>)                            \
  FAMILY(finite_scalar, Loops<struct FiniteScalarParameters, struct FiniteScalarBackwardParameters,      \
                              struct FiniteScalarDecodeParameters>)                                      \
  FAMILY(binary_quantize,                                                                                \
         Loops<struct BinaryParameters, struct BinaryBackwardParameters, struct BinaryDecodeParameters>) \
  FAMILY(solve, Loops<struct StepParameters, struct ProductsParameters, struct QuantileParameters>)      \
  FAMILY(optimize, Loops<struct AdamWParameters, struct GradientNormParameters>)                         \
  FAMILY(linear, Loops<struct LinearParameters>)                                                         \
  FAMILY(select, Loops<struct DrawParameters>)

struct FilterKernels {  // of one filter and arithmetic type; null where the instruction set has no such filter
  using Pack = struct Deviation (*)(const struct PackedCodebook&, int64_t first_block, int64_t last_block);
  using SearchTiles = void (*)(struct FilteredSearch&, int64_t first_tile, int64_t last_tile);
  Pack pack = nullptr;
  SearchTiles search_tiles = nullptr;
  int64_t lanes = 0, accumulators = 0;
};

struct SearchKernels : Loop<struct Search> {  // the loop looks at every code
  using Measure = struct Extent (*)(const Search&, double* scales, int64_t first_code, int64_t last_code);
  Measure measure_float, measure_double;
  const FilterKernels* filters_float;  // in the order of Filter
  const FilterKernels* filters_double;
};

struct InstructionSet {
  const char* name;
};

// Every family is a base, so that a loop is found by its parameters: `const Loop<NoiseParameters>& loop = kernels();`
#define VISGEN_BASE(family, ...) __VA_ARGS__,
struct KernelTable : VISGEN_FAMILIES(VISGEN_BASE) InstructionSet {};
#undef VISGEN_BASE

// What the sources of an instruction set define.
#define VISGEN_DECLARE_KERNELS(family, ...) extern const __VA_ARGS__ family##_kernels;
namespace VISGEN_ISA {
VISGEN_FAMILIES(VISGEN_DECLARE_KERNELS)
}

// The widest instruction set that the build and the machine have, or what VISGEN_CPU_CAPABILITY names.
const KernelTable& kernels();

// Throws, for kernels, which are compiled without exceptions. Torch hands it from a thread of its pool to the caller;
// what other memory the kernel holds is lost.
[[noreturn]] void no_memory_for(int64_t bytes);

}  // namespace visgen
