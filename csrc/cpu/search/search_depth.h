// The search of one depth on torch's threads: which filter looks at the codes, and when the next better one takes over.
#pragma once

#include "../../ops/tensors.h"
#include "search.h"

namespace visgen {

// Finds the codes of all rows at search.depth, and what follows from them. `like`: to allocate like.
void search_depth(const Search& search, const Tensor& like);

}  // namespace visgen
