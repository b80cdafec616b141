#include "level.h"

#include <atomic>
#include <stdexcept>

namespace clm {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Level best() {
#if CLM_HAS_VERSIONS
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) return Level::baseline;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? Level::avx512 : Level::avx2;
#else
  return Level::baseline;
#endif
}

std::atomic<Level> current{best()};

}  // namespace

Level level() { return current.load(std::memory_order_relaxed); }

const char* level_name() { return kNames[int(level())]; }

bool has_bfloat16_products() {
#if CLM_HAS_VERSIONS
  return best() == Level::avx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

void set_level(const std::string& name) {
  if (name == "auto") return current.store(best());
  for (int i = 0; i <= int(best()); ++i) {
    if (name == kNames[i]) return current.store(Level(i));
  }
  throw std::invalid_argument("set_level: name must be auto or an instruction set of this processor, up to " +
                              std::string(kNames[int(best())]) + ", got " + name);
}

}  // namespace clm
