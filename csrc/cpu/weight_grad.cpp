// Compact gradients of rows, columns and large blocks. The side along which entries are selected is packed once, the
// other one panel by panel; elements and small blocks stand in weight_grad_elements.cpp.

#include <algorithm>

#include "outer_product.h"
#include "parallel.h"

namespace clm {

namespace {

constexpr int64_t kSmallBlock = 512;  // entries; packing smaller blocks costs more than transposing both operands

// Groups of at most kGroup, out of `size` positions that begin at `first`.
template <typename W>
void add_groups(OuterProduct<W>& p, int64_t first, int64_t size) {
  for (int64_t done = 0; done < size; done += kGroup) p.groups.push_back(first + done);
}

// Rows, or columns with the operands' parts exchanged: every group with every panel of the other side.
template <typename W>
void plan_product(OuterProduct<W>& p, const Entries& e, int threads) {
  const bool rows = e.kind == kRows;
  const int64_t width = rows ? e.columns : e.rows;
  p.row_stride = rows ? width : 1;
  p.column_stride = rows ? 1 : e.count;
  for (int64_t i = 0; i < e.count; ++i) p.positions.push_back(p.small.sliced ? i : e[i]);
  add_groups(p, 0, e.count);
  p.groups.push_back(e.count);
  const int64_t share = (width + threads - 1) / threads;  // a panel each, if that is not too narrow
  const int64_t panel = std::clamp<int64_t>((share + 47) / 48 * 48, 48, kPanel);
  for (int64_t column = 0; column < width; column += panel) {
    for (size_t g = 0; g + 1 < p.groups.size(); ++g) {
      const int64_t first = p.groups[g], columns = std::min(panel, width - column);
      p.tasks.push_back({first, p.groups[g + 1] - first, int64_t(p.segments.size()), 1, columns});
      p.segments.push_back({column, columns, first * p.row_stride + column * p.column_stride});
    }
  }
}

// Blocks: the columns of the blocks in one row of blocks are put side by side into panels.
template <typename W>
void plan_blocks(OuterProduct<W>& p, const Entries& e) {
  const int64_t grid = e.columns / e.block_columns, size = e.block_rows * e.block_columns;
  p.row_stride = e.block_columns;
  p.column_stride = 1;
  for (int64_t begin = 0, end; begin < e.count; begin = end) {
    const int64_t row = e[begin] / grid, first = p.size();
    for (end = begin + 1; end < e.count && e[end] / grid == row;) ++end;
    for (int64_t i = 0; i < e.block_rows; ++i) p.positions.push_back(row * e.block_rows + i);
    for (int64_t i = 0; i < e.block_rows; i += kGroup) {
      Task task{first + i, std::min(kGroup, e.block_rows - i), int64_t(p.segments.size()), 0, 0};
      for (int64_t b = begin; b < end; ++b) {
        for (int64_t j = 0; j < e.block_columns;) {
          const int64_t width = std::min(e.block_columns - j, kPanel - task.width);
          p.segments.push_back({e[b] % grid * e.block_columns + j, width, b * size + i * e.block_columns + j});
          task.width += width, ++task.segments, j += width;
          if (task.width == kPanel || (b + 1 == end && j == e.block_columns)) {
            p.tasks.push_back(task);
            task = {task.first, task.size, int64_t(p.segments.size()), 0, 0};
          }
        }
      }
    }
    add_groups(p, first, e.block_rows);
  }
  p.groups.push_back(p.size());
}

template <typename W>
void run(OuterProduct<W>&& p, const Entries& e, int threads) {
  threads = threads_for(double(p.tokens) * double(e.size) / 40, threads);
  e.kind == kBlocks ? plan_blocks(p, e) : plan_product(p, e, threads);
  run(p, threads);
}

}  // namespace

void weight_grad(const Operand& dy, const Operand& x, int64_t tokens, const Entries& entries, const Array& out, int threads) {
  if (entries.size == 0) return;
  if (tokens == 0) {
    std::memset(out.data, 0, size_t(entries.size * item_size(out.dtype)));
  } else if (entries.kind == kElements || (entries.kind == kBlocks && entries.block_rows * entries.block_columns < kSmallBlock)) {
    weight_grad_elements(dy, x, tokens, entries, out, threads);
  } else {
    const bool columns = entries.kind == kColumns;
    const Operand &small = columns ? x : dy, &large = columns ? dy : x;
    if (dy.dtype == Dtype::float64) {
      run(OuterProduct<double>{tokens, small, large, {}, {}, {}, {}, nullptr, out, 0, 0}, entries, threads);
    } else {
      run(OuterProduct<float>{tokens, small, large, {}, {}, {}, {}, nullptr, out, 0, 0}, entries, threads);
    }
  }
}

}  // namespace clm
