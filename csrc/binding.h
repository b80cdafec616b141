// How the modules take Python's numbers: tuples of ints as structs with named fields, addresses as pointers.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <vector>

#include "arguments.h"

namespace clm {

using Address = uintptr_t;
using ArrayLists = std::vector<std::vector<ArrayFields>>;

template <typename T = void, typename Number>
T* pointer(Number address) { return reinterpret_cast<T*>(Address(address)); }

inline Array array(const ArrayFields& a) { return {pointer(a.address), Dtype(a.dtype)}; }

inline Entries entries(const EntriesFields& e) {
  return {e.rows, e.columns, e.block_rows, e.block_columns, pointer(e.index), e.count, e.size, Kind(e.kind), e.index_bytes == 8};
}

// What C++ and CUDA alike know of parameter i of an AdamW step.
template <typename Parameter>
void fill(Parameter& p, const ArrayLists& arrays, const std::vector<Address>& denses, const std::vector<EntriesFields>& selected,
          size_t i) {
  const auto of = [&](Arrays which) { return array(arrays[which][i]); };
  p.value = of(kValues);
  p.exp_avg = of(kExpAvgs);
  p.exp_avg_sq = of(kExpAvgSqs);
  p.max_exp_avg_sq = of(kMaxExpAvgSqs);
  p.master = of(kMasters);
  p.anchor = of(kAnchors);
  p.dense = pointer(denses[i]);
  p.entries = entries(selected[i]);
}

}  // namespace clm

namespace pybind11::detail {

// A tuple of as many ints as the struct has fields.
template <typename Fields>
struct fields_caster {
  PYBIND11_TYPE_CASTER(Fields, const_name("tuple[int, ...]"));

  bool load(handle source, bool) {
    static_assert(sizeof(Fields) % sizeof(int64_t) == 0);
    constexpr Py_ssize_t length = sizeof(Fields) / sizeof(int64_t);
    if (!PyTuple_Check(source.ptr()) || PyTuple_GET_SIZE(source.ptr()) != length) return false;
    int64_t numbers[length];
    for (Py_ssize_t i = 0; i < length; ++i) {
      numbers[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(source.ptr(), i));
      if (numbers[i] == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        return false;
      }
    }
    std::memcpy(&value, numbers, sizeof(Fields));
    return true;
  }
};

template <> struct type_caster<clm::ArrayFields> : fields_caster<clm::ArrayFields> {};
template <> struct type_caster<clm::MatrixFields> : fields_caster<clm::MatrixFields> {};
template <> struct type_caster<clm::EntriesFields> : fields_caster<clm::EntriesFields> {};

}  // namespace pybind11::detail
