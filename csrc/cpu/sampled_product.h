// Sums over tokens at single entries: out[e] = sum_t dy[t, row(e)] * x[t, column(e)].
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace clm {

// An operand, transposed: per chunk of tokens, [column in use][token], zeros past the last token.
template <typename W>
struct Transposed {
  Operand operand;
  std::vector<int32_t> used;  // its columns that some entry needs; empty: all of them
  int64_t columns;            // how many that are
  W* data;

  W* at(int64_t chunk_in_panel, int64_t column, int64_t chunk) const { return data + (chunk_in_panel * columns + column) * chunk; }
};

template <typename W>  // float or double: the type of sums
struct SampledProduct {
  int64_t tokens;
  int64_t chunk;              // tokens per chunk, a multiple of every vector's lanes
  int64_t first, chunks;      // the panel: chunks from token `first` on
  Transposed<W> dy, x;
  std::vector<int64_t> row_ends;   // of each row of dy in use: one past its last entry
  std::vector<int32_t> columns;    // of each entry, as a number among x's columns in use
  W* sums;                         // of each entry
};

}  // namespace clm
