// Chooses an instruction set when the library is loaded.
#include "kernels.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace visgen {

#define VISGEN_DECLARE(isa)                                   \
  namespace isa {                                             \
  extern const NoiseKernels noise_kernels;                    \
  extern const DiffuseKernels diffuse_kernels;                \
  extern const SearchKernels search_kernels;                  \
  extern const QuantizeKernels quantize_kernels;              \
  extern const CodebookKernels codebook_kernels;              \
  extern const FiniteScalarKernels finite_scalar_kernels;     \
  extern const BinaryQuantizeKernels binary_quantize_kernels; \
  }
#define VISGEN_TABLE(isa)                                                                                              \
  static const KernelTable isa##_table {                                                                               \
    #isa, isa::noise_kernels, isa::diffuse_kernels, isa::search_kernels, isa::quantize_kernels, isa::codebook_kernels, \
        isa::finite_scalar_kernels, isa::binary_quantize_kernels                                                       \
  }

VISGEN_DECLARE(baseline)
VISGEN_TABLE(baseline);
#ifdef VISGEN_HAVE_AVX2
VISGEN_DECLARE(avx2)
VISGEN_TABLE(avx2);
#endif
#ifdef VISGEN_HAVE_AVX512
VISGEN_DECLARE(avx512)
VISGEN_TABLE(avx512);
#endif
#ifdef VISGEN_HAVE_AVX512VNNI
VISGEN_DECLARE(avx512vnni)
VISGEN_TABLE(avx512vnni);
#endif

// The table of that name, or null if this build or this machine lacks it.
static const KernelTable* find(const char* name) {
#ifdef VISGEN_HAVE_AVX512
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!strcmp(name, "avx512") && avx512) return &avx512_table;
#endif
#ifdef VISGEN_HAVE_AVX512VNNI
  if (!strcmp(name, "avx512vnni") && avx512 && __builtin_cpu_supports("avx512vnni")) return &avx512vnni_table;
#endif
#ifdef VISGEN_HAVE_AVX2
  if (!strcmp(name, "avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2_table;
#endif
  return strcmp(name, "baseline") ? nullptr : &baseline_table;
}

static const KernelTable* choose() {
  if (const char* wanted = getenv("VISGEN_CPU_CAPABILITY")) {
    if (const KernelTable* table = find(wanted)) return table;
    fprintf(stderr,
            "visgen_fast: VISGEN_CPU_CAPABILITY must be baseline, avx2, avx512 or avx512vnni and supported by this "
            "machine, got "
            "%s; ignored\n",
            wanted);
  }
  for (const char* name : {"avx512vnni", "avx512", "avx2"}) {
    if (const KernelTable* table = find(name)) return table;
  }
  return &baseline_table;
}

static const KernelTable* current = choose();

const KernelTable& kernels() { return *current; }

void no_memory_for(int64_t bytes) {
  throw std::runtime_error("visgen_fast: there is no memory for " + std::to_string(bytes) +
                           " bytes that a kernel works in");
}

}  // namespace visgen

#define VISGEN_EXPORT extern "C" __attribute__((visibility("default")))

VISGEN_EXPORT const char* visgen_fast_cpu_capability() { return visgen::kernels().name; }

// For tests and benchmarks that compare instruction sets in one run; 0 if the machine or the build lacks `name`.
VISGEN_EXPORT int visgen_fast_set_cpu_capability(const char* name) {
  const visgen::KernelTable* table = visgen::find(name);
  if (table) visgen::current = table;
  return table != nullptr;
}
