// Floating types that arrive as raw addresses, and their conversions: round to nearest even, NaN stays NaN.
#pragma once

#include <cstdint>
#include <cstring>

#include "../arguments.h"

#if defined(__GNUC__)
#define CLM_INLINE inline __attribute__((always_inline))
#define CLM_RESTRICT __restrict__
#define CLM_PRAGMA(x) _Pragma(#x)
#define CLM_UNROLL(n) CLM_PRAGMA(GCC unroll n)
#else
#define CLM_INLINE inline
#define CLM_RESTRICT __restrict
#define CLM_UNROLL(n)
#endif

namespace clm {

struct Bfloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

CLM_INLINE float as_float(uint32_t bits) { float value; std::memcpy(&value, &bits, 4); return value; }
CLM_INLINE uint32_t as_bits(float value) { uint32_t bits; std::memcpy(&bits, &value, 4); return bits; }

CLM_INLINE float to_float(float value) { return value; }
CLM_INLINE double to_float(double value) { return value; }
CLM_INLINE float to_float(Bfloat16 value) { return as_float(uint32_t(value.bits) << 16); }

CLM_INLINE float to_float(Float16 value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16;
  const uint32_t shifted = uint32_t(value.bits & 0x7fff) << 13;
  const uint32_t exponent = shifted & (0x7c00u << 13);
  const uint32_t normal = shifted + (112u << 23);
  const uint32_t special = shifted + (224u << 23);  // inf, NaN
  const float subnormal = as_float(shifted + (113u << 23)) - as_float(113u << 23);
  const uint32_t magnitude = exponent == (0x7c00u << 13) ? special : exponent == 0 ? as_bits(subnormal) : normal;
  return as_float(sign | magnitude);
}

CLM_INLINE void from_float(float value, float& out) { out = value; }
CLM_INLINE void from_float(float value, double& out) { out = value; }
CLM_INLINE void from_float(double value, float& out) { out = float(value); }
CLM_INLINE void from_float(double value, double& out) { out = value; }

CLM_INLINE void from_float(float value, Bfloat16& out) {
  const uint32_t bits = as_bits(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  out.bits = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

CLM_INLINE void from_float(float value, Float16& out) {
  const uint32_t bits = as_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;                               // NaN, or too large
  const uint32_t subnormal = as_bits(as_float(magnitude) + as_float(126u << 23)) - (126u << 23);   // the addition rounds
  const uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const uint32_t small = magnitude < (113u << 23) ? subnormal : normal;
  out.bits = uint16_t(sign | (magnitude >= (143u << 23) ? special : small));
}

CLM_INLINE void from_float(double value, Bfloat16& out) { from_float(float(value), out); }
CLM_INLINE void from_float(double value, Float16& out) { from_float(float(value), out); }

}  // namespace clm
