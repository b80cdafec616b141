// Python module clm_kernels._cuda: addresses, sizes and a stream in, nothing of torch. Called by clm_kernels/ops/cuda alone.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <tuple>
#include <utility>

#include "kernels.h"
#include "offset.h"

namespace py = pybind11;

namespace clm::cuda {
namespace {

using Address = uintptr_t;
using Typed = std::pair<Address, int>;                                           // address, dtype code
using Selected = std::tuple<std::array<int64_t, 5>, Address, int64_t, int64_t>;  // layout, index address, item size, length
using Lists = std::vector<std::vector<int64_t>>;

template <typename T = void>
T* pointer(Address address) { return reinterpret_cast<T*>(address); }

Array array(const Typed& a) { return {pointer(a.first), Dtype(a.second)}; }

Entries entries(const int64_t* layout, Address index, int64_t item_size, int64_t count) {
  return {layout[1], layout[2], layout[3], layout[4], pointer(index), count, Kind(layout[0]), item_size == 8};
}

Entries entries(const Selected& s) { return entries(std::get<0>(s).data(), std::get<1>(s), std::get<2>(s), std::get<3>(s)); }

void py_gather(Address dense, const Selected& selected, int64_t item_size, Address compact, Address stream) {
  gather(pointer(dense), entries(selected), item_size, pointer(compact), pointer(stream));
}

void py_scatter(Address dense, const Selected& selected, int64_t item_size, Address compact, Address stream) {
  scatter(pointer(dense), entries(selected), item_size, pointer(compact), pointer(stream));
}

void py_masked_grad(const Typed& grad, const Typed& dense_grad, const Selected& selected, double scale, Address found,
                    Address stream) {
  masked_grad(array(grad), array(dense_grad), entries(selected), scale, pointer<float>(found), pointer(stream));
}

py::bytes py_chunks(const std::vector<int64_t>& counts) {
  const std::vector<Chunk> chunks = chunks_of(counts);
  return {reinterpret_cast<const char*>(chunks.data()), chunks.size() * sizeof(Chunk)};
}

std::vector<int64_t> py_dense_offsets(const Selected& selected) {
  const Entries e = entries(selected);
  std::vector<int64_t> offsets(e.entries());
  for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = dense_offset(e, int64_t(i));
  return offsets;
}

// The parameters of a model, whose addresses stay the same from one AdamW step to the next. The caller copies `table` to
// the device and hands its address to every run.
class AdamWPlan {
 public:
  // Lists run over the parameters: addresses of value, exp_avg, exp_avg_sq, max_exp_avg_sq, master, anchor (0: none), dense
  // and index; dtype codes of the first six; lengths of value and index, item size of the index; layouts (5 ints each).
  AdamWPlan(const Lists& addresses, const Lists& dtypes, const Lists& sizes, const std::vector<int64_t>& layouts,
            bool amsgrad, bool maximize)
      : chunks_(chunks_of(sizes[0])), parameters_(sizes[0].size()), amsgrad_(amsgrad), maximize_(maximize) {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const auto at = [&](int which) { return Array{pointer(Address(addresses[which][i])), Dtype(dtypes[which][i])}; };
      AdamWParameter& p = parameters_[i];
      p.value = at(0), p.exp_avg = at(1), p.exp_avg_sq = at(2), p.max_exp_avg_sq = at(3), p.master = at(4), p.anchor = at(5);
      p.dense = pointer(Address(addresses[6][i]));
      p.entries = entries(&layouts[5 * i], Address(addresses[7][i]), sizes[2][i], sizes[1][i]);
      p.count = sizes[0][i];
      p.classify(amsgrad);
    }
  }

  py::bytes table() const {  // chunks, then parameters
    std::string bytes(parameters_at() + parameters_.size() * sizeof(AdamWParameter), '\0');
    std::memcpy(bytes.data(), chunks_.data(), parameters_at());
    std::memcpy(bytes.data() + parameters_at(), parameters_.data(), bytes.size() - parameters_at());
    return bytes;
  }

  std::vector<std::tuple<int, int64_t, int64_t>> chunks() const {
    std::vector<std::tuple<int, int64_t, int64_t>> all;
    for (const Chunk& chunk : chunks_) all.emplace_back(chunk.parameter, chunk.first, chunk.count);
    return all;
  }

  std::vector<const char*> paths() const {
    std::vector<const char*> all;
    for (const AdamWParameter& p : parameters_) all.push_back(p.vector ? "vector" : p.typed ? "typed" : "any");
    return all;
  }

  void run(Address table, Address grads, Address settings, const Typed& grad_scale, const Typed& found_inf, const Typed& clip,
           Address stream) {
    const AdamWStep step{pointer<Chunk>(table), pointer<AdamWParameter>(table + parameters_at()), pointer<Array>(grads),
                         pointer<double>(settings), array(grad_scale), array(found_inf), array(clip), int64_t(chunks_.size()),
                         amsgrad_, maximize_};
    adamw_step(step, pointer(stream));
  }

 private:
  size_t parameters_at() const { return chunks_.size() * sizeof(Chunk); }

  std::vector<Chunk> chunks_;
  std::vector<AdamWParameter> parameters_;
  bool amsgrad_, maximize_;
};

}  // namespace
}  // namespace clm::cuda

PYBIND11_MODULE(_cuda, m) {
  using namespace clm::cuda;
  m.def("gather", &py_gather);
  m.def("scatter", &py_scatter);
  m.def("masked_grad", &py_masked_grad);
  m.def("chunks", &py_chunks, "The chunk table of parameters of these lengths; for tests.");
  m.def("dense_offsets", &py_dense_offsets, "Where compact entries lie in the dense weight, of an index on the CPU; for tests.");
  py::class_<AdamWPlan>(m, "AdamWPlan")
      .def(py::init<const Lists&, const Lists&, const Lists&, const std::vector<int64_t>&, bool, bool>())
      .def("table", &AdamWPlan::table)
      .def("run", &AdamWPlan::run)
      .def("chunks", &AdamWPlan::chunks, "Parameter, first entry and length of each chunk; for tests.")
      .def("paths", &AdamWPlan::paths, "How each parameter is read: vector, typed or any; for tests.");
}
