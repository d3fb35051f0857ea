// The pybind11 module _C: introspection only. The operations never pass through it, so a wheel works on interpreters
// for which it was not built.
#include <pybind11/pybind11.h>

#include <sstream>
#include <string>

extern "C" const char* visgen_fast_cpu_capability();

namespace py = pybind11;

namespace {

// "a,b,c" -> ["a", "b", "c"]; "" -> []
py::list split(const std::string& text) {
  py::list items;
  std::istringstream stream(text);
  for (std::string item; std::getline(stream, item, ',');) items.append(item);
  return items;
}

py::dict build_info() {
  py::dict info;
  info["version"] = VISGEN_VERSION;
  info["torch_target"] = VISGEN_TORCH_TARGET;
  info["instruction_sets"] = split(VISGEN_INSTRUCTION_SETS);
  info["cuda_architectures"] = split(VISGEN_CUDA_ARCHITECTURES);
  info["compiler"] = VISGEN_COMPILER;
  info["nvcc"] = VISGEN_NVCC;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Introspection of the compiled half of visgen_fast.";
  module.def("build_info", &build_info,
             "How the libraries were built: version, torch_target (oldest torch they run with), instruction_sets,\n"
             "cuda_architectures (empty without the CUDA library), compiler, nvcc (empty likewise).");
  module.def("cpu_capability", &visgen_fast_cpu_capability,
             "The instruction set that the CPU kernels use, one of build_info()['instruction_sets'].");
}
