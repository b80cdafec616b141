// Python module clm_kernels._cpu: addresses and sizes in, nothing of torch. Called by clm_kernels/ops/cpu alone.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <utility>

#include "kernels.h"
#include "level.h"

namespace py = pybind11;

namespace clm {
namespace {

using Address = uintptr_t;
using Array = std::pair<Address, int>;                                            // address, dtype code
using Matrix = std::tuple<Address, int64_t, int, bool>;                           // address, row stride, dtype code, sliced
using Selected = std::tuple<std::array<int64_t, 5>, Address, int64_t, int64_t>;   // layout, index address, item size, length
using Lists = std::vector<std::vector<int64_t>>;

template <typename T = void>
T* pointer(Address address) { return reinterpret_cast<T*>(address); }

Output output(const Array& a) { return {pointer(a.first), Dtype(a.second)}; }

Operand operand(const Matrix& m) { return {pointer(std::get<0>(m)), std::get<1>(m), Dtype(std::get<2>(m)), std::get<3>(m)}; }

Entries entries(const std::array<int64_t, 5>& layout, Address index, int64_t item_size, int64_t count) {
  return {int(layout[0]), layout[1], layout[2], layout[3], layout[4], pointer(index), item_size == 8, count};
}

Entries entries(const Selected& s) { return entries(std::get<0>(s), std::get<1>(s), std::get<2>(s), std::get<3>(s)); }

void py_weight_grad(const Matrix& dy, const Matrix& x, int64_t tokens, const Selected& selected, const Array& out, int threads) {
  weight_grad(operand(dy), operand(x), tokens, entries(selected), output(out), threads);
}

void py_embedding_grad(const Matrix& dy, Address ids, int64_t ids_size, int64_t tokens, const Selected& selected, const Array& out, int threads) {
  embedding_grad(operand(dy), pointer(ids), ids_size == 8, tokens, entries(selected), output(out), threads);
}

void py_gather(Address dense, const Selected& selected, int64_t item_size, Address compact, int threads) {
  gather(pointer(dense), entries(selected), item_size, pointer(compact), threads);
}

void py_scatter(Address dense, const Selected& selected, int64_t item_size, Address compact, int threads) {
  scatter(pointer(dense), entries(selected), item_size, pointer(compact), threads);
}

bool py_masked_grad(const Array& grad, const Array& dense_grad, const Selected& selected, double scale, int threads) {
  return masked_grad(output(grad), pointer(dense_grad.first), Dtype(dense_grad.second), entries(selected), scale, threads);
}

// The parameters of a model, whose addresses stay the same from one AdamW step to the next.
class AdamWPlan {
 public:
  // Lists run over the parameters: addresses of value, exp_avg, exp_avg_sq, max_exp_avg_sq, master, anchor (0: none), dense
  // and index; dtype codes of the first six; lengths of value and index, item size of the index; layouts (5 ints each).
  AdamWPlan(const Lists& addresses, const Lists& dtypes, const Lists& sizes, const std::vector<int64_t>& layouts, bool amsgrad, bool maximize)
      : parameters_(addresses[0].size()), amsgrad_(amsgrad), maximize_(maximize) {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const auto array = [&](int which) { return Output{pointer(Address(addresses[which][i])), Dtype(dtypes[which][i])}; };
      std::array<int64_t, 5> layout;
      std::copy_n(layouts.begin() + 5 * i, 5, layout.begin());
      AdamWParameter& p = parameters_[i];
      p.value = array(0), p.exp_avg = array(1), p.exp_avg_sq = array(2), p.max_exp_avg_sq = array(3), p.master = array(4), p.anchor = array(5);
      p.dense = pointer(Address(addresses[6][i]));
      p.entries = entries(layout, Address(addresses[7][i]), sizes[2][i], sizes[1][i]);
      p.count = sizes[0][i];
    }
  }

  void run(const std::vector<Array>& grads, Address settings, std::optional<double> grad_scale, std::optional<double> clip,
           int threads) {
    const double* s = pointer<const double>(settings);
    std::vector<AdamWParameter> parameters = parameters_;  // another thread may call while this one runs, with other gradients
    for (size_t i = 0; i < parameters.size(); ++i, s += 6) {
      AdamWParameter& p = parameters[i];
      p.grad = output(grads[i]);
      p.lr = s[0], p.beta1 = s[1], p.beta2 = s[2], p.eps = s[3], p.weight_decay = s[4], p.step = s[5];
    }
    py::gil_scoped_release release;
    adamw_step(parameters, {amsgrad_, maximize_, grad_scale.has_value(), grad_scale.value_or(1), clip.value_or(1)}, threads);
  }

 private:
  std::vector<AdamWParameter> parameters_;
  bool amsgrad_, maximize_;
};

}  // namespace
}  // namespace clm

PYBIND11_MODULE(_cpu, m) {
  using namespace clm;
  using Release = py::call_guard<py::gil_scoped_release>;
  m.def("weight_grad", &py_weight_grad, Release());
  m.def("embedding_grad", &py_embedding_grad, Release());
  m.def("gather", &py_gather, Release());
  m.def("scatter", &py_scatter, Release());
  m.def("masked_grad", &py_masked_grad, Release());
  py::class_<AdamWPlan>(m, "AdamWPlan")
      .def(py::init<const Lists&, const Lists&, const Lists&, const std::vector<int64_t>&, bool, bool>())
      .def("run", &AdamWPlan::run);
  m.def("instructions", &level_name, "The instruction set in use: baseline, avx2 or avx512.");
  m.def("set_instructions", &set_level, "Uses another one, or auto; for tests.");
  m.attr("bfloat16_products") = has_bfloat16_products();
#if defined(_OPENMP)
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
}
