// Marks functions that C++ and CUDA share.
#pragma once

#if defined(__CUDACC__)
#define CLM_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define CLM_HOST_DEVICE inline __attribute__((always_inline))
#else
#define CLM_HOST_DEVICE inline
#endif
