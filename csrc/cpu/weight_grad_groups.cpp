// Compact gradient of dealt groups: each is a dense rectangle of strips, whose columns are put side by side as they are packed.

#include <algorithm>

#include "outer_product.h"
#include "parallel.h"

namespace clm {
namespace {

// Row strips of a group, at most kGroup rows of dy, with its column strips, at most kPanel columns of x.
template <typename W>
void plan_group(OuterProduct<W>& p, const Entries& e, const int64_t* rows, const int64_t* firsts, int64_t height,
                const int64_t* columns, int64_t width, std::vector<int64_t>& out_rows) {
  const int64_t size = e.block_rows * e.block_columns, across = kPanel / e.block_columns;
  for (int64_t done = 0, down = kGroup / e.block_rows; done < height; done += down) {
    const int64_t first = p.size();
    for (int64_t r = done; r < std::min(height, done + down); ++r) {
      for (int64_t i = 0; i < e.block_rows; ++i) {
        p.positions.push_back(rows[r] * e.block_rows + i);
        out_rows.push_back(firsts[r] * e.block_rows + i);
      }
    }
    p.groups.push_back(first);
    for (int64_t c = 0; c < width; c += across) {
      const int64_t strips = std::min(across, width - c);
      p.tasks.push_back({first, p.size() - first, int64_t(p.segments.size()), strips, strips * e.block_columns});
      for (int64_t s = c; s < c + strips; ++s) p.segments.push_back({columns[s] * e.block_columns, e.block_columns, s * size});
    }
  }
}

template <typename W>
void run(OuterProduct<W>&& p, const Entries& e, const DealtGroups& groups, int threads) {
  std::vector<int64_t> out_rows;
  const int64_t *rows = groups.rows, *firsts = groups.firsts, *columns = groups.columns;
  for (const auto& [count, height, width] : groups.shapes) {
    for (int64_t g = 0; g < count; ++g, rows += height, firsts += height, columns += width) {
      plan_group(p, e, rows, firsts, height, columns, width, out_rows);
    }
  }
  p.groups.push_back(p.size());
  p.out_rows = out_rows.data();
  run(p, threads_for(double(p.tokens) * double(e.size) / 40, threads));
}

}  // namespace

bool fits_groups(const Entries& e) { return e.kind == kBlocks && e.block_rows <= kGroup && e.block_columns <= kPanel; }

void weight_grad_groups(const Operand& dy, const Operand& x, int64_t tokens, const Entries& e, const DealtGroups& groups,
                        const Array& out, int threads) {
  if (tokens == 0) return std::memset(out.data, 0, size_t(e.size * item_size(out.dtype))), void();
  if (dy.dtype == Dtype::float64) {
    run(OuterProduct<double>{tokens, dy, x, {}, {}, {}, {}, nullptr, out, e.block_columns, 1}, e, groups, threads);
  } else {
    run(OuterProduct<float>{tokens, dy, x, {}, {}, {}, {}, nullptr, out, e.block_columns, 1}, e, groups, threads);
  }
}

}  // namespace clm
