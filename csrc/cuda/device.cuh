// What kernels share: typed access to arrays of any floating dtype, and where a compact entry lies in the dense weight.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "kernels.h"

namespace clm::cuda {

struct Any {};  // a dtype known at run time only

template <typename W> __device__ __forceinline__ W widen(float x) { return W(x); }
template <typename W> __device__ __forceinline__ W widen(double x) { return W(x); }
template <typename W> __device__ __forceinline__ W widen(__nv_bfloat16 x) { return W(__bfloat162float(x)); }
template <typename W> __device__ __forceinline__ W widen(__half x) { return W(__half2float(x)); }

template <typename W> __device__ __forceinline__ void narrow(W x, float& out) { out = float(x); }
template <typename W> __device__ __forceinline__ void narrow(W x, double& out) { out = double(x); }
template <typename W> __device__ __forceinline__ void narrow(W x, __nv_bfloat16& out) { out = __float2bfloat16_rn(float(x)); }
template <typename W> __device__ __forceinline__ void narrow(W x, __half& out) { out = __float2half_rn(float(x)); }

// N items that are read and written in accesses of up to 16 bytes.
template <typename T, int N>
struct alignas(sizeof(T) * N < kVectorBytes ? sizeof(T) * N : kVectorBytes) Pack {
  T items[N];
};

// Calls function(T{}) with the C++ type of a dtype.
template <typename Function>
__device__ __forceinline__ void with_dtype(Dtype dtype, const Function& function) {
  switch (dtype) {
    case Dtype::float32: return function(float{});
    case Dtype::float64: return function(double{});
    case Dtype::bfloat16: return function(__nv_bfloat16{});
    case Dtype::float16: return function(__half{});
  }
}

template <typename T, int N, typename W>
__device__ __forceinline__ void load(const Array& array, int64_t at, W (&out)[N]) {
  if constexpr (std::is_same_v<T, Any>) {
    with_dtype(array.dtype, [&](auto item) { load<decltype(item), N>(array, at, out); });
  } else {
    const auto pack = *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(array.data) + at);
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = widen<W>(pack.items[i]);
  }
}

template <typename T, int N, typename W>
__device__ __forceinline__ void store(const Array& array, int64_t at, const W (&in)[N]) {
  if constexpr (std::is_same_v<T, Any>) {
    with_dtype(array.dtype, [&](auto item) { store<decltype(item), N>(array, at, in); });
  } else {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) narrow(in[i], pack.items[i]);
    *reinterpret_cast<Pack<T, N>*>(static_cast<T*>(array.data) + at) = pack;
  }
}

__device__ __forceinline__ double load_scalar(const Array& array) {
  double value[1];
  load<Any>(array, 0, value);
  return value[0];
}

// In 32 bits where that is enough: a quarter of the instructions.
__device__ __forceinline__ void divide(int64_t a, int64_t b, int64_t& quotient, int64_t& rest) {
  if (((a | b) >> 32) == 0) {
    quotient = uint32_t(a) / uint32_t(b);
    rest = uint32_t(a) - uint32_t(quotient) * uint32_t(b);
  } else {
    quotient = a / b;
    rest = a - quotient * b;
  }
}

__device__ __forceinline__ int64_t unit(const Entries& e, int64_t i) {
  return e.wide ? static_cast<const int64_t*>(e.index)[i] : static_cast<const int32_t*>(e.index)[i];
}

// Number, in the dense weight, of compact entry `at`.
__device__ __forceinline__ int64_t dense_offset(const Entries& e, int64_t at) {
  int64_t outer, inner;
  switch (e.kind) {
    case kRows:
      divide(at, e.columns, outer, inner);
      return unit(e, outer) * e.columns + inner;
    case kColumns:
      divide(at, e.count, outer, inner);
      return outer * e.columns + unit(e, inner);
    case kBlocks: {
      int64_t row, column, grid_row, grid_column;
      divide(at, e.block_rows * e.block_columns, outer, inner);
      divide(inner, e.block_columns, row, column);
      divide(unit(e, outer), e.columns / e.block_columns, grid_row, grid_column);
      return (grid_row * e.block_rows + row) * e.columns + grid_column * e.block_columns + column;
    }
    case kElements: return unit(e, at);
    default: return at;
  }
}

}  // namespace clm::cuda
