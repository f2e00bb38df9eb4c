// exp of 16 numbers.
#pragma once

#include <immintrin.h>

namespace neo_edge {

// Relative error below 2e-7; 0 below e^-87, also for minus infinity: denormal numbers would slow every
// product down.
inline __m512 exponential(__m512 value) {
    // As exp(n log 2 + r), |r| <= log(2) / 2; log 2 in two parts, the first with few bits, so that n times it
    // is exact.
    const __m512 log2e = _mm512_set1_ps(1.44269504F), high = _mm512_set1_ps(0.693359375F);
    const __m512 low = _mm512_set1_ps(-2.12194440e-4F);
    const __mmask16 normal = _mm512_cmp_ps_mask(value, _mm512_set1_ps(-87.0F), _CMP_NLT_UQ);
    // The bound comes first: the second operand is the result where one is not a number.
    value = _mm512_min_ps(_mm512_set1_ps(89.0F), value);
    const __m512 n =
        _mm512_roundscale_ps(_mm512_mul_ps(value, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 r = _mm512_fnmadd_ps(n, low, _mm512_fnmadd_ps(n, high, value));
    __m512 sum = _mm512_set1_ps(1.0F / 5040);  // Taylor's series: the first term left out is below 6e-9
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0F / 720));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0F / 120));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0F / 24));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0F / 6));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0.5F));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0F));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0F));
    return _mm512_maskz_scalef_ps(normal, sum, n);
}

}  // namespace neo_edge
