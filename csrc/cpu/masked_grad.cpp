// Adds the selected entries of a dense gradient to the compact one.

#include <algorithm>
#include <atomic>

#include "level.h"
#include "movement.h"
#include "parallel.h"

namespace clm {
constexpr int64_t kBlock = 256;  // entries that are gathered, then added
}

#define CLM_BODY "masked_grad_body.h"
#include "versions.h"

namespace clm {

bool masked_grad(const Array& grad, const void* dense_grad, Dtype dense_dtype, const Entries& e, double scale, int threads) {
  const int64_t entries = e.size;
  const auto add_block = grad.dtype == Dtype::float64 ? CLM_PICK(add_block<double>) : CLM_PICK(add_block<float>);
  std::atomic<bool> found{false};
  parallel_ranges((entries + kBlock - 1) / kBlock, threads_for(double(entries), threads), [&](int64_t begin, int64_t end) {
    alignas(64) char raw[kBlock * 8];
    bool finite = true;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i * kBlock, n = std::min(kBlock, entries - at);
      read_entries(dense_grad, e, item_size(dense_dtype), at, at + n, raw);
      finite &= add_block(grad, dense_dtype, raw, scale, at, n);
    }
    if (!finite) found.store(true, std::memory_order_relaxed);
  });
  return found.load();
}

}  // namespace clm
