// How kernels are launched: the grid, and errors that name the op.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

namespace clm::cuda {

constexpr int kThreads = 256;
constexpr int kBlocksPerProcessor = 8;  // 2048 threads, all that a multiprocessor of compute capability 8.0 or 9.0 holds

inline void check(cudaError_t error, const char* op) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(op) + ": CUDA error: " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")");
}

// Thread blocks that share `blocks` pieces of work.
inline unsigned grid_for(int64_t blocks, const char* op, int per_processor = kBlocksPerProcessor) {
  int device = 0, processors = 0;
  check(cudaGetDevice(&device), op);
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), op);
  return unsigned(std::min<int64_t>(blocks, int64_t(processors) * per_processor));
}

inline unsigned grid_for_items(int64_t items, const char* op) { return grid_for((items + kThreads - 1) / kThreads, op); }

}  // namespace clm::cuda
