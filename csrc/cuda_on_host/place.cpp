#include "place.h"

#include <dlfcn.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string_view>

namespace visgen::host {
namespace {

bool is_kernel_source(std::string_view file) {
  for (std::string_view header : {"/cuda/launch.cuh", "/cuda/warp.cuh", "/cuda/vec.cuh", "/cuda/mma.cuh"}) {
    if (file.find(header) != file.npos) return false;
  }
  return file.starts_with("/") && !file.starts_with("/usr/") && file.find("/cuda_on_host/emulation.h") == file.npos;
}

std::string shorten(std::string_view location) {
  location = location.substr(0, location.find(" (discriminator"));
  const size_t root = location.rfind("/csrc/");
  return std::string(root == location.npos ? location.substr(location.rfind('/') + 1) : location.substr(root + 1));
}

// The chain of inlined calls, innermost first, one location a line.
std::string run_addr2line(const char* library, uintptr_t offset) {
  char command[4352];
  std::snprintf(command, sizeof(command), "addr2line -i -e '%s' 0x%zx 2>/dev/null", library, size_t(offset));
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command, "r"), pclose);
  std::string output;
  std::array<char, 512> line;
  while (pipe && std::fgets(line.data(), line.size(), pipe.get())) output += line.data();
  return output;
}

std::string resolve(const void* return_address) {
  const char* call = static_cast<const char*>(return_address) - 1;
  Dl_info library;
  if (dladdr(call, &library) == 0) return "an unknown place";
  const uintptr_t offset = call - static_cast<const char*>(library.dli_fbase);
  std::istringstream chain(run_addr2line(library.dli_fname, offset));
  for (std::string location; std::getline(chain, location);) {
    if (is_kernel_source(location)) return shorten(location);
  }
  std::ostringstream place;
  place << library.dli_fname << "+0x" << std::hex << offset;
  return place.str();
}

}  // namespace

std::string describe_place(const void* return_address) {
  static std::mutex mutex;
  static std::map<const void*, std::string> known;
  const std::lock_guard lock(mutex);
  auto [entry, is_new] = known.try_emplace(return_address);
  if (is_new) entry->second = resolve(return_address);
  return entry->second;
}

}  // namespace visgen::host
