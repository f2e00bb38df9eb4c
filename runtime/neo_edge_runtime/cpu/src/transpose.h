// Rows of 16 floats to columns, in registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace neo_edge {

// to[i * to_stride + j] = rows[j][i] for i, j < 16.
inline void transpose_16(const float* const* rows, float* to, int64_t to_stride) {
    __m512 quads[16];  // quads[4 * a + b]: lane c holds rows[4 * c + b][4 * a ..], so that only two shuffles
                       // follow
    for (int a = 0; a < 4; ++a) {
        for (int b = 0; b < 4; ++b) {
            __m512 quad = _mm512_castps128_ps512(_mm_loadu_ps(rows[b] + 4 * a));
            quad = _mm512_insertf32x4(quad, _mm_loadu_ps(rows[4 + b] + 4 * a), 1);
            quad = _mm512_insertf32x4(quad, _mm_loadu_ps(rows[8 + b] + 4 * a), 2);
            quads[4 * a + b] = _mm512_insertf32x4(quad, _mm_loadu_ps(rows[12 + b] + 4 * a), 3);
        }
    }
    for (int a = 0; a < 4; ++a) {
        const __m512d low_first = _mm512_castps_pd(_mm512_unpacklo_ps(quads[4 * a], quads[4 * a + 1]));
        const __m512d high_first = _mm512_castps_pd(_mm512_unpackhi_ps(quads[4 * a], quads[4 * a + 1]));
        const __m512d low_second = _mm512_castps_pd(_mm512_unpacklo_ps(quads[4 * a + 2], quads[4 * a + 3]));
        const __m512d high_second = _mm512_castps_pd(_mm512_unpackhi_ps(quads[4 * a + 2], quads[4 * a + 3]));
        float* column = to + 4 * a * to_stride;
        _mm512_storeu_ps(column, _mm512_castpd_ps(_mm512_unpacklo_pd(low_first, low_second)));
        _mm512_storeu_ps(column + to_stride, _mm512_castpd_ps(_mm512_unpackhi_pd(low_first, low_second)));
        _mm512_storeu_ps(column + 2 * to_stride,
                         _mm512_castpd_ps(_mm512_unpacklo_pd(high_first, high_second)));
        _mm512_storeu_ps(column + 3 * to_stride,
                         _mm512_castpd_ps(_mm512_unpackhi_pd(high_first, high_second)));
    }
}

}  // namespace neo_edge
