// The tokens that carry the gradient: squared norms in one pass over dy, then the threshold by bisection, without a sort.

#include <algorithm>
#include <cmath>

#include "level.h"
#include "kernels.h"
#include "parallel.h"

namespace clm {
constexpr int kParts = 16;         // of a row's sum
constexpr int64_t kStaged = 256;  // entries that are converted at once
}

#define CLM_BODY "active_tokens_body.h"
#include "versions.h"

namespace clm {
namespace {

constexpr int64_t kTop = int64_t(1) << 30;  // clm_kernels/ops/tokens.py

// Each norm beside the largest to the nearest whole number, at least 1 above zero; returns false if one is not finite.
bool to_energies(const std::vector<double>& norms, std::vector<int64_t>& energies) {
  double largest = 0;
  for (const double norm : norms) {
    if (!std::isfinite(norm)) return false;
    largest = std::max(largest, norm);
  }
  for (size_t t = 0; t < norms.size(); ++t) {
    energies[t] = norms[t] > 0 ? std::max(int64_t(1), int64_t(norms[t] / largest * double(kTop) + 0.5)) : 0;
  }
  return true;
}

// What the tokens of at least so much energy hold: their energies, or, if `counted`, one each.
int64_t held(const std::vector<int64_t>& energies, int64_t least, bool counted) {
  int64_t sum = 0;
  for (const int64_t energy : energies) sum += energy >= least ? (counted ? 1 : energy) : 0;
  return sum;
}

}  // namespace

void active_tokens(const Operand& dy, int64_t tokens, int64_t columns, double part, bool counted, int64_t* index, int64_t* count, int threads) {
  std::vector<double> norms(static_cast<size_t>(tokens));
  std::vector<int64_t> energies(static_cast<size_t>(tokens), kTop);
  const auto squared_norms_of = CLM_PICK(squared_norms_of);
  parallel_ranges(tokens, threads_for(double(tokens) * double(columns) / 8, threads), [&](int64_t begin, int64_t end) {
    squared_norms_of(dy, columns, begin, end, norms.data());
  });
  if (!to_energies(norms, energies)) part = 1, counted = false;

  const int64_t all = counted ? tokens : held(energies, 1, false);
  const int64_t needed = std::max(int64_t(1), int64_t(std::ceil(part * double(all))));
  int64_t threshold = 1;  // the largest that leaves enough; fewer than `needed` may be above zero
  for (int64_t high = kTop; threshold < high;) {
    const int64_t middle = (threshold + high + 1) / 2;
    held(energies, middle, counted) >= needed ? threshold = middle : high = middle - 1;
  }
  const int64_t missing = needed - held(energies, threshold + 1, counted), each = counted ? 1 : threshold;
  int64_t ties = (missing + each - 1) / each, active = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    if (energies[t] > threshold || (energies[t] == threshold && ties-- > 0)) index[active++] = t;
  }
  std::fill(index + active, index + tokens, tokens);
  *count = active;
}

}  // namespace clm
