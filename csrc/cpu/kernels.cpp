// Chooses an instruction set when the library is loaded.
#include "kernels.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

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

// A set that CMakeLists.txt compiles for these families alone: the others are those of another set.
template <class... Families>
static KernelTable with(KernelTable table, const char* name, const Families&... families) {
  (..., (static_cast<Families&>(table) = families));
  table.name = name;
  return table;
}

VISGEN_TABLE(baseline)
#ifdef VISGEN_HAVE_AVX2
VISGEN_TABLE(avx2)
#endif
#ifdef VISGEN_HAVE_AVX512
VISGEN_TABLE(avx512)
#endif
#ifdef VISGEN_HAVE_AVX512VNNI
namespace avx512vnni {
extern const SearchKernels search_kernels;
static const KernelTable table = with(avx512::table, "avx512vnni", search_kernels);
}  // namespace avx512vnni
#endif
#ifdef VISGEN_HAVE_AVX512BF16
namespace avx512bf16 {
VISGEN_FAMILIES(VISGEN_DECLARE_KERNELS)
static const KernelTable table =
    with(avx512vnni::table, "avx512bf16", diffuse_kernels, modulate_kernels, activate_kernels);
}  // namespace avx512bf16
#endif
#ifdef VISGEN_HAVE_DOTPROD
namespace dotprod {
extern const SearchKernels search_kernels;
static const KernelTable table = with(baseline::table, "dotprod", search_kernels);
}  // namespace dotprod
#endif

// The table of that name, or null if this build or this machine lacks it.
static const KernelTable* find(const char* name) {
#ifdef VISGEN_HAVE_AVX2
  if (!strcmp(name, "avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2::table;
#endif
#ifdef VISGEN_HAVE_AVX512
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!strcmp(name, "avx512") && avx512) return &avx512::table;
#endif
#ifdef VISGEN_HAVE_AVX512VNNI
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (!strcmp(name, "avx512vnni") && vnni) return &avx512vnni::table;
#endif
#ifdef VISGEN_HAVE_AVX512BF16
  if (!strcmp(name, "avx512bf16") && vnni && __builtin_cpu_supports("avx512bf16")) return &avx512bf16::table;
#endif
#ifdef VISGEN_HAVE_DOTPROD
  if (!strcmp(name, "dotprod") && getauxval(AT_HWCAP) & HWCAP_ASIMDDP) return &dotprod::table;
#endif
  return strcmp(name, "baseline") ? nullptr : &baseline::table;
}

#if defined(__aarch64__)
#define VISGEN_NAMES "baseline or dotprod"
#else
#define VISGEN_NAMES "baseline, avx2, avx512, avx512vnni or avx512bf16"
#endif

static const KernelTable* choose() {
  if (const char* wanted = getenv("VISGEN_CPU_CAPABILITY"); wanted && *wanted) {  // empty is as good as unset
    if (const KernelTable* table = find(wanted)) return table;
    fprintf(stderr,
            "visgen_fast: VISGEN_CPU_CAPABILITY must be " VISGEN_NAMES
            " and supported by this machine; %s is ignored.\n",
            wanted);
  }
  for (const char* name : {"avx512bf16", "avx512vnni", "avx512", "avx2", "dotprod"}) {
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
