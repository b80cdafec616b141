// The CUDA kernels, as plain functions of device addresses and sizes. Semantics: clm_kernels/ops/reference.
//
// All run asynchronously on `stream`, a cudaStream_t of the current device, and throw std::runtime_error that names the op.
#pragma once

#include <cstdint>
#include <vector>

#include "../arguments.h"

namespace clm::cuda {

constexpr int64_t kVectorBytes = 16;  // the widest access of one thread

inline bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % kVectorBytes == 0; }

static_assert(sizeof(Array) == sizeof(ArrayFields));  // a row of the table of gradients is one

bool runs_of(const Entries& entries, int64_t n);  // whether n entries from any multiple of n on lie side by side in the dense weight

// Entries [first, first + count) of one parameter, for one pass of one thread block.
struct Chunk {
  int64_t first;
  int32_t parameter, count;
};

std::vector<Chunk> chunks_of(const std::vector<int64_t>& counts);

struct AdamWParameter {
  Array value, exp_avg, exp_avg_sq, max_exp_avg_sq, master, anchor;
  void* dense;
  Entries entries;
  bool typed;     // float32 moments and master, so that a kernel for the value's dtype alone fits
  bool vector;    // typed, and each 16 bytes of values are one access

  void classify(bool amsgrad);  // sets `typed` and `vector`
};

struct AdamWStep {
  const Chunk* chunks;  // this and all below: addresses on the device
  const AdamWParameter* parameters;
  const Array* grads;
  const Settings* settings;
  Array grad_scale, found_inf, clip;  // scalars: what grads are divided by, in place; not 0: change nothing; a factor
  int64_t chunk_count;
  bool amsgrad, maximize;
};

void adamw_step(const AdamWStep& step, void* stream);

void gather(const void* dense, const Entries& entries, int64_t item_size, void* compact, void* stream);
void scatter(void* dense, const Entries& entries, int64_t item_size, const void* compact, void* stream);

// Writes 1 to `found` if a selected entry was inf or NaN.
void masked_grad(const Array& grad, const Array& dense_grad, const Entries& entries, double scale, float* found, void* stream);

}  // namespace clm::cuda
