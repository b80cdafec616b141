// What kernels share: typed access to arrays of any floating dtype.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "kernels.h"
#include "offset.h"

namespace clm::cuda {

struct Any {};  // a dtype known at run time only

template <typename W> CLM_HOST_DEVICE W widen(float x) { return W(x); }
template <typename W> CLM_HOST_DEVICE W widen(double x) { return W(x); }
template <typename W> CLM_HOST_DEVICE W widen(__nv_bfloat16 x) { return W(__bfloat162float(x)); }
template <typename W> CLM_HOST_DEVICE W widen(__half x) { return W(__half2float(x)); }

template <typename W> CLM_HOST_DEVICE void narrow(W x, float& out) { out = float(x); }
template <typename W> CLM_HOST_DEVICE void narrow(W x, double& out) { out = double(x); }
template <typename W> CLM_HOST_DEVICE void narrow(W x, __nv_bfloat16& out) { out = __float2bfloat16_rn(float(x)); }
template <typename W> CLM_HOST_DEVICE void narrow(W x, __half& out) { out = __float2half_rn(float(x)); }

// N items that are read and written in accesses of up to 16 bytes.
template <typename T, int N>
struct alignas(sizeof(T) * N < kVectorBytes ? sizeof(T) * N : kVectorBytes) Pack {
  T items[N];
};

// Calls function(T{}) with the C++ type of a dtype.
template <typename Function>
CLM_HOST_DEVICE void with_dtype(Dtype dtype, const Function& function) {
  switch (dtype) {
    case Dtype::float32: return function(float{});
    case Dtype::float64: return function(double{});
    case Dtype::bfloat16: return function(__nv_bfloat16{});
    case Dtype::float16: return function(__half{});
  }
}

template <typename T, int N, typename W>
CLM_HOST_DEVICE void load(const Array& array, int64_t at, W (&out)[N]) {
  if constexpr (std::is_same_v<T, Any>) {
    with_dtype(array.dtype, [&](auto type) { load<decltype(type), N>(array, at, out); });
  } else {
    const auto pack = *reinterpret_cast<const Pack<T, N>*>(in_global(static_cast<const T*>(array.data)) + at);
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = widen<W>(pack.items[i]);
  }
}

template <typename T, int N, typename W>
CLM_HOST_DEVICE void store(const Array& array, int64_t at, const W (&in)[N]) {
  if constexpr (std::is_same_v<T, Any>) {
    with_dtype(array.dtype, [&](auto type) { store<decltype(type), N>(array, at, in); });
  } else {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) narrow(in[i], pack.items[i]);
    *reinterpret_cast<Pack<T, N>*>(in_global(static_cast<T*>(array.data)) + at) = pack;
  }
}

CLM_HOST_DEVICE double load_scalar(const Array& array) {
  double value[1];
  load<Any>(array, 0, value);
  return value[0];
}

}  // namespace clm::cuda
