// Python module clm_kernels._cpu: addresses and sizes in, nothing of torch. Called by clm_kernels/ops/cpu alone.

#include <optional>
#include <stdexcept>
#include <string>

#include "../binding.h"
#include "kernels.h"
#include "level.h"

namespace py = pybind11;

namespace clm {
namespace {

Operand operand(const MatrixFields& m) { return {pointer(m.address), m.stride, Dtype(m.dtype), m.sliced != 0}; }

// A copy of the active tokens, checked, as whoever has them may write there meanwhile.
std::vector<int64_t> active(const char* op, Address index, Address count, int64_t tokens) {
  const int64_t size = *pointer<const int64_t>(count);
  if (size < 0 || size > tokens) {
    throw std::invalid_argument(std::string(op) + ": count must be in [0, " + std::to_string(tokens) + "], got " + std::to_string(size));
  }
  const int64_t* given = pointer<const int64_t>(index);
  std::vector<int64_t> rows(given, given + size);
  for (int64_t i = 0, least = 0; i < size; least = rows[i++] + 1) {
    if (rows[i] < least || rows[i] >= tokens) {
      throw std::invalid_argument(std::string(op) + ": tokens must be ascending in [0, " + std::to_string(tokens) + "), got " +
                                  std::to_string(rows[i]) + " at " + std::to_string(i));
    }
  }
  return rows;
}

void py_active_tokens(const MatrixFields& dy, int64_t tokens, int64_t columns, double part, bool counted, Address index, Address count,
                      int threads) {
  active_tokens(operand(dy), tokens, columns, part, counted, pointer<int64_t>(index), pointer<int64_t>(count), threads);
}

void py_drawn_tokens(const MatrixFields& dy, int64_t tokens, int64_t columns, double noise, double start, Address index, Address count,
                     Address weight, int threads) {
  if (!(start >= 0 && start < 1)) throw std::invalid_argument("drawn_tokens: start must be in [0, 1), got " + std::to_string(start));
  drawn_tokens(operand(dy), tokens, columns, noise, start, pointer<int64_t>(index), pointer<int64_t>(count), pointer<float>(weight), threads);
}

void py_input_grad(const MatrixFields& dy, const MatrixFields& weight, int64_t tokens, int64_t sums, int64_t columns, Address index,
                   Address count, const ArrayFields& dx, int threads) {
  input_grad(operand(dy), operand(weight), tokens, sums, columns, active("input_grad", index, count, tokens), array(dx), threads);
}

void py_weight_grad(const MatrixFields& dy, const MatrixFields& x, int64_t tokens, const EntriesFields& selected,
                    const ArrayFields& out, int threads) {
  weight_grad(operand(dy), operand(x), tokens, entries(selected), array(out), threads);
}

void py_active_weight_grad(const MatrixFields& dy, const MatrixFields& x, int64_t tokens, const EntriesFields& selected, Address index,
                           Address count, const std::optional<std::vector<std::array<int64_t, 3>>>& shapes, Address group_rows,
                           Address group_columns, Address firsts, const ArrayFields& out, int threads) {
  const Entries e = entries(selected);
  const std::vector<int64_t> rows = active("weight_grad", index, count, tokens);
  Operand of_dy = operand(dy), of_x = operand(x);
  of_dy.rows = of_x.rows = rows.data();
  if (!shapes || !fits_groups(e)) return weight_grad(of_dy, of_x, int64_t(rows.size()), e, array(out), threads);
  const DealtGroups groups{*shapes, pointer<const int64_t>(group_rows), pointer<const int64_t>(group_columns), pointer<const int64_t>(firsts)};
  weight_grad_groups(of_dy, of_x, int64_t(rows.size()), e, groups, array(out), threads);
}

void py_embedding_grad(const MatrixFields& dy, Address ids, int64_t ids_size, int64_t tokens, const EntriesFields& selected,
                       const ArrayFields& out, int threads) {
  embedding_grad(operand(dy), pointer(ids), ids_size == 8, tokens, entries(selected), array(out), threads);
}

void py_gather(Address dense, const EntriesFields& selected, int64_t item_size, Address compact, int threads) {
  gather(pointer(dense), entries(selected), item_size, pointer(compact), threads);
}

void py_scatter(Address dense, const EntriesFields& selected, int64_t item_size, Address compact, int threads) {
  scatter(pointer(dense), entries(selected), item_size, pointer(compact), threads);
}

bool py_masked_grad(const ArrayFields& grad, const ArrayFields& dense_grad, const EntriesFields& selected, double scale, int threads) {
  const Array dense = array(dense_grad);
  return masked_grad(array(grad), dense.data, dense.dtype, entries(selected), scale, threads);
}

// The parameters of a model, whose addresses stay the same from one AdamW step to the next.
class AdamWPlan {
 public:
  // Lists run over the parameters.
  AdamWPlan(const ArrayLists& arrays, const std::vector<Address>& denses, const std::vector<EntriesFields>& selected,
            bool amsgrad, bool maximize)
      : parameters_(selected.size()), amsgrad_(amsgrad), maximize_(maximize) {
    for (size_t i = 0; i < parameters_.size(); ++i) fill(parameters_[i], arrays, denses, selected, i);
  }

  void run(const std::vector<ArrayFields>& grads, Address settings, std::optional<double> grad_scale, std::optional<double> clip,
           int threads) {
    std::vector<AdamWParameter> parameters = parameters_;  // another thread may call while this one runs, with other gradients
    for (size_t i = 0; i < parameters.size(); ++i) {
      parameters[i].grad = array(grads[i]);
      parameters[i].settings = pointer<const Settings>(settings)[i];
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
  m.def("active_tokens", &py_active_tokens, Release());
  m.def("drawn_tokens", &py_drawn_tokens, Release());
  m.def("input_grad", &py_input_grad, Release());
  m.def("weight_grad", &py_weight_grad, Release());
  m.def("active_weight_grad", &py_active_weight_grad, Release());
  m.def("embedding_grad", &py_embedding_grad, Release());
  m.def("gather", &py_gather, Release());
  m.def("scatter", &py_scatter, Release());
  m.def("masked_grad", &py_masked_grad, Release());
  py::class_<AdamWPlan>(m, "AdamWPlan")
      .def(py::init<const ArrayLists&, const std::vector<Address>&, const std::vector<EntriesFields>&, bool, bool>(), py::kw_only(),
           py::arg("arrays"), py::arg("denses"), py::arg("entries"), py::arg("amsgrad"), py::arg("maximize"))
      .def("run", &AdamWPlan::run);
  m.def("instructions", &level_name, "The instruction set in use: baseline, avx2 or avx512.");
  m.def("set_instructions", &set_level, "Uses another one, or auto; for tests.");
  m.attr("fields") = kFields;
  m.attr("bfloat16_products") = has_bfloat16_products();
#if defined(_OPENMP)
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
}
