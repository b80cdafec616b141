// Adds the selected entries of a dense gradient to the compact one.

#include "device.cuh"
#include "launch.cuh"

namespace clm::cuda {
namespace {

template <typename W>
__global__ void __launch_bounds__(kThreads) masked_grad_kernel(const Array grad, const Array dense_grad,
                                                               const __grid_constant__ Entries e, W scale,
                                                               float* found) {
  bool finite = true;
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < e.size; i += int64_t(gridDim.x) * kThreads) {
    W added[1], sum[1];
    load<Any>(dense_grad, dense_offset(e, i), added);
    load<Any>(grad, i, sum);
    added[0] *= scale;
    finite = finite && isfinite(added[0]);
    sum[0] += added[0];
    store<Any>(grad, i, sum);
  }
  if (!finite) *found = 1;  // by any number of threads: all write the same
}

}  // namespace

void masked_grad(const Array& grad, const Array& dense_grad, const Entries& e, double scale, float* found, void* stream) {
  constexpr const char* op = "masked_grad_";
  if (e.size == 0) return;
  const unsigned grid = grid_for_items(e.size, op);
  const auto on = static_cast<cudaStream_t>(stream);
  if (grad.dtype == Dtype::float64) {
    masked_grad_kernel<double><<<grid, kThreads, 0, on>>>(grad, dense_grad, e, scale, found);
  } else {
    masked_grad_kernel<float><<<grid, kThreads, 0, on>>>(grad, dense_grad, e, float(scale), found);
  }
  check(cudaGetLastError(), op);
}

}  // namespace clm::cuda
