// L2 norm of many gradients: a sum per chunk, then the sum of these, each in a fixed order, so the same bits at every run.

#include "device.cuh"
#include "launch.cuh"

namespace clm::cuda {
namespace {

// The sum over the block, in thread 0.
__device__ __forceinline__ double block_sum(double sum) {
  __shared__ double sums[kThreads];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  return sums[0];
}

template <typename T>
__device__ __forceinline__ double thread_sum(const Array& grad, const Chunk& chunk) {
  constexpr int N = int(kVectorBytes / sizeof(T));
  const bool vector = reinterpret_cast<uintptr_t>(grad.data) % kVectorBytes == 0;
  const int32_t packs = vector ? chunk.count / N : 0;
  double sum = 0;
  for (int32_t i = threadIdx.x; i < packs; i += kThreads) {
    double g[N];
    load<T>(grad, chunk.first + int64_t(i) * N, g);
#pragma unroll
    for (int k = 0; k < N; ++k) sum += g[k] * g[k];
  }
  for (int32_t i = packs * N + threadIdx.x; i < chunk.count; i += kThreads) {
    double g[1];
    load<T>(grad, chunk.first + i, g);
    sum += g[0] * g[0];
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads) global_norm_chunks_kernel(const Chunk* __restrict__ chunks, int64_t chunk_count,
                                                                      const Array* __restrict__ grads,
                                                                      double* __restrict__ partial) {
  for (int64_t c = blockIdx.x; c < chunk_count; c += gridDim.x) {
    const Chunk chunk = chunks[c];
    const Array grad = grads[chunk.parameter];
    double sum = 0;
    with_dtype(grad.dtype, [&](auto item) { sum = thread_sum<decltype(item)>(grad, chunk); });
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[c] = sum;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads) global_norm_kernel(const double* __restrict__ partial, int64_t count, float* norm) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *norm = float(sqrt(sum));
}

}  // namespace

void global_norm(const Chunk* chunks, int64_t chunk_count, const Array* grads, double* partial, float* norm, void* stream) {
  constexpr const char* op = "global_norm";
  const auto on = static_cast<cudaStream_t>(stream);
  if (chunk_count > 0) {
    global_norm_chunks_kernel<<<grid_for(chunk_count, op), kThreads, 0, on>>>(chunks, chunk_count, grads, partial);
    check(cudaGetLastError(), op);
  }
  global_norm_kernel<<<1, kThreads, 0, on>>>(partial, chunk_count, norm);
  check(cudaGetLastError(), op);
}

}  // namespace clm::cuda
