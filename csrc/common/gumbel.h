// Numbers of Gumbel's distribution, −ln(−ln u), from 48 bits each: the same definition for doubles, vectors of them and
// CUDA threads. No float would do: it has too few bits of u near 1, where the numbers that win a draw come from.
#pragma once

#include <cstdint>

#include "isa.h"
#include "math.h"

namespace visgen::VISGEN_ISA {

template <>
struct WordOfFloat<double> {
  using Word = uint64_t;
};

// The stream, next to `stream`, of the bits that only a few numbers need.
VISGEN_HOST_DEVICE uint64_t rest_stream(uint64_t stream) { return stream + (1ull << 63); }

// ln x, of a normal positive number, to 2 units in the last place.
template <class Double>
VISGEN_HOST_DEVICE Double logarithm(Double x) {
  using Word = typename WordOfFloat<Double>::Word;
  const Word bits = bits_as<Word>(x);
  // x = 2^exponent · (1 + f) with 1 + f in [√½, √2); the shifted exponent, 1024 more, becomes a double without a
  // conversion, which not every instruction set has
  const Word shifted = (bits - 0x3FE6A09E667F3BCDull + (1024ull << 52)) >> 52;
  const Double exponent = bits_as<Double>(shifted | 0x4330000000000000ull) - (0x1p+52 + 1024);
  const Double f = bits_as<Double>(bits - ((shifted - 1024ull) << 52)) - 1.0;
  // ln(1 + f) = 2·artanh(s), the polynomial whose largest relative error, 1.3e-18, is smallest
  const Double s = f / (f + 2.0), square = s * s;
  Double p = 0.14795630525555134 * square + 0.15314084155880803;
  p = p * square + 0.181835629443172;
  p = p * square + 0.22222198601106757;
  p = p * square + 0.2857142874210263;
  p = p * square + 0.39999999999416014;
  p = p * square + 0.6666666666666734;
  const Double low = exponent * 0x1.a39ef35793c76p-33 + (p * square) * s;
  return exponent * 0x1.62e42feep-1 + (low + (s + s));  // ln 2 in two parts, the first product exact
}

// u = (bits + ½)·2⁻⁴⁸ of bits below 2⁴⁸, which is exact and neither 0 nor 1.
template <class Double, class Word>
VISGEN_HOST_DEVICE Double gumbel(Word bits) {
  const Double u = (bits_as<Double>(bits | 0x4330000000000000ull) - (0x1p+52 - 0.5)) * 0x1p-48;
  return -logarithm(-logarithm(u));
}

}  // namespace visgen::VISGEN_ISA
