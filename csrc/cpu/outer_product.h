// Sums of outer products over tokens: out[i, j] = sum_t small[t, i] * large[t, j]. What rows, columns and blocks share.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace clm {

constexpr int64_t kTokenBlock = 128;  // a tile of `large` over so many tokens stays in the L1 cache
constexpr int64_t kPanel = 96;       // columns of `large` that are packed at once: L2
constexpr int64_t kGroup = 128;       // columns of `small` per task: a panel's sums stay in the L2 cache

// Neighbouring columns of `large` and where their products go: (i, j) to out[start + i * row_stride + j * column_stride].
struct Segment {
  int64_t column, width, start;
};

// Columns [first, first + size) of `small` with a panel of `large`.
struct Task {
  int64_t first, size;
  int64_t segment, segments;  // range in OuterProduct::segments
  int64_t width;              // of all its segments, at most kPanel
};

template <typename W>  // float or double: the type of sums
struct OuterProduct {
  int64_t tokens;
  Operand small, large;
  std::vector<int64_t> positions;        // where columns of `small` lie in a row, in the order of `groups`
  std::vector<int64_t> groups;           // where each group of at most kGroup positions begins, and the end
  std::vector<Task> tasks;
  std::vector<Segment> segments;
  W* packed;  // of `small`: per token block, group and tile of columns: [token][column]
  Array out;
  int64_t row_stride, column_stride;
  const int64_t* out_rows = nullptr;  // where i stands for the i-th position of all, the row that it is; null: i itself

  int64_t size() const { return int64_t(positions.size()); }
};

// Packs `small`, whose `packed` it sets, and runs the tasks.
template <typename W> void run(OuterProduct<W>& p, int threads);

}  // namespace clm
