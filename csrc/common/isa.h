// Where a piece of code is compiled to: the namespace of one instruction set, and the markers of host and device code.
//
// The arithmetic under common/ is compiled several times with different instructions. If two of those copies shared a
// symbol, the linker would keep an arbitrary one, perhaps with instructions that the machine lacks. So each lives in a
// namespace of its own, visgen::VISGEN_ISA, which the build names (baseline, avx2, avx512, …); what is plain data
// (dtype.h, layout.h, partition.h) must leave no symbol behind, and a test looks.
#pragma once

#ifndef VISGEN_ISA
#if defined(__CUDACC__) || defined(VISGEN_CUDA_ON_HOST)
#define VISGEN_ISA cuda
#else
#define VISGEN_ISA generic
#endif
#endif

#ifdef __CUDACC__
#define VISGEN_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define VISGEN_HOST_DEVICE inline __attribute__((always_inline))
#endif

// Unroll the loop that follows, or keep it rolled. nvcc's own pass over host code wants neither spelling.
#if defined(__CUDA_ARCH__)
#define VISGEN_UNROLL _Pragma("unroll")
#define VISGEN_NO_UNROLL _Pragma("unroll 1")
#elif defined(__CUDACC__)
#define VISGEN_UNROLL
#define VISGEN_NO_UNROLL
#else
#define VISGEN_UNROLL _Pragma("GCC unroll 16")
#define VISGEN_NO_UNROLL
#endif
