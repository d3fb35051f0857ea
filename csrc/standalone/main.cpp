// The CPU kernels in a process of their own, without torch and Python: it reads calls from its input and answers them,
// until the input ends. That is how the tests run kernels of another processor under an emulator;
// python_tests/standalone.py is the other end. Numbers are little-endian.
//
//   call    name, int32 count of results, int32 count of arguments, the arguments
//   value   'n': absent
//           'v': a number of 8 bytes, as torch's stable interface holds it
//           'o': present where it might not be; the value follows
//           'l': int32 count, the values
//           't', or 'm' where the call overwrites it: int32 element type, int32 dimensions, int64 sizes, int64 strides,
//                int64 count of bytes, the bytes from the first element to behind the last
//   answer  'r', the results and then what was overwritten, as values; or 'e' and a sentence
//   texts   int32 length, the characters
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "torch.h"

extern "C" int visgen_fast_set_first_filter(int filter);

namespace visgen::standalone {
namespace {

void read(void* to, size_t bytes) {
  if (bytes > 0 && fread(to, 1, bytes, stdin) != bytes) exit(0);  // whoever called has ended
}

template <class T>
T read() {
  T value;
  read(&value, sizeof(value));
  return value;
}

std::string read_text() {
  std::string text(read<int32_t>(), ' ');
  read(text.data(), text.size());
  return text;
}

std::vector<int64_t> read_numbers(int32_t count) {
  std::vector<int64_t> numbers(count);
  read(numbers.data(), count * sizeof(int64_t));
  return numbers;
}

Array read_array() {
  const auto dtype = read<int32_t>(), dimensions = read<int32_t>();
  auto sizes = read_numbers(dimensions), strides = read_numbers(dimensions);
  const Array array = made(dtype, std::move(sizes), std::move(strides));
  if (read<int64_t>() != array.extent()) abort();  // the two ends disagree: nothing that follows makes sense
  read(array.data, array.extent());
  return array;
}

StableIValue held(const Array& array) { return torch::stable::detail::from(new Array(array)); }

StableIValue read_value(std::vector<Array>& overwritten) {
  switch (const char kind = read<char>()) {
    case 'n':
      return torch::stable::detail::from(nullptr);
    case 'v':
      return read<StableIValue>();
    case 'o':
      return torch::stable::detail::from(new StableIValue(read_value(overwritten)));
    case 'l': {
      StableListHandle list;
      torch_new_list_reserve_size(0, &list);
      for (auto left = read<int32_t>(); left > 0; --left) torch_list_push_back(list, read_value(overwritten));
      return torch::stable::detail::from(list);
    }
    default: {
      const Array array = read_array();
      if (kind == 'm') overwritten.push_back(array);
      return held(array);
    }
  }
}

void write(const void* from, size_t bytes) { fwrite(from, 1, bytes, stdout); }

template <class T>
void write(T value) {
  write(&value, sizeof(value));
}

void write_array(const Array& array) {
  write(array.dtype);
  write(static_cast<int32_t>(array.sizes.size()));
  write(array.sizes.data(), array.sizes.size() * sizeof(int64_t));
  write(array.strides.data(), array.strides.size() * sizeof(int64_t));
  write(array.extent());
  write(array.data, array.extent());
}

void answer() {
  const std::string name = read_text();
  const auto results = read<int32_t>(), count = read<int32_t>();
  std::vector<Array> overwritten;
  std::vector<StableIValue> stack;
  for (int32_t i = 0; i < count; ++i) stack.push_back(read_value(overwritten));
  try {
    stack.resize(count > results ? count : results);
    if (name == "set_first_filter") {
      visgen_fast_set_first_filter(static_cast<int>(stack[0]));
    } else {
      functions().at(name)(stack.data(), count, results);
    }
  } catch (const std::exception& error) {
    const std::string sentence = error.what();
    write('e');
    write(static_cast<int32_t>(sentence.size()));
    return write(sentence.data(), sentence.size());
  }
  write('r');
  for (int32_t i = 0; i < results; ++i) {
    const std::unique_ptr<Array> array(torch::stable::detail::to<Array*>(stack[i]));
    write_array(*array);
  }
  for (const Array& array : overwritten) write_array(array);
}

}  // namespace
}  // namespace visgen::standalone

int main() {
  for (;; fflush(stdout)) visgen::standalone::answer();
}
