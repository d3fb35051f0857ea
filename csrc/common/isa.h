// Where a piece of code is compiled to: the namespace of one instruction set, and the markers of host and device code.
//
// Everything under common/ is compiled several times with different instructions. If two of those copies shared a symbol,
// the linker would keep an arbitrary one, perhaps with instructions that the machine lacks. So each lives in a namespace
// of its own, visgen::VISGEN_ISA, which the build names (baseline, avx2, avx512, …).
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
