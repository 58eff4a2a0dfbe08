// lckernels._host: csrc/host for Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "host/cpu_features.h"
#include "host/plan.h"
#include "host/roofline.h"
#include "host/viterbi.h"

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

// logits and path are addresses of contiguous memory: float32 (num_tokens, num_labels), int32 (num_tokens).
void viterbi(uintptr_t logits, uintptr_t path, int64_t num_tokens, int64_t num_labels,
             const std::vector<int64_t>& lengths, const std::vector<float>& transitions,
             const std::vector<float>& begin, const std::vector<float>& end) {
  const std::span emissions(reinterpret_cast<const float*>(logits), num_tokens * num_labels);
  const std::span labels(reinterpret_cast<int32_t*>(path), num_tokens);
  lck::viterbi(emissions, {num_labels, transitions, begin, end}, lengths, labels);
}

}  // namespace

PYBIND11_MODULE(_host, module) {
  module.def("plan_chunks", &plan_chunks, py::arg("lengths"), py::arg("chunk_len"), py::arg("overlap"),
             py::arg("rule"), py::arg("boundaries"), py::arg("num_leading"), py::arg("num_trailing"));

  py::class_<lck::Rate>(module, "Rate", "FLOP/s or bytes/s over equal passes")
      .def_readonly("median", &lck::Rate::median)
      .def_readonly("best", &lck::Rate::best)
      .def_readonly("passes", &lck::Rate::passes)
      .def_readonly("method", &lck::Rate::method);
  const py::call_guard<py::gil_scoped_release> without_gil;
  module.def("viterbi", &viterbi, py::arg("logits"), py::arg("path"), py::arg("num_tokens"),
             py::arg("num_labels"), py::arg("lengths"), py::arg("transitions"), py::arg("begin"),
             py::arg("end"), without_gil);
  module.def("peak_dtypes", &lck::peak_dtypes);
  module.def("peak_flops", &lck::peak_flops, py::arg("dtype"), py::arg("threads"), py::arg("seconds"),
             without_gil);
  module.def("read_bandwidth", &lck::read_bandwidth, py::arg("bytes"), py::arg("threads"), py::arg("seconds"),
             without_gil);
  py::enum_<lck::Pages>(module, "Pages")
      .value("warm", lck::Pages::kWarm)
      .value("fresh", lck::Pages::kFresh)
      .value("fresh_huge", lck::Pages::kFreshHuge);
  py::enum_<lck::Stores>(module, "Stores")
      .value("ordinary", lck::Stores::kOrdinary)
      .value("streaming", lck::Stores::kStreaming);
  module.def("copy_bandwidth", &lck::copy_bandwidth, py::arg("read_bytes"), py::arg("write_bytes"),
             py::arg("pages"), py::arg("threads"), py::arg("seconds"), without_gil);
  py::class_<lck::CopyProbe>(module, "CopyProbe",
                             "copies whose single passes can be timed between other work")
      .def(py::init<std::size_t, std::size_t, lck::Pages, int>(), py::arg("read_bytes"),
           py::arg("write_bytes"), py::arg("pages"), py::arg("threads"))
      .def_property_readonly("bytes", &lck::CopyProbe::bytes)
      .def("seconds", &lck::CopyProbe::pass, py::arg("stores"), without_gil);
  module.def("detected_isa", [] { return lck::isa_name(lck::detected_isa()); });
}
