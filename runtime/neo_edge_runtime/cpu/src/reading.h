// How kernels read what they multiply: activations four at a time, weights and caches before they are needed.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace neo_edge {

// Four activations of a row, in each of the 16 lanes: beside the outputs' four weights each.
inline __m512i four_inputs(const void* values) {
    int32_t four;
    std::memcpy(&four, values, sizeof(four));
    return _mm512_set1_epi32(four);
}

// An address and not a place in an array: nothing need lie there, and fetching it does no harm.
inline const char* ahead_of(const void* at, int64_t bytes) {
    return reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(at) + static_cast<uintptr_t>(bytes));
}

// Begins to bring a cache line to this core: faster than leaving it to the processor.
inline void fetch(const void* at, int64_t bytes_ahead) {
    _mm_prefetch(ahead_of(at, bytes_ahead), _MM_HINT_T0);
}

// The same, only as far as the L2 cache.
inline void fetch_to_l2(const void* at, int64_t bytes_ahead) {
    _mm_prefetch(ahead_of(at, bytes_ahead), _MM_HINT_T1);
}

}  // namespace neo_edge
