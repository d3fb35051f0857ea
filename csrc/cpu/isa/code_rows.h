// Rows of x become columns in the first-level cache, so that one vector holds one column of several rows: what the
// families `finite_scalar` and `binary_quantize` share.
#pragma once

#include "../../ops/code_rows.h"
#include "tile.h"

namespace visgen::VISGEN_ISA {

constexpr int kRows = 64;  // of a tile; a multiple of every kLanes

// What holds one column of several rows.
template <class Real>
struct LaneOf {
  using Type = FloatVector;
};
template <>
struct LaneOf<double> {
  using Type = double;
};
template <class Real>
using Lane = typename LaneOf<Real>::Type;
template <class Real>
constexpr int kLaneRows = sizeof(Lane<Real>) / sizeof(Real);

template <class Real>
Lane<Real> load(const Real* from) {
  Lane<Real> lane;
  memcpy(&lane, from, sizeof(lane));
  return lane;
}

template <class Real>
void store(Real* to, Lane<Real> lane) {
  memcpy(to, &lane, sizeof(lane));
}

template <class Real>
struct Columns {
  alignas(64) Real value[kMaxColumns][kRows];
};

// Rows [first, first + count) of x; rows behind them are 0.
template <class Real>
void load_columns(const CodeRows& p, const Operand& operand, int64_t first, int count, Columns<Real>& out) {
  alignas(64) Real buffer[kMaxColumns * kRows];
  const Real* tile = load_tile(operand, p.shape, 0, first * p.columns, static_cast<int64_t>(count) * p.columns, buffer);
  const int columns = p.columns;
  for (int t = 0; t < count; ++t, tile += columns) {
    for (int j = 0; j < columns; ++j) out.value[j][t] = tile[j];
  }
  for (int j = 0; j < columns; ++j) {
    for (int t = count; t < kRows; ++t) out.value[j][t] = 0;
  }
}

template <class Real>
void store_columns(const CodeRows& p, const Operand& operand, int64_t first, int count, const Columns<Real>& in) {
  alignas(64) Real buffer[kMaxColumns * kRows];
  Real* tile = tile_for_output(operand, p.shape, 0, first * p.columns, buffer);
  const int columns = p.columns;
  Real* row = tile;
  for (int t = 0; t < count; ++t, row += columns) {
    for (int j = 0; j < columns; ++j) row[j] = in.value[j][t];
  }
  store_tile(operand, p.shape, 0, first * p.columns, static_cast<int64_t>(count) * p.columns, tile);
}

// Calls body(first row, number of rows) for the tiles of some units.
template <class Body>
void for_each_tile(const CodeRows& p, int64_t first_unit, int64_t last_unit, Body body) {
  const int64_t end = unit_at(p.partition, last_unit - 1).end / p.columns;
  for (int64_t row = unit_at(p.partition, first_unit).begin / p.columns; row < end; row += kRows) {
    body(row, static_cast<int>(end - row < kRows ? end - row : kRows));
  }
}

// A row with NaN has code 0, and NaN for everything else.
template <class Parameters, class Real>
void write_codes(const Parameters& p, int64_t first, int count, const int64_t* codes, const Real* has_nan,
                 Columns<Real>& quantized) {
  for (int t = 0; t < count; ++t) {
    p.codes[first + t] = has_nan[t] != 0 ? 0 : codes[t];
    if (has_nan[t] == 0) continue;
    for (int j = 0; j < p.columns; ++j) quantized.value[j][t] = static_cast<Real>(__builtin_nan(""));
  }
}

template <class Parameters>
void decode_rows(const Parameters& p, int64_t first_unit, int64_t last_unit) {
  Columns<double> columns;
  for_each_tile(p, first_unit, last_unit, [&](int64_t first, int count) {
    alignas(64) int64_t rest[kRows];
    memcpy(rest, p.codes + first, count * sizeof(int64_t));
    for (int j = 0; j < p.columns; ++j) {
      const auto column = p.decoder->at(j, p.columns);
      for (int t = 0; t < count; ++t) columns.value[j][t] = column.take(rest[t]);
    }
    int64_t others = 0;  // counted first, since there are hardly ever any
    for (int t = 0; t < count; ++t) others += !p.decoder->is_code(rest[t], p.columns);
    for (int t = 0; others > 0 && t < count; ++t) {
      if (p.decoder->is_code(rest[t], p.columns)) continue;
      for (int j = 0; j < p.columns; ++j) columns.value[j][t] = __builtin_nan("");
    }
    store_columns(p, p.out, first, count, columns);
  });
}

}  // namespace visgen::VISGEN_ISA
