// Which instruction set runs: the best one this processor has, or a lower one that a test asked for.
#pragma once

#include <string>
#include <type_traits>  // used by vector.h, which may include nothing itself
#include <utility>

namespace clm {

enum class Level : int { baseline, avx2, avx512 };

Level level();
void set_level(const std::string& name);  // "auto", "baseline", "avx2" or "avx512"
const char* level_name();
bool has_bfloat16_products();  // AVX512-BF16: torch's own products use it

}  // namespace clm

#if defined(__GNUC__) && defined(__x86_64__)
#define CLM_HAS_VERSIONS 1
#define CLM_PICK(...) \
  (::clm::level() == ::clm::Level::avx512 ? &::clm::avx512::__VA_ARGS__ \
   : ::clm::level() == ::clm::Level::avx2 ? &::clm::avx2::__VA_ARGS__ : &::clm::baseline::__VA_ARGS__)
#else
#define CLM_HAS_VERSIONS 0
#define CLM_PICK(...) (&::clm::baseline::__VA_ARGS__)
#endif
