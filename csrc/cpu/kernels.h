// The kernels, as plain functions of addresses and sizes. Semantics: clm_kernels/ops/reference.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "dtypes.h"

namespace clm {

// A matrix with unit column stride.
struct Operand {
  const void* data;
  int64_t stride;  // of rows, in items
  Dtype dtype;
  bool sliced;  // holds the selected columns only
  const int64_t* rows = nullptr;  // which of its rows each token is; null: its own

  int64_t offset(int64_t token) const { return (rows ? rows[token] : token) * stride; }
};

// Writes the active tokens' rows, `tokens` past the last, and how many there are.
void drawn_tokens(const Operand& dy, int64_t tokens, int64_t columns, double noise, double start, int64_t* index, int64_t* count,
                  float* weight, int threads);
void active_tokens(const Operand& dy, int64_t tokens, int64_t columns, double part, bool counted, int64_t* index, int64_t* count, int threads);
// dx (tokens, columns) = dy (tokens, sums) @ weight (sums, columns) in the rows `active`, zeros in the others.
void input_grad(const Operand& dy, const Operand& weight, int64_t tokens, int64_t sums, int64_t columns,
                const std::vector<int64_t>& active, const Array& dx, int threads);

void weight_grad(const Operand& dy, const Operand& x, int64_t tokens, const Entries& entries, const Array& out, int threads);
void weight_grad_elements(const Operand& dy, const Operand& x, int64_t tokens, const Entries& entries, const Array& out, int threads);

// clm_kernels/ops/grouped.py: Groups.
struct DealtGroups {
  std::vector<std::array<int64_t, 3>> shapes;  // groups, and the row strips and column strips of each
  const int64_t *rows, *columns, *firsts;
};

// Whether blocks are small enough for `weight_grad_groups`.
bool fits_groups(const Entries& entries);
void weight_grad_groups(const Operand& dy, const Operand& x, int64_t tokens, const Entries& entries, const DealtGroups& groups,
                        const Array& out, int threads);

void embedding_grad(const Operand& dy, const void* ids, bool wide_ids, int64_t tokens, const Entries& entries, const Array& out, int threads);

void gather(const void* dense, const Entries& entries, int64_t item_size, void* compact, int threads);
void scatter(void* dense, const Entries& entries, int64_t item_size, const void* compact, int threads);

// Returns whether a selected entry was inf or NaN.
bool masked_grad(const Array& grad, const void* dense_grad, Dtype dense_dtype, const Entries& entries, double scale, int threads);

struct AdamWParameter {
  Array value, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, master, anchor;  // data is null where there is none
  void* dense;
  Entries entries;
  Settings settings;
};

struct AdamWOptions {
  bool amsgrad, maximize, unscale;
  double grad_scale;  // that grads are divided by, in place, if unscale
  double clip;        // a factor of grads, which are not written
};

void adamw_step(const std::vector<AdamWParameter>& parameters, const AdamWOptions& options, int threads);

}  // namespace clm
