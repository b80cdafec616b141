// Gradient of a linear layer's input at active tokens: an outer product too, summed over the output's features, of which dy
// is the small side, transposed as it is packed, and the weight the large one.

#include <algorithm>

#include "outer_product.h"
#include "parallel.h"

namespace clm {
namespace {

// Rows [begin, end) of dx but for those that `active` names.
void clear_others(const std::vector<int64_t>& active, int64_t begin, int64_t end, int64_t bytes, char* dx) {
  const auto first = std::lower_bound(active.begin(), active.end(), begin), last = std::lower_bound(first, active.end(), end);
  for (auto next = first; begin < end; ++begin) {
    const int64_t until = next == last ? end : *next++;
    std::memset(dx + begin * bytes, 0, size_t((until - begin) * bytes));
    begin = until;
  }
}

template <typename W>
void run(OuterProduct<W>&& p, int64_t dy_stride, int64_t columns, const std::vector<int64_t>& active, int threads) {
  p.out_rows = active.data();
  for (const int64_t row : active) p.positions.push_back(row * dy_stride);
  for (int64_t done = 0; done < p.size(); done += kGroup) p.groups.push_back(done);
  p.groups.push_back(p.size());
  for (int64_t column = 0; column < columns; column += kPanel) {
    const int64_t width = std::min(kPanel, columns - column);
    for (int64_t first = 0; first < p.size(); first += kGroup) {
      p.tasks.push_back({first, std::min(kGroup, p.size() - first), int64_t(p.segments.size()), 1, width});
    }
    p.segments.push_back({column, width, column});
  }
  run(p, threads);
}

}  // namespace

void input_grad(const Operand& dy, const Operand& weight, int64_t tokens, int64_t sums, int64_t columns,
                const std::vector<int64_t>& active, const Array& dx, int threads) {
  threads = threads_for(double(active.size()) * double(sums) * double(columns) / 40, threads);
  const int64_t bytes = columns * item_size(dx.dtype);
  if (sums == 0) return std::memset(dx.data, 0, size_t(tokens * bytes)), void();
  parallel_ranges(tokens, threads, [&](int64_t begin, int64_t end) {
    clear_others(active, begin, end, bytes, static_cast<char*>(dx.data));
  });
  if (active.empty() || columns == 0) return;
  const Operand features{dy.data, 1, dy.dtype, false};
  if (dy.dtype == Dtype::float64) {
    run(OuterProduct<double>{sums, features, weight, {}, {}, {}, {}, nullptr, dx, columns, 1}, dy.stride, columns, active, threads);
  } else {
    run(OuterProduct<float>{sums, features, weight, {}, {}, {}, {}, nullptr, dx, columns, 1}, dy.stride, columns, active, threads);
  }
}

}  // namespace clm
