// AdamW over all parameters in one parallel loop: each chunk of entries is updated and scattered while it is in cache.

#include "../adamw.h"

#include <algorithm>

#include "level.h"
#include "movement.h"
#include "parallel.h"

namespace clm {
namespace {

constexpr int64_t kBlock = 256;   // entries that are updated at once, and ahead of which dense cache lines are asked for
constexpr int64_t kChunk = 4096;  // entries of one parameter that are updated by one call

struct Step {
  const AdamWParameter& parameter;
  AdamWScalars<double> scalars;
  int64_t first_chunk;
};

}  // namespace
}  // namespace clm

#define CLM_BODY "adamw_body.h"
#include "versions.h"

namespace clm {

void adamw_step(const std::vector<AdamWParameter>& parameters, const AdamWOptions& options, int threads) {
  std::vector<Step> steps;
  steps.reserve(parameters.size());
  int64_t chunks = 0, entries = 0;
  for (const AdamWParameter& p : parameters) {
    steps.push_back({p, AdamWScalars<double>::of(p.settings, options.maximize), chunks});
    steps.back().scalars.sign *= options.clip;  // the one place where all of a gradient passes, at no cost
    chunks += (p.entries.size + kChunk - 1) / kChunk;
    entries += p.entries.size;
  }
  const auto update_float = CLM_PICK(update_chunk<float>);
  const auto update_double = CLM_PICK(update_chunk<double>);
  const auto run = [&](int64_t chunk) {
    const auto after = std::upper_bound(steps.begin(), steps.end(), chunk, [](int64_t c, const Step& s) { return c < s.first_chunk; });
    const Step& step = *(after - 1);
    const int64_t begin = (chunk - step.first_chunk) * kChunk, end = std::min(step.parameter.entries.size, begin + kChunk);
    const auto update = step.parameter.value.dtype == Dtype::float64 ? update_double : update_float;
    update(step, options, begin, end);
  };
  // A thread's chunks lie side by side: a processor foresees memory in order, which saves a quarter of the time.
  parallel_ranges(chunks, threads_for(2.0 * double(entries), threads), [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) run(chunk);
  });
}

}  // namespace clm
