// Compact gradient of selected embedding rows: tokens are sorted by row, then each row adds its tokens in their order.

#include <algorithm>
#include <vector>

#include "embedding_grad.h"
#include "level.h"
#include "parallel.h"

#define CLM_BODY "embedding_grad_body.h"
#include "versions.h"

namespace clm {
namespace {

// For each token the number of its row among the selected ones, or -1.
std::vector<int64_t> number_tokens(const void* ids, bool wide, int64_t tokens, const Entries& e, int threads) {
  std::vector<int64_t> rows(static_cast<size_t>(tokens));
  parallel_ranges(tokens, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t id = wide ? static_cast<const int64_t*>(ids)[t] : static_cast<const int32_t*>(ids)[t];
      int64_t low = 0;
      for (int64_t high = e.count; low < high;) {
        const int64_t middle = (low + high) / 2;
        e[middle] < id ? low = middle + 1 : high = middle;
      }
      rows[t] = low < e.count && e[low] == id ? low : -1;
    }
  });
  return rows;
}

}  // namespace

void embedding_grad(const Operand& dy, const void* ids, bool wide_ids, int64_t tokens, const Entries& e, const Array& out, int threads) {
  threads = threads_for(double(tokens + e.count) * double(e.columns) / 8, threads);
  const std::vector<int64_t> rows = number_tokens(ids, wide_ids, tokens, e, threads);
  EmbeddingGrad p{dy, out, e.columns, std::vector<int64_t>(size_t(e.count) + 1), {}};
  for (const int64_t row : rows) {
    if (row >= 0) ++p.ends[row + 1];
  }
  for (int64_t row = 0; row < e.count; ++row) p.ends[row + 1] += p.ends[row];
  p.tokens.resize(size_t(p.ends[e.count]));
  for (int64_t t = 0; t < tokens; ++t) {
    if (rows[t] >= 0) p.tokens[p.ends[rows[t]]++] = t;  // moves each row's start to its end
  }
  const auto add_rows = dy.dtype == Dtype::float64 ? CLM_PICK(add_rows<double>) : CLM_PICK(add_rows<float>);
  const int64_t panels = (e.columns + kEmbeddingPanel - 1) / kEmbeddingPanel;
  parallel_ranges(panels * e.count, threads, [&](int64_t begin, int64_t end) {  // by panels: rows differ in tokens
    for (int64_t i = begin; i < end; ++i) add_rows(p, i % e.count, i / e.count * kEmbeddingPanel);
  });
}

}  // namespace clm
