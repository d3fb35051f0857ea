// The family `optimize` on a GPU.
//
// A step, per element: parameter, gradient, both moments and the average read once, all but the gradient written once:
// 36 bytes in float32, 28 without an average; 14 multiply-adds, a root and a division. The norm reads the gradient
// once: 4 bytes and a multiply-add in double. A block takes a chunk of one tensor; a launch takes as many tensors as
// fit its arguments, so that nothing is copied to the device and a CUDA graph can hold it.
#include "../ops/optimize_call.h"

#include "elements.cuh"
#include "warp.cuh"

namespace visgen {
namespace {

constexpr int kSpan = 4;                           // elements that a thread moves at a time
constexpr int kChunk = 4 * kSpan * kBlockThreads;  // elements of a block
constexpr int kMostTensors = 56;                   // of a launch, whose arguments may take 4 KB

struct Share {
  Optimized tensors[kMostTensors];
  int64_t elements[kMostTensors];
  int first_block[kMostTensors + 1];
  int count = 0;
  DType dtypes[kStates];
};
static_assert(sizeof(Share) + sizeof(AdamWParameters) <= 4096);

// A block's chunk of a tensor.
struct Chunk {
  const Optimized* tensor;
  int64_t begin, elements;  // of the tensor
};

__device__ __forceinline__ Chunk chunk_of(const Share& share) {
  const int block = static_cast<int>(blockIdx.x);
  int low = 0, high = share.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (share.first_block[middle] <= block ? low : high) = middle;
  }
  return {&share.tensors[low], static_cast<int64_t>(block - share.first_block[low]) * kChunk, share.elements[low]};
}

template <class Real>
__device__ __forceinline__ void load(const void* data, DType dtype, int64_t begin, int64_t elements,
                                     Real (&out)[kSpan]) {
  visit_floating(dtype, [&]<class Stored>() {
    const Stored* address = static_cast<const Stored*>(data) + begin;
    const bool whole = begin + kSpan <= elements && is_vec_aligned<kSpan>(address);
    const Vec<Stored, kSpan> values =
        whole ? load_vec<kSpan>(address) : load_tail<kSpan>(address, elements - begin, Stored(0));
    VISGEN_UNROLL
    for (int i = 0; i < kSpan; ++i) out[i] = decode<Real>(values[i]);
  });
}

// Leaves in `in` what memory then holds.
template <class Real>
__device__ __forceinline__ void store(void* data, DType dtype, int64_t begin, int64_t elements, Real (&in)[kSpan]) {
  visit_floating(dtype, [&]<class Stored>() {
    Stored* address = static_cast<Stored*>(data) + begin;
    Vec<Stored, kSpan> values;
    VISGEN_UNROLL
    for (int i = 0; i < kSpan; ++i) {
      values[i] = convert<Stored>(in[i]);
      in[i] = decode<Real>(values[i]);
    }
    if (begin + kSpan <= elements && is_vec_aligned<kSpan>(address)) {
      store_vec(address, values);
    } else {
      store_tail(address, elements - begin, values);
    }
  });
}

__global__ void derive(const AdamWNumbers* numbers, AdamWFactors* factors) { *factors = AdamWFactors(*numbers); }

template <class Real>
__global__ void __launch_bounds__(kBlockThreads) move(Share share, AdamWFactors given, const AdamWFactors* made) {
  const AdamWFactors factors = made ? *made : given;
  if (factors.leaves_out()) return;
  const AdamWStep<Real> step(factors);
  const Chunk chunk = chunk_of(share);
  VISGEN_NO_UNROLL
  for (int64_t at = threadIdx.x * kSpan; at < kChunk; at += kBlockThreads * kSpan) {
    const int64_t begin = chunk.begin + at, elements = chunk.elements;
    if (begin >= elements) return;
    Real value[kStates][kSpan];
    for (int state = 0; state < kStates; ++state) {
      if (chunk.tensor->data[state])
        load(chunk.tensor->data[state], share.dtypes[state], begin, elements, value[state]);
    }
    VISGEN_UNROLL
    for (int i = 0; i < kSpan; ++i) {
      step.move(value[kParameter][i], value[kGradient][i], value[kMean][i], value[kSquare][i]);
    }
    store(chunk.tensor->data[kParameter], share.dtypes[kParameter], begin, elements, value[kParameter]);
    store(chunk.tensor->data[kMean], share.dtypes[kMean], begin, elements, value[kMean]);
    store(chunk.tensor->data[kSquare], share.dtypes[kSquare], begin, elements, value[kSquare]);
    if (!chunk.tensor->data[kAverage]) continue;
    // The average follows the parameter as it is stored.
    VISGEN_UNROLL
    for (int i = 0; i < kSpan; ++i) step.follow(value[kAverage][i], value[kParameter][i]);
    store(chunk.tensor->data[kAverage], share.dtypes[kAverage], begin, elements, value[kAverage]);
  }
}

template <class Real>
__global__ void __launch_bounds__(kBlockThreads) add_squares(Share share, double* partial_sums) {
  const Chunk chunk = chunk_of(share);
  double sum = 0;
  VISGEN_NO_UNROLL
  for (int64_t at = threadIdx.x * kSpan; at < kChunk; at += kBlockThreads * kSpan) {
    const int64_t begin = chunk.begin + at;
    if (begin >= chunk.elements) break;
    Real value[kSpan];
    load(chunk.tensor->data[kGradient], share.dtypes[kGradient], begin, chunk.elements, value);
    VISGEN_UNROLL
    for (int i = 0; i < kSpan; ++i) sum += static_cast<double>(value[i]) * static_cast<double>(value[i]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial_sums[blockIdx.x] = sum;
}

template <class Real>
__global__ void __launch_bounds__(kBlockThreads) finish(const double* partial_sums, int64_t count, Real* norm) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kBlockThreads) sum += partial_sums[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *norm = static_cast<Real>(sqrt(sum));
}

int64_t blocks_of(int64_t elements) { return (elements + kChunk - 1) / kChunk; }

// Calls body(share, its blocks) for launches that together take all tensors.
template <class Body>
void for_each_share(const Lists& lists, Body body) {
  Share share;
  std::copy(lists.dtypes, lists.dtypes + kStates, share.dtypes);
  int64_t blocks = 0;
  const auto hand_over = [&] {
    share.first_block[share.count] = static_cast<int>(blocks);
    if (blocks > 0) body(share, blocks);
    share.count = 0, blocks = 0;
  };
  for (int64_t t = 0; t < lists.count; ++t) {
    const int64_t elements = lists.first[t + 1] - lists.first[t];
    if (elements == 0) continue;
    if (share.count == kMostTensors || blocks + blocks_of(elements) > INT32_MAX) hand_over();
    share.tensors[share.count] = lists.tensors[t], share.elements[share.count] = elements;
    share.first_block[share.count++] = static_cast<int>(blocks);
    blocks += blocks_of(elements);
  }
  hand_over();
}

LaunchShape grid_of(int64_t blocks) { return {dim3(static_cast<unsigned>(blocks)), dim3(kBlockThreads)}; }

struct Optimize {
  static void run(const AdamWParameters& p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    OptionalTensor memory;
    double* made = nullptr;
    if (p.numbers) {
      memory = empty_for(made, like, {sizeof(AdamWFactors) / sizeof(double)}, ScalarType::Double);
      launch<derive>({dim3(1), dim3(1)}, on.stream, p.numbers, reinterpret_cast<AdamWFactors*>(made));
    }
    const auto* factors = reinterpret_cast<const AdamWFactors*>(made);
    for_each_share(p.lists, [&](const Share& share, int64_t blocks) {
      p.in_double ? launch<move<double>>(grid_of(blocks), on.stream, share, p.factors, factors)
                  : launch<move<float>>(grid_of(blocks), on.stream, share, p.factors, factors);
    });
  }

  static void run(GradientNormParameters p, const Tensor& like) {
    const OnDevice on(like.get_device_index());
    int64_t units = 0, done = 0;
    for (int64_t t = 0; t < p.lists.count; ++t) units += blocks_of(p.lists.first[t + 1] - p.lists.first[t]);
    const Tensor memory = empty_for(p.partial_sums, like, {units}, ScalarType::Double);
    for_each_share(p.lists, [&](const Share& share, int64_t blocks) {
      p.in_double ? launch<add_squares<double>>(grid_of(blocks), on.stream, share, p.partial_sums + done)
                  : launch<add_squares<float>>(grid_of(blocks), on.stream, share, p.partial_sums + done);
      done += blocks;
    });
    p.in_double ? launch<finish<double>>(grid_of(1), on.stream, p.partial_sums, units, static_cast<double*>(p.norm))
                : launch<finish<float>>(grid_of(1), on.stream, p.partial_sums, units, static_cast<float*>(p.norm));
  }
};

}  // namespace

VISGEN_REGISTER(CUDA, m) { OptimizeOperations<Optimize>::add_to(m); }

}  // namespace visgen
