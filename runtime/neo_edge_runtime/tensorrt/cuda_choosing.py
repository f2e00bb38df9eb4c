"""The programs that look at logits on the GPU, so that few of them come back; no more than C++ and a block's threads.

`tests/runtime/cuda_on_host.py` runs this text on a CPU, thread by thread.
"""

CHOOSING_SOURCE = r"""
// One block a row of logits. Of equal ones the first counts, as in numpy; an exponent of all ones is NaN or infinity.
extern "C" __global__ void likeliest(const float* logits, int* found, int vocab) {
  __shared__ float best_values[1024];
  __shared__ int best_places[1024];
  __shared__ int finite;
  const float* row = logits + (long long)blockIdx.x * vocab;
  if (threadIdx.x == 0) finite = 1;
  __syncthreads();
  float best = 0.0f;
  int place = -1;
  for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
    const float value = row[i];
    if ((__float_as_uint(value) & 0x7f800000u) == 0x7f800000u) finite = 0;
    if (place < 0 || value > best) { best = value; place = i; }
  }
  best_values[threadIdx.x] = best;
  best_places[threadIdx.x] = place;
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      const float other = best_values[threadIdx.x + half];
      const int there = best_places[threadIdx.x + half], here = best_places[threadIdx.x];
      const float mine = best_values[threadIdx.x];
      if (there >= 0 && (here < 0 || other > mine || (other == mine && there < here))) {
        best_values[threadIdx.x] = other;
        best_places[threadIdx.x] = there;
      }
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    found[2 * blockIdx.x] = best_places[0];
    found[2 * blockIdx.x + 1] = finite;
  }
}

// Numbers in the order of the floats.
__device__ unsigned int ordered(float x) {
  const unsigned int bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float unordered(unsigned int key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// One block of 1024. The keep-th largest logit is found by its ordered bits, ten at a time from the highest on: of the
// keys that have the bits found so far, counts[d] become those whose next digit is d or more.
extern "C" __global__ void candidates(const float* logits, const float* temperature, int* tokens, float* values,
                                      float* summary, int vocab, int keep) {
  __shared__ unsigned int counts[1024];
  __shared__ float sums[1024];
  __shared__ unsigned int found, wanted, largest;
  __shared__ int taken, finite;
  const int thread = threadIdx.x;
  if (thread == 0) {
    found = largest = 0;
    wanted = keep;
    taken = 0;
    finite = 1;
  }
  unsigned int known = 0, mine = 0;
  for (int shift = 22;; shift = shift > 10 ? shift - 10 : 0) {
    const unsigned int digits = shift == 0 ? 3u : 1023u;
    counts[thread] = 0;
    __syncthreads();
    for (int i = thread; i < vocab; i += 1024) {
      const unsigned int key = ordered(logits[i]);
      if (key > mine) mine = key;
      if ((key & known) == found) atomicAdd(&counts[(key >> shift) & digits], 1u);
    }
    __syncthreads();
    for (int step = 1; step < 1024; step *= 2) {
      const unsigned int more = thread + step < 1024 ? counts[thread + step] : 0;
      __syncthreads();
      counts[thread] += more;
      __syncthreads();
    }
    const unsigned int here = counts[thread], above = thread < 1023 ? counts[thread + 1] : 0, sought = wanted;
    __syncthreads();
    if (here >= sought && above < sought) {  // of one thread
      found |= (unsigned int)thread << shift;
      wanted = sought - above;
    }
    known |= digits << shift;
    if (shift == 0) break;
  }
  atomicMax(&largest, mine);
  __syncthreads();
  const float heat = temperature[0], best = unordered(largest) / heat;
  float sum = 0.0f;
  for (int i = thread; i < vocab; i += 1024) {
    const float value = logits[i];
    if ((__float_as_uint(value) & 0x7f800000u) == 0x7f800000u) finite = 0;
    sum += expf(value / heat - best);
    if (ordered(value) > found) {
      const int place = atomicAdd(&taken, 1);
      tokens[place] = i;
      values[place] = value;
    }
  }
  sums[thread] = sum;
  for (int half = 512; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  __syncthreads();
  if (thread == 0) {
    summary[0] = taken;
    summary[1] = unordered(found);
    summary[2] = sums[0];
    summary[3] = finite;
  }
}
"""
