// The CUDA kernels, as plain functions of device addresses and sizes. Semantics: clm_kernels/ops/reference.
//
// All run asynchronously on `stream`, a cudaStream_t of the current device, and throw std::runtime_error that names the op.
#pragma once

#include <cstdint>
#include <vector>

namespace clm::cuda {

enum class Dtype : int32_t { float32, float64, bfloat16, float16 };  // the codes of ops/cuda/arguments.py
enum Kind : int32_t { kRows, kColumns, kBlocks, kElements, kDense };  // as in ops/layout.py

constexpr int64_t kVectorBytes = 16;  // the widest access of one thread

inline int64_t item_size(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }
inline bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % kVectorBytes == 0; }

struct Array {
  void* data;  // null where there is none
  Dtype dtype;
};

// Which entries of a (rows, columns) weight are selected.
struct Entries {
  int64_t rows, columns;              // of the dense weight
  int64_t block_rows, block_columns;  // of one block
  const void* index;                  // sorted, unique
  int64_t count;                      // length of the index
  Kind kind;
  bool wide;  // int64 index, else int32

  int64_t entries() const;         // length of a compact tensor
  bool runs_of(int64_t n) const;   // whether n entries from any multiple of n on lie side by side in the dense weight
};

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
  int64_t count;  // entries of the value
  bool typed;     // float32 moments and master, so that a kernel for the value's dtype alone fits
  bool vector;    // typed, and each 16 bytes of values are one access

  void classify(bool amsgrad);  // sets `typed` and `vector`
};

struct AdamWStep {
  const Chunk* chunks;  // this and all below: addresses on the device
  const AdamWParameter* parameters;
  const Array* grads;
  const double* settings;                 // (parameters, 6): lr, beta1, beta2, eps, weight_decay, step
  Array grad_scale, found_inf, clip;      // scalars: what grads are divided by, in place; not 0: change nothing; a factor
  int64_t chunk_count;
  bool amsgrad, maximize;
};

void adamw_step(const AdamWStep& step, void* stream);

void gather(const void* dense, const Entries& entries, int64_t item_size, void* compact, void* stream);
void scatter(void* dense, const Entries& entries, int64_t item_size, const void* compact, void* stream);

// Writes 1 to `found` if a selected entry was inf or NaN.
void masked_grad(const Array& grad, const Array& dense_grad, const Entries& entries, double scale, float* found, void* stream);

}  // namespace clm::cuda
