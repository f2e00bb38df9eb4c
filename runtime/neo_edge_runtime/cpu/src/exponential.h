// exp of 16 numbers.
#pragma once

#include <immintrin.h>

namespace neo_edge {

// Relative error below 2e-7 where the result is a normal number; 0 for what is smaller, also for minus infinity.
inline __m512 exponential(__m512 value) {
    // As exp(n log 2 + r), |r| <= log(2) / 2; log 2 in two parts, the first with few bits, so that n times it is exact.
    const __m512 log2e = _mm512_set1_ps(1.44269504F), high = _mm512_set1_ps(0.693359375F);
    const __m512 low = _mm512_set1_ps(-2.12194440e-4F);
    // The bounds come first: the second operand is the result where one is not a number.
    value = _mm512_max_ps(_mm512_set1_ps(-104.0F), _mm512_min_ps(_mm512_set1_ps(89.0F), value));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(value, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 r = _mm512_fnmadd_ps(n, low, _mm512_fnmadd_ps(n, high, value));
    __m512 sum = _mm512_set1_ps(1.0F / 5040);  // Taylor's series: the first term left out is below 6e-9
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0F / 720));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0F / 120));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0F / 24));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0F / 6));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0.5F));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0F));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0F));
    return _mm512_scalef_ps(sum, n);
}

}  // namespace neo_edge
