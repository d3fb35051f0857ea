// The one place that says under which name and for which device a library's operations are registered.
//
// The CUDA sources compiled for the host (tests only) register as an operator library of their own, for CPU tensors.
#pragma once

#include <torch/csrc/stable/library.h>

namespace visgen {
using Library = torch::stable::detail::StableLibrary;
}

#ifdef VISGEN_CUDA_ON_HOST
#define VISGEN_SCHEMAS(m) STABLE_TORCH_LIBRARY(visgen_fast_cuda_on_host, m)
#define VISGEN_REGISTER(device, m) STABLE_TORCH_LIBRARY_IMPL(visgen_fast_cuda_on_host, CPU, m)
#else
#define VISGEN_SCHEMAS(m) STABLE_TORCH_LIBRARY(visgen_fast, m)
#define VISGEN_REGISTER(device, m) STABLE_TORCH_LIBRARY_IMPL(visgen_fast, device, m)
#endif
