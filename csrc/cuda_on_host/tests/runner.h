// How the tests call kernels: functions without C++ in their signatures, which return a fault's sentence, or "" if
// there is none. Pointers are to memory of the device that the kernels are compiled for.
#pragma once

#include <stdexcept>
#include <string>

#define VISGEN_TEST extern "C" __attribute__((visibility("default"))) const char*

template <class Function>
const char* run_test(Function function) {
  thread_local std::string message;
  message.clear();
  try {
    function();
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  return message.c_str();
}
