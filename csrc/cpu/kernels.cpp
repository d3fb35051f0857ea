// Chooses an instruction set when the library is loaded.
#include "kernels.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace visgen {

#define VISGEN_KERNELS(family, ...) family##_kernels,
#define VISGEN_TABLE(isa)                                                \
  namespace isa {                                                        \
  VISGEN_FAMILIES(VISGEN_DECLARE_KERNELS)                                \
  static const KernelTable table{VISGEN_FAMILIES(VISGEN_KERNELS){#isa}}; \
  }

VISGEN_TABLE(baseline)
#ifdef VISGEN_HAVE_AVX2
VISGEN_TABLE(avx2)
#endif
#ifdef VISGEN_HAVE_AVX512
VISGEN_TABLE(avx512)
#endif
#ifdef VISGEN_HAVE_AVX512VNNI
VISGEN_TABLE(avx512vnni)
#endif

// The table of that name, or null if this build or this machine lacks it.
static const KernelTable* find(const char* name) {
#ifdef VISGEN_HAVE_AVX512
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!strcmp(name, "avx512") && avx512) return &avx512::table;
#endif
#ifdef VISGEN_HAVE_AVX512VNNI
  if (!strcmp(name, "avx512vnni") && avx512 && __builtin_cpu_supports("avx512vnni")) return &avx512vnni::table;
#endif
#ifdef VISGEN_HAVE_AVX2
  if (!strcmp(name, "avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2::table;
#endif
  return strcmp(name, "baseline") ? nullptr : &baseline::table;
}

static const KernelTable* choose() {
  if (const char* wanted = getenv("VISGEN_CPU_CAPABILITY"); wanted && *wanted) {  // empty is as good as unset
    if (const KernelTable* table = find(wanted)) return table;
    fprintf(stderr,
            "visgen_fast: VISGEN_CPU_CAPABILITY must be baseline, avx2, avx512 or avx512vnni and supported by this "
            "machine; %s is ignored.\n",
            wanted);
  }
  for (const char* name : {"avx512vnni", "avx512", "avx2"}) {
    if (const KernelTable* table = find(name)) return table;
  }
  return &baseline::table;
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
