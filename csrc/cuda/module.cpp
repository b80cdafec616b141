// Python module clm_kernels._cuda: addresses, sizes and a stream in, nothing of torch. Called by clm_kernels/ops/cuda alone.

#include <cstring>
#include <tuple>

#include "../binding.h"
#include "kernels.h"
#include "offset.h"

namespace py = pybind11;

namespace clm::cuda {
namespace {

void py_gather(Address dense, const EntriesFields& selected, int64_t item_size, Address compact, Address stream) {
  gather(pointer(dense), entries(selected), item_size, pointer(compact), pointer(stream));
}

void py_scatter(Address dense, const EntriesFields& selected, int64_t item_size, Address compact, Address stream) {
  scatter(pointer(dense), entries(selected), item_size, pointer(compact), pointer(stream));
}

void py_masked_grad(const ArrayFields& grad, const ArrayFields& dense_grad, const EntriesFields& selected, double scale, Address found,
                    Address stream) {
  masked_grad(array(grad), array(dense_grad), entries(selected), scale, pointer<float>(found), pointer(stream));
}

py::bytes py_chunks(const std::vector<int64_t>& counts) {
  const std::vector<Chunk> chunks = chunks_of(counts);
  return {reinterpret_cast<const char*>(chunks.data()), chunks.size() * sizeof(Chunk)};
}

std::vector<int64_t> py_dense_offsets(const EntriesFields& selected) {
  const Entries e = entries(selected);
  std::vector<int64_t> offsets(e.size);
  for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = dense_offset(e, int64_t(i));
  return offsets;
}

// The parameters of a model, whose addresses stay the same from one AdamW step to the next. The caller copies `table` to
// the device and hands its address to every run.
class AdamWPlan {
 public:
  // Lists run over the parameters.
  AdamWPlan(const ArrayLists& arrays, const std::vector<Address>& denses, const std::vector<EntriesFields>& selected,
            bool amsgrad, bool maximize)
      : parameters_(selected.size()), amsgrad_(amsgrad), maximize_(maximize) {
    std::vector<int64_t> sizes;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      fill(parameters_[i], arrays, denses, selected, i);
      parameters_[i].classify(amsgrad);
      sizes.push_back(parameters_[i].entries.size);
    }
    chunks_ = chunks_of(sizes);
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

  void run(Address table, Address grads, Address settings, const ArrayFields& grad_scale, const ArrayFields& found_inf, const ArrayFields& clip,
           Address stream) {
    const AdamWStep step{pointer<Chunk>(table), pointer<AdamWParameter>(table + parameters_at()), pointer<Array>(grads),
                         pointer<Settings>(settings), array(grad_scale), array(found_inf), array(clip), int64_t(chunks_.size()),
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
  using namespace clm;
  using namespace clm::cuda;
  m.def("gather", &py_gather);
  m.def("scatter", &py_scatter);
  m.def("masked_grad", &py_masked_grad);
  m.def("chunks", &py_chunks, "The chunk table of parameters of these lengths; for tests.");
  m.def("dense_offsets", &py_dense_offsets, "Where compact entries lie in the dense weight, of an index on the CPU; for tests.");
  m.attr("fields") = kFields;
  py::class_<AdamWPlan>(m, "AdamWPlan")
      .def(py::init<const ArrayLists&, const std::vector<Address>&, const std::vector<EntriesFields>&, bool, bool>(), py::kw_only(),
           py::arg("arrays"), py::arg("denses"), py::arg("entries"), py::arg("amsgrad"), py::arg("maximize"))
      .def("table", &AdamWPlan::table)
      .def("run", &AdamWPlan::run)
      .def("chunks", &AdamWPlan::chunks, "Parameter, first entry and length of each chunk; for tests.")
      .def("paths", &AdamWPlan::paths, "How each parameter is read: vector, typed or any; for tests.");
}
