// Compact gradient of scattered elements and small blocks: both operands are transposed once, then each entry is a dot
// product over tokens that lie side by side.

#include <algorithm>
#include <stdexcept>

#include "level.h"
#include "parallel.h"
#include "sampled_product.h"

#define CLM_BODY "sampled_product_body.h"
#include "versions.h"

namespace clm {
namespace {

constexpr int64_t kLanes = 16;                       // of the widest vector
constexpr int64_t kChunkBytes = int64_t(1536) << 10;  // a chunk of x, transposed: stays in the L2 cache, or nearly
constexpr int64_t kChunk = 64;  // tokens at least: the sum of a vector's lanes costs as much as some 50 tokens
constexpr int64_t kPanelBytes = int64_t(8) << 20;    // all that is transposed at once: stays in the L3 cache
constexpr int64_t kPart = 256;                       // columns that are transposed at once

// Splits the flat index: where each row's entries end, and the column of each entry.
template <typename W>
void split_index(SampledProduct<W>& p, const Entries& e, int threads) {
  std::vector<int64_t> ends(size_t(e.rows));
  p.columns.resize(size_t(e.count));
  parallel_ranges(e.rows, threads, [&](int64_t begin, int64_t end) {
    int64_t at = 0;
    for (int64_t high = e.count; at < high;) {
      const int64_t middle = (at + high) / 2;
      e[middle] < begin * e.columns ? at = middle + 1 : high = middle;
    }
    for (int64_t row = begin; row < end; ++row) {
      const int64_t start = row * e.columns;
      for (; at < e.count && e[at] < start + e.columns; ++at) p.columns[at] = int32_t(e[at] - start);
      ends[row] = at;
    }
  });
  for (int64_t row = 0, last = 0; row < e.rows; ++row) {
    if (ends[row] == last) continue;
    p.dy.used.push_back(int32_t(row));
    p.row_ends.push_back(last = ends[row]);
  }
}

// In the order of the weight's rows: run(column, compact entry) at the start of each row of a block, and row_done(row).
template <typename Run, typename Row>
void for_each_block_row(const Entries& e, const Run& run, const Row& row_done) {
  const int64_t grid = e.columns / e.block_columns;
  for (int64_t begin = 0, end; begin < e.count; begin = end) {
    const int64_t row = e[begin] / grid;
    for (end = begin + 1; end < e.count && e[end] / grid == row;) ++end;
    for (int64_t i = 0; i < e.block_rows; ++i) {
      for (int64_t b = begin; b < end; ++b) run(e[b] % grid * e.block_columns, (b * e.block_rows + i) * e.block_columns);
      row_done(row * e.block_rows + i);
    }
  }
}

template <typename W>
void split_blocks(SampledProduct<W>& p, const Entries& e) {
  for_each_block_row(
      e,
      [&](int64_t column, int64_t) {
        for (int64_t j = 0; j < e.block_columns; ++j) p.columns.push_back(int32_t(column + j));
      },
      [&](int64_t row) {
        p.dy.used.push_back(int32_t(row));
        p.row_ends.push_back(int64_t(p.columns.size()));
      });
}

// Numbers columns among those in use, unless most of them are.
template <typename W>
void number_columns(SampledProduct<W>& p, const Entries& e) {
  std::vector<int32_t> number(size_t(e.columns), -1);
  for (const int32_t column : p.columns) number[column] = 0;
  for (int64_t c = 0; c < e.columns; ++c) {
    if (number[c] == 0) number[c] = int32_t(p.x.used.size()), p.x.used.push_back(int32_t(c));
  }
  p.x.columns = int64_t(p.x.used.size());
  if (3 * p.x.columns > e.columns) {  // single columns cost some three times as much as squares
    p.x.used.clear();
    p.x.columns = e.columns;
  } else {
    for (int32_t& column : p.columns) column = number[column];
  }
}

template <typename W>
void run(SampledProduct<W>& p, const Entries& e, const Array& out, int threads) {
  if (std::max(e.rows, e.columns) > INT32_MAX) throw std::invalid_argument("weight_grad: rows and columns must be below 2^31");
  const int64_t entries = e.size;
  threads = threads_for(double(p.tokens) * double(entries) / 16, threads);
  e.kind == kBlocks ? split_blocks(p, e) : split_index(p, e, threads);
  number_columns(p, e);
  p.dy.columns = int64_t(p.row_ends.size());
  if (p.dy.columns == e.rows) p.dy.used.clear();

  p.chunk = 256;
  while (p.chunk > kChunk && p.chunk * p.x.columns * int64_t(sizeof(W)) > kChunkBytes) p.chunk /= 2;
  while (p.chunk > kLanes && p.chunk / 2 >= p.tokens) p.chunk /= 2;
  const int64_t chunk_bytes = p.chunk * (p.dy.columns + p.x.columns) * int64_t(sizeof(W));
  const int64_t all = (p.tokens + p.chunk - 1) / p.chunk;
  const int64_t panel = std::min(all, std::max<int64_t>(1, kPanelBytes / chunk_bytes));
  const int64_t groups = (entries + kLanes - 1) / kLanes;
  Scratch<Slot::shared> scratch(panel * chunk_bytes + groups * kLanes * int64_t(sizeof(W)));
  p.x.data = scratch.as<W>();
  p.dy.data = p.x.data + panel * p.chunk * p.x.columns;
  p.sums = p.dy.data + panel * p.chunk * p.dy.columns;
  std::fill(p.sums, p.sums + groups * kLanes, W(0));

  const auto transpose_part = CLM_PICK(transpose_part<W>);
  const auto sum_entries = CLM_PICK(sum_entries<W>);
  const int64_t x_parts = (p.x.columns + kPart - 1) / kPart, parts = x_parts + (p.dy.columns + kPart - 1) / kPart;
  for (int64_t chunk = 0; chunk < all; chunk += panel) {
    p.first = chunk * p.chunk;
    p.chunks = std::min(panel, all - chunk);
    parallel_ranges(p.chunks * parts, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const bool of_x = i % parts < x_parts;
        const Transposed<W>& side = of_x ? p.x : p.dy;
        const int64_t first = (i % parts - (of_x ? 0 : x_parts)) * kPart;
        transpose_part(p, side, i / parts, first, std::min(side.columns, first + kPart));
      }
    });
    parallel_ranges(groups, threads, [&](int64_t begin, int64_t end) {
      sum_entries(p, begin * kLanes, std::min(entries, end * kLanes));
    });
  }
  const auto narrow = CLM_PICK(narrow<W>);
  if (e.kind == kBlocks) {
    const W* sums = p.sums;
    for_each_block_row(
        e,
        [&](int64_t, int64_t at) {
          narrow(out.dtype, sums, e.block_columns, out.data, at);
          sums += e.block_columns;
        },
        [](int64_t) {});
    return;
  }
  parallel_ranges(groups, threads, [&](int64_t begin, int64_t end) {
    narrow(out.dtype, p.sums + begin * kLanes, std::min(entries, end * kLanes) - begin * kLanes, out.data, begin * kLanes);
  });
}

}  // namespace

void weight_grad_elements(const Operand& dy, const Operand& x, int64_t tokens, const Entries& entries, const Array& out, int threads) {
  if (dy.dtype == Dtype::float64) {
    SampledProduct<double> p{tokens, 0, 0, 0, {dy, {}, 0, nullptr}, {x, {}, 0, nullptr}, {}, {}, nullptr};
    run(p, entries, out, threads);
  } else {
    SampledProduct<float> p{tokens, 0, 0, 0, {dy, {}, 0, nullptr}, {x, {}, 0, nullptr}, {}, {}, nullptr};
    run(p, entries, out, threads);
  }
}

}  // namespace clm
