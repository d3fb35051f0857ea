// Which codes may be the nearest, given what a filter made of them and the score of one of them.
//
// Let x be a row, c a code (at length 1 for the cosine), x̂ = s·q_x and ĉ = t·q_c what a filter rounds them to, b the
// code that has been scored, and k the code that double scores would find nearest. Two facts about the scores:
//
//   (1) A score in double of D dimensions has a relative error of at most (D + 4)·2^-53 of the sum of its absolute
//   terms:
//       one rounding a difference, a product and each of at most D additions, two for a division by ‖c‖. With
//       η = (D + 4)·2^-51, twice what two scores need, k's true score is thus no worse than b's computed one by more
//       than η·d² (l2), η·‖x‖·‖c‖ (dot) or η·‖x‖ (cosine).
//   (2) The triangle inequality: |‖x − c‖ − ‖x̂ − ĉ‖| ≤ ‖x − x̂‖ + ‖c − ĉ‖ ≤ E, and for products
//       |x·c − x̂·ĉ| ≤ ‖x − x̂‖·‖c‖ + ‖x̂‖·‖c − ĉ‖ ≤ δ, where codes enter with their largest norm and error.
//
// Integer filters. A code's sum is a = q_x·q_c − B, without rounding or overflow (see below), with B = ½‖q_c‖²·t/s
// rounded for l2 and B = 0 otherwise. B's four float roundings and its truncation leave |B − ½‖q_c‖²·t/s| ≤ β = ½ +
// 2^-22·B ≤ ½ + 2^-21·½ max‖q_c‖²·t/s.
//   l2: ‖x̂ − ĉ‖² = s²‖q_x‖² − 2st·(q_x·q_c − ½‖q_c‖²·t/s). By (1) and (2) ‖x̂ − ĉ_k‖ ≤ d_b·(1 + η) + E = d̂, so
//       a_k ≥ (s²‖q_x‖² − d̂²)/(2st) − β. The quotient's own rounding is below 2^-50·(s²‖q_x‖² + d̂²)/(2st). Where codes
//       are short beside the row, as at late depths, another bound is closer. With ε = x − x̂ and δ_k = c_k − ĉ_k
//           st·(q_x·q_c − ½‖q_c‖²·t/s) = x·c_k − ½‖c_k‖² − ε·c_k − (x̂ − ĉ_k)·δ_k + ½‖δ_k‖²,
//       where x·c_k − ½‖c_k‖² ≥ σ, see the float filter, so that st·(a_k + β) ≥ σ − ‖ε‖·max‖c‖ − d̂·max‖δ‖.
//   dot, cosine: st·a_k ≥ x·c_k − δ ≥ x·c_b − η·‖x‖·max‖c‖ − δ.
//   Cosine: c is rounded to real after it was scaled, which moves it by at most 2^-22·‖c‖: part of ‖c − ĉ‖.
// Range: |q_x·q_c| ≤ 2^29 and 0 ≤ B ≤ 2^29·(1 + 2^-20) (rows' steps are chosen so, see scan.h), hence a ≥ −kLeast; no
// code stands where B = kNoCode, beyond them. An offset of 128 in the codes adds 128·Σq_x, below 2^28, to all sums of a
// row: all stay within 32 bits.
//
// Float filter: a chain of D multiply-adds from −½‖c‖² (rounded to float), each with an error of at most two roundings,
// or of 2^-125 below the normal numbers: |a − (x·c − ½‖c‖²)| ≤ δ = (D + 4)·2^-23·(‖x‖·‖c‖ + ½‖c‖²) + (D + 4)·2^-125, as
// (D + 4)·2^-23 is below ½ and nothing overflows (checked). x·c − ½‖c‖² = ½(‖x‖² − ‖x − c‖²), so
//   l2: a_k ≥ σ − δ, σ = ½(‖x‖² − d_b²·(1 + η)²) up to 2^-50·D·(‖x‖² + d_b²) for the rounding of ‖x‖²; other metrics as
//   above.
//
// Scores in float, of l2 and dot. At most D + 2 roundings of 2^-24 stand between a term and the score, and at most 2·D
// products and sums lose up to 2^-126 below the normal numbers: for l2 the D products alone, as a lost difference has a
// square of nothing and sums of positive numbers lose nothing. With T the sum of absolute terms, the score S is off by
// at most 1.25·(D + 2)·2^-24·T + D·2^-125, as D < 2^21. For dot T ≤ ‖x‖·max‖c‖; for l2 T is the true score, at most
// 1.25·(S + D·2^-126), and D·2^-126 is lost. (D + 4)·(2^-23·T + 2^-125), with S for T in l2, covers this and the error
// of a score in double. Norms below 2^60 keep all within float. b may be scored in float: what is asked of its score
// above is only that the one in double is no larger. And as S less its error grows with S, the second least score in
// float tells for all others whether double could prefer them to the least.
#pragma once

#include "pack.h"

namespace visgen::VISGEN_ISA {

constexpr double kNoCode = 0x1p+30 + 0x1p+28, kLeast = 0x1p+30 + 0x1p+27;

// What is known of a row when its candidates are chosen.
struct RoundedRow {
  double square = 0;   // ‖x̂‖², or ‖x‖² for the float filter
  double error = 0;    // at least ‖x − x̂‖
  int32_t offset = 0;  // what all its sums have too much
};

template <Metric metric>
class Bound {
 public:
  Bound(const PackedCodebook& packed, double row_step)
      : inverse_unit_(1 / (packed.step * row_step)),
        largest_norm_(packed.extent.norm * (1 + 0x1p-20)),
        code_error_(packed.deviation.error * packed.step + (metric == Metric::cosine ? 0x1p-22 : 0)),
        beta_(0.5 + 0x1p-21 * packed.deviation.half_square * (packed.step / row_step)),
        dimensions_(static_cast<double>(packed.search->call->codebooks.dimensions)),
        eta_((dimensions_ + 4) * 0x1p-51) {}

  // The least sum of a code that may be as near as one whose score in double is at most `score`. `square_of_row` finds
  // ‖x‖².
  template <class SquareOfRow>
  int32_t least_integer(const RoundedRow& row, double score, SquareOfRow square_of_row) const {
    double least;
    if (metric == Metric::l2) {
      const double reach = __builtin_sqrt(score) * (1 + eta_) + row.error + code_error_, square = reach * reach;
      least = (row.square - square - 0x1p-49 * (row.square + square)) / 2;
      if (largest_norm_ < reach) {
        const double delta = row.error * largest_norm_ + reach * code_error_;
        const double other = least_true(square_of_row(), score) - delta * (1 + 0x1p-40);
        least = other > least ? other : least;
      }
      least = least * inverse_unit_ - beta_;
    } else {
      const double norm = __builtin_sqrt(row.square), length = norm + row.error;
      const double delta = row.error * largest_norm_ + norm * code_error_ + eta_ * length * largest_norm_;
      least = (-score - delta * (1 + 0x1p-40)) * inverse_unit_ - 1;
    }
    least = least > -kLeast ? least : -kLeast;
    return static_cast<int32_t>(least < kLeast ? least : kLeast) - 1 + row.offset;
  }

  float least_float(const RoundedRow& row, double score) const {
    const double norm = __builtin_sqrt(row.square), half_square = largest_norm_ * largest_norm_ / 2;
    const double terms = norm * largest_norm_ + (metric == Metric::l2 ? half_square : 0);
    double least = -terms * (dimensions_ + 4) * 0x1p-23 - (dimensions_ + 4) * 0x1p-125;
    if (metric == Metric::l2) {
      least += least_true(row.square, score);
    } else {
      least -= score + norm * (eta_ * largest_norm_ + code_error_);
    }
    least -= 0x1p-23 * (least < 0 ? -least : least);  // to float, downwards
    constexpr double kLowest = 3.4e38;
    return static_cast<float>(least > -kLowest ? least : -kLowest);
  }

  // At least how far a score in float is from the one in double; not for the cosine.
  double float_error(const RoundedRow& row, double score) const {
    double terms = score;
    if (metric != Metric::l2) terms = (__builtin_sqrt(row.square) + row.error) * largest_norm_;
    return (dimensions_ + 4) * (0x1p-23 * terms + 0x1p-125);
  }

  // Whether sums in float do not overflow.
  static bool float_fits(const PackedCodebook& packed, double row_magnitude) {
    const int64_t dimensions = packed.search->call->codebooks.dimensions;
    const double row_norm = row_magnitude * __builtin_sqrt(static_cast<double>(dimensions));
    return packed.extent.norm < 0x1p+60 && row_norm < 0x1p+60 && dimensions < (int64_t{1} << 21);
  }

  // Whether, besides, scores in float are not so small that they lose their precision.
  static bool float_tells(const PackedCodebook& packed, double row_magnitude) {
    constexpr double kLeastMagnitude = 0x1p-45;
    return float_fits(packed, row_magnitude) && packed.extent.norm > kLeastMagnitude &&
           (metric == Metric::l2 || row_magnitude > kLeastMagnitude);
  }

 private:
  // σ, what x·c_k − ½‖c_k‖² is at least.
  double least_true(double square, double score) const {
    return (square - score * (1 + 3 * eta_)) / 2 - 0x1p-49 * dimensions_ * (square + score);
  }

  double inverse_unit_, largest_norm_, code_error_, beta_, dimensions_, eta_;
};

}  // namespace visgen::VISGEN_ISA
