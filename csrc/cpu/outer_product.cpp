// Sums of outer products over tokens, as weight_grad.cpp and input_grad.cpp plan them.

#include "outer_product.h"

#include "level.h"
#include "parallel.h"

#define CLM_BODY "outer_product_body.h"
#include "versions.h"

namespace clm {

template <typename W>
void run(OuterProduct<W>& p, int threads) {
  Scratch<Slot::shared> packed(p.tokens * p.size() * int64_t(sizeof(W)));
  p.packed = packed.template as<W>();

  const int64_t groups = int64_t(p.groups.size()) - 1, blocks = (p.tokens + kTokenBlock - 1) / kTokenBlock;
  const auto pack = CLM_PICK(pack_small<W>);
  parallel_ranges(blocks * groups, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) pack(p, i / groups * kTokenBlock, i % groups);
  });

  const auto run_task = CLM_PICK(run_task<W>);
  parallel_ranges(int64_t(p.tasks.size()), threads, [&](int64_t begin, int64_t end) {
    Scratch<Slot::own> scratch((kTokenBlock + kGroup) * (kPanel + 16) * int64_t(sizeof(W)));
    for (int64_t i = begin; i < end; ++i) run_task(p, p.tasks[i], scratch.as<W>());
  });
}

template void run(OuterProduct<float>& p, int threads);
template void run(OuterProduct<double>& p, int threads);

}  // namespace clm
