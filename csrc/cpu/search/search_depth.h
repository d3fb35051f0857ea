// The search of one depth on torch's threads: which filter looks at the codes, and when the next better one takes over.
#pragma once

#include "../../ops/tensors.h"
#include "search.h"

namespace visgen {

// Rows that make a thread's share, of so many multiplications each.
inline int64_t rows_of_share(int64_t work_of_row) {
  constexpr int64_t kThreadShare = 65536;  // below which another thread costs more than it saves
  return kThreadShare / (work_of_row + 1) + 1;
}

// Finds the codes of all rows at search.depth, and what follows from them. `like`: to allocate like.
void search_depth(const Search& search, const Tensor& like);

}  // namespace visgen
