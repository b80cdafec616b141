// What Python hands over. Made from clm_kernels/ops/fields.py: change that one, then run `python csrc/fields.py`.
#pragma once

#include <cstdint>

namespace clm {

enum Kind : int32_t { kRows, kColumns, kBlocks, kElements, kDense };
enum class Dtype : int32_t { float32, float64, bfloat16, float16 };
enum Arrays : int32_t { kValues, kExpAvgs, kExpAvgSqs, kMaxExpAvgSqs, kMasters, kAnchors };

struct Settings { double lr, beta1, beta2, eps, weight_decay, step; };
struct ArrayFields { int64_t address, dtype; };
struct MatrixFields { int64_t address, stride, dtype, sliced; };
struct EntriesFields { int64_t kind, rows, columns, block_rows, block_columns, index, index_bytes, count, size; };

// What a built module says that it was built with.
constexpr char kFields[] =
    "Kind: rows columns blocks elements dense; "
    "Dtype: float32 float64 bfloat16 float16; "
    "Arrays: values exp_avgs exp_avg_sqs max_exp_avg_sqs masters anchors; "
    "Settings: lr beta1 beta2 eps weight_decay step; "
    "ArrayFields: address dtype; "
    "MatrixFields: address stride dtype sliced; "
    "EntriesFields: kind rows columns block_rows block_columns index index_bytes count size";

}  // namespace clm
