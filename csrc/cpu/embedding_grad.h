#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace clm {

constexpr int64_t kEmbeddingPanel = 128;  // columns per item of work

struct EmbeddingGrad {
  Operand dy;
  Array out;
  int64_t columns;
  std::vector<int64_t> ends;    // of each selected row: one past its last token in `tokens`
  std::vector<int64_t> tokens;  // sorted by row, then by position
};

}  // namespace clm
