// Includes CLM_BODY once per instruction set, each in a namespace of its own; CLM_PICK chooses among them at run time.
//
// The pragmas, unlike GCC's target_clones, reach templates and OpenMP bodies, and need neither ifunc nor -march. Inside,
// CLM_VECTOR_BYTES is the width of a vector register and CLM_TILE_ROWS how many rows of 3 vectors fit into all of them.
// No include guard on purpose. A body includes nothing, so that no inline function of the standard library is compiled
// for a processor that may not be there; include level.h before.

#if CLM_HAS_VERSIONS

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
#endif
#define CLM_VECTOR_BYTES 32
#define CLM_TILE_ROWS 4
namespace clm::avx2 {
#include "vector.h"
#include CLM_BODY
}
#undef CLM_VECTOR_BYTES
#undef CLM_TILE_ROWS
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi,bmi2")
#endif
#define CLM_VECTOR_BYTES 64
#define CLM_TILE_ROWS 8
namespace clm::avx512 {
#include "vector.h"
#include CLM_BODY
}
#undef CLM_VECTOR_BYTES
#undef CLM_TILE_ROWS
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // CLM_HAS_VERSIONS

#define CLM_VECTOR_BYTES 16
#if defined(__x86_64__)
#define CLM_TILE_ROWS 4
#else
#define CLM_TILE_ROWS 8
#endif
namespace clm::baseline {
#include "vector.h"
#include CLM_BODY
}
#undef CLM_VECTOR_BYTES
#undef CLM_TILE_ROWS
#undef CLM_BODY
