// The kernels, as plain functions of addresses and sizes. Semantics: clm_kernels/ops/reference.
#pragma once

#include <cstdint>
#include <vector>

#include "dtypes.h"

namespace clm {

enum Kind : int { kRows, kColumns, kBlocks, kElements, kDense };  // as in ops/layout.py

// Which entries of a (rows, columns) weight are selected.
struct Entries {
  int kind;
  int64_t rows, columns;              // of the dense weight
  int64_t block_rows, block_columns;  // of one block
  const void* index;                  // sorted, unique
  bool wide;                          // int64 index, else int32
  int64_t count;                      // length of the index

  int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t*>(index)[i] : static_cast<const int32_t*>(index)[i];
  }
  int64_t entries() const;  // length of a compact tensor
};

// A matrix with unit column stride.
struct Operand {
  const void* data;
  int64_t stride;  // of rows, in items
  Dtype dtype;
  bool sliced;  // holds the selected columns only
};

struct Output {
  void* data;
  Dtype dtype;
};

void weight_grad(const Operand& dy, const Operand& x, int64_t tokens, const Entries& entries, const Output& out, int threads);
void weight_grad_elements(const Operand& dy, const Operand& x, int64_t tokens, const Entries& entries, const Output& out, int threads);
void embedding_grad(const Operand& dy, const void* ids, bool wide_ids, int64_t tokens, const Entries& entries, const Output& out, int threads);

void gather(const void* dense, const Entries& entries, int64_t item_size, void* compact, int threads);
void scatter(void* dense, const Entries& entries, int64_t item_size, const void* compact, int threads);

// Returns whether a selected entry was inf or NaN.
bool masked_grad(const Output& grad, const void* dense_grad, Dtype dense_dtype, const Entries& entries, double scale, int threads);

struct AdamWParameter {
  Output value, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, master, anchor;  // data is null where there is none
  void* dense;
  Entries entries;
  int64_t count;  // entries of the value
  double lr, beta1, beta2, eps, weight_decay, step;
};

struct AdamWOptions {
  bool amsgrad, maximize, unscale;
  double grad_scale;  // that grads are divided by, in place, if unscale
  double clip;        // a factor of grads, which are not written
};

void adamw_step(const std::vector<AdamWParameter>& parameters, const AdamWOptions& options, int threads);

}  // namespace clm
