// Reads the named arguments of a kernel from a Python dictionary.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace nr {

// The dictionary must hold exactly the expected arguments; an array that is not wanted is None. Otherwise a misspelt
// name would mean "not wanted", and its gradient would stay zero. Call finish() after the last read.
class Arguments {
 public:
  explicit Arguments(const pybind11::dict& given) : left_(given.attr("copy")()) {}

  template <class T>
  T number(const char* name) {
    const pybind11::object value = take(name);
    try {
      return value.cast<T>();
    } catch (const pybind11::cast_error&) {
      throw pybind11::type_error(std::string("kernel argument '") + name + "' has the wrong type: " +
                                 std::string(pybind11::str(pybind11::type::of(value))));
    }
  }
  // A pointer from an address; None is null.
  template <class T>
  T* array(const char* name) {
    const pybind11::object value = take(name);
    if (value.is_none()) return nullptr;
    left_[name] = value;
    return reinterpret_cast<T*>(number<uintptr_t>(name));
  }
  void finish() const {
    for (const auto& item : left_)
      throw pybind11::type_error("unknown kernel argument '" + std::string(pybind11::str(item.first)) + "'");
  }

 private:
  pybind11::object take(const char* name) {
    if (!left_.contains(name)) throw pybind11::type_error(std::string("kernel argument '") + name + "' is missing");
    return left_.attr("pop")(name);
  }
  pybind11::dict left_;
};

}  // namespace nr
