// Elements of tensors, whose types are read at run time: every thread takes the same branch, so it costs a few
// instructions an access, and one kernel serves all of them.
#pragma once

#include "../common/dtype.h"
#include "../common/math.h"
#include "vec.cuh"

namespace visgen {

// Calls call<what an element is stored as>(): here and nowhere else kernels look at an element type. Not for pixels.
template <class Call>
__device__ __forceinline__ void visit_floating(DType dtype, Call call) {
  switch (dtype) {
    case DType::float16:
      return call.template operator()<Half>();
    case DType::bfloat16:
      return call.template operator()<BFloat16>();
    case DType::float32:
      return call.template operator()<float>();
    default:
      return call.template operator()<double>();
  }
}

// The same for pixels, too.
template <class Call>
__device__ __forceinline__ void visit(DType dtype, Call call) {
  if (dtype == DType::uint8) return call.template operator()<uint8_t>();
  visit_floating(dtype, call);
}

template <class Real>
__device__ __forceinline__ Real decode(uint8_t value) {
  return cuda::pixel_to_unit<Real>(value);
}
template <class Real, class Stored>
__device__ __forceinline__ Real decode(Stored value) {
  return convert<Real>(value);
}

}  // namespace visgen
