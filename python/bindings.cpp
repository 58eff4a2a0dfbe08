// lckernels._host: csrc/host for Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "host/cpu_features.h"
#include "host/plan.h"

namespace py = pybind11;

namespace {

using Boundaries = std::vector<std::vector<int64_t>>;

// (num_chunks, 8) int32 as a bytearray, the columns in the order of lck::ChunkSpan.
py::bytearray plan_chunks(const std::vector<int64_t>& lengths, int64_t chunk_len, int64_t overlap,
                          const std::string& rule, const std::optional<Boundaries>& boundaries,
                          int64_t num_leading, int64_t num_trailing) {
  static_assert(sizeof(lck::ChunkSpan) == 8 * sizeof(int32_t));
  const lck::ChunkOptions options{chunk_len, overlap, lck::keep_rule_from_name(rule), num_leading,
                                  num_trailing};
  const auto spans = lck::plan_chunks(lengths, options, boundaries.value_or(Boundaries{}));
  return py::bytearray(reinterpret_cast<const char*>(spans.data()), spans.size() * sizeof(lck::ChunkSpan));
}

}  // namespace

PYBIND11_MODULE(_host, module) {
  module.def("plan_chunks", &plan_chunks, py::arg("lengths"), py::arg("chunk_len"), py::arg("overlap"),
             py::arg("rule"), py::arg("boundaries"), py::arg("num_leading"), py::arg("num_trailing"));
  module.def("detected_isa", [] { return lck::isa_name(lck::detected_isa()); });
}
