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

constexpr int64_t kTop = int64_t(1) << 30;      // clm_kernels/ops/tokens.py
constexpr int64_t kNormTop = int64_t(1) << 18;  // likewise

// Each squared norm, or if `rooted` each norm, beside the largest to the nearest whole number, at least 1 above zero; returns false if
// one is not finite.
bool to_whole(const std::vector<double>& squares, bool rooted, std::vector<int64_t>& whole) {
  double largest = 0;
  for (const double square : squares) {
    if (!std::isfinite(square)) return false;
    largest = std::max(largest, square);
  }
  for (size_t t = 0; t < squares.size(); ++t) {
    const double part = rooted ? std::sqrt(squares[t] / largest) * double(kNormTop) : squares[t] / largest * double(kTop);
    whole[t] = squares[t] > 0 ? std::max(int64_t(1), int64_t(part + 0.5)) : 0;
  }
  return true;
}

std::vector<double> squared_norms(const Operand& dy, int64_t tokens, int64_t columns, int threads) {
  std::vector<double> norms(static_cast<size_t>(tokens));
  const auto squared_norms_of = CLM_PICK(squared_norms_of);
  parallel_ranges(tokens, threads_for(double(tokens) * double(columns) / 8, threads), [&](int64_t begin, int64_t end) {
    squared_norms_of(dy, columns, begin, end, norms.data());
  });
  return norms;
}

// What drawing adds to the error if tokens of norms below `level` are drawn.
int64_t error(const std::vector<int64_t>& norms, int64_t level) {
  int64_t sum = 0;
  for (const int64_t norm : norms) sum += norm < level ? norm * (level - norm) : 0;
  return sum;
}

// What the tokens of at least so much energy hold: their energies, or, if `counted`, one each.
int64_t held(const std::vector<int64_t>& energies, int64_t least, bool counted) {
  int64_t sum = 0;
  for (const int64_t energy : energies) sum += energy >= least ? (counted ? 1 : energy) : 0;
  return sum;
}

}  // namespace

void active_tokens(const Operand& dy, int64_t tokens, int64_t columns, double part, bool counted, int64_t* index, int64_t* count, int threads) {
  std::vector<int64_t> energies(static_cast<size_t>(tokens), kTop);
  if (!to_whole(squared_norms(dy, tokens, columns, threads), false, energies)) part = 1, counted = false;

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

void drawn_tokens(const Operand& dy, int64_t tokens, int64_t columns, double noise, double start, int64_t* index, int64_t* count,
                  float* weight, int threads) {
  std::vector<int64_t> norms(static_cast<size_t>(tokens), kNormTop);
  int64_t level = 0;
  if (to_whole(squared_norms(dy, tokens, columns, threads), true, norms)) {
    int64_t squares = 0;
    for (const int64_t norm : norms) squares += norm * norm;
    const int64_t budget = int64_t(std::floor(noise * double(squares)));
    for (int64_t bit = 2 * kNormTop; bit > 0; bit /= 2) {
      if (error(norms, level + bit) <= budget) level += bit;
    }
  }
  level = std::max(level, int64_t(1));
  int64_t active = 0, step = int64_t(start * double(level));  // the place along the light tokens' norms, within one level
  for (int64_t t = 0; t < tokens; ++t) {
    bool taken = norms[t] >= level;
    if (!taken) {
      step += norms[t];
      taken = step >= level;
      if (taken) step -= level;
    }
    weight[t] = taken ? float(std::max(1.0, double(level) / double(norms[t]))) : 0;
    if (taken) index[active++] = t;
  }
  std::fill(index + active, index + tokens, tokens);
  *count = active;
}

}  // namespace clm
