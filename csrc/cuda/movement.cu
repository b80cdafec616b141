// Exact copies between a dense weight and its compact entries.

#include "launch.cuh"
#include "offset.h"

namespace clm::cuda {
namespace {

template <typename Item>
__global__ void __launch_bounds__(kThreads) gather_kernel(const Item* __restrict__ dense, const __grid_constant__ Entries e,
                                                          Item* __restrict__ compact) {
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < e.size; i += int64_t(gridDim.x) * kThreads) {
    compact[i] = dense[dense_offset(e, i)];
  }
}

template <typename Item>
__global__ void __launch_bounds__(kThreads) scatter_kernel(Item* __restrict__ dense, const __grid_constant__ Entries e,
                                                           const Item* __restrict__ compact) {
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < e.size; i += int64_t(gridDim.x) * kThreads) {
    dense[dense_offset(e, i)] = compact[i];
  }
}

// Calls function(Item{}, entries) with items of 16 bytes where runs and addresses allow it.
template <typename Function>
void with_items(const void* dense, const void* compact, Entries e, int64_t item_size, const Function& function) {
  const int64_t n = kVectorBytes / item_size;
  if (runs_of(e, n) && is_aligned(dense) && is_aligned(compact)) {
    e.columns /= n;
    e.block_columns /= n;
    e.size /= n;
    return function(uint4{}, e);
  }
  if (item_size == 2) function(uint16_t{}, e);
  else if (item_size == 4) function(uint32_t{}, e);
  else function(uint64_t{}, e);
}

}  // namespace

void gather(const void* dense, const Entries& selected, int64_t item_size, void* compact, void* stream) {
  if (selected.size == 0) return;
  with_items(dense, compact, selected, item_size, [&](auto item, const Entries& e) {
    using Item = decltype(item);
    gather_kernel<<<grid_for_items(e.size, "gather"), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const Item*>(dense), e, static_cast<Item*>(compact));
  });
  check(cudaGetLastError(), "gather");
}

void scatter(void* dense, const Entries& selected, int64_t item_size, const void* compact, void* stream) {
  if (selected.size == 0) return;
  with_items(dense, compact, selected, item_size, [&](auto item, const Entries& e) {
    using Item = decltype(item);
    scatter_kernel<<<grid_for_items(e.size, "scatter_"), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<Item*>(dense), e, static_cast<const Item*>(compact));
  });
  check(cudaGetLastError(), "scatter_");
}

}  // namespace clm::cuda
