// The k largest elements of a row in order, found by a whole workgroup. Include after
// common/base.glsl and numbers.glsl.
//
// An element and its index make a rank {key, ~index}, compared as a number of 64 bits: larger is
// better, of equal elements the lower index is, NaN is below everything. All ranks of a row differ,
// so the k-th largest is found digit by digit of 8 bits, and what is sorted has one order.
layout(buffer_reference, scalar, buffer_reference_align = 8) coherent buffer RankP { uvec2 v[]; };

const uint kListed = 2048u;  // ranks that are sorted in shared memory; more: in the workspace

shared uvec2 listed[kListed];
shared uint histogram[256];
shared uint n_listed;
shared uvec2 found_digit;  // digit, how many larger ones

uint key_of(float x) {
  uint u = floatBitsToUint(x);
  if ((u & 0x7fffffffu) > kInfinity) return 0u;
  if (u == 0x80000000u) u = 0u;  // -0 equals 0
  return (u & 0x80000000u) != 0u ? ~u : u | 0x80000000u;
}
uvec2 rank_of(float x, uint i) { return uvec2(key_of(x), ~i); }

// What is selected from: n elements from index `first` on, or n ranks.
struct Source {
  uint64_t at;
  uint first, n;
  bool of_ranks;
};
uvec2 rank_in(Source s, uint i) {
  return s.of_ranks ? RankP(s.at).v[i] : rank_of(F32P(s.at).v[s.first + i], s.first + i);
}
bool is_above(uvec2 a, uvec2 b) { return a.x > b.x || (a.x == b.x && a.y > b.y); }

uvec2 rank_at(uint64_t list, uint i) { return list == 0ul ? listed[i] : RankP(list).v[i]; }
void put_rank(uint64_t list, uint i, uvec2 rank) {
  if (list == 0ul) {
    listed[i] = rank;
  } else {
    RankP(list).v[i] = rank;
  }
}
void meet() {
  memoryBarrierBuffer();
  memoryBarrierShared();
  barrier();
}

uint digit_of(uvec2 rank, uint i_digit) {
  return (i_digit < 4u ? rank.x >> (24u - 8u * i_digit) : rank.y >> (56u - 8u * i_digit)) & 255u;
}
// The bits of the first n digits.
uvec2 digits_mask(uint n) {
  const uint high = n >= 4u ? 0xffffffffu : n == 0u ? 0u : 0xffffffffu << (32u - 8u * n);
  const uint low = n <= 4u ? 0u : n >= 8u ? 0xffffffffu : 0xffffffffu << (64u - 8u * n);
  return uvec2(high, low);
}

// Which digit has the k-th largest of the histogram, counted from the top.
void find_digit(uint k) {
  if (gl_LocalInvocationID.x == 0u) {
    uint above = 0u;
    uint part = 15u;
    for (;; --part) {
      uint sum = 0u;
      for (uint i = 0u; i < 16u; ++i) sum += histogram[part * 16u + i];
      if (above + sum >= k || part == 0u) break;
      above += sum;
    }
    uint digit = part * 16u + 15u;
    while (above + histogram[digit] < k && digit > part * 16u) above += histogram[digit--];
    found_digit = uvec2(digit, above);
  }
  barrier();
}

// The smallest rank that is among the k largest, or one between it and the next.
uvec2 threshold_rank(Source s, uint k) {
  uvec2 prefix = uvec2(0u);
  for (uint i_digit = 0u; i_digit < 8u; ++i_digit) {
    for (uint i = gl_LocalInvocationID.x; i < 256u; i += gl_WorkGroupSize.x) histogram[i] = 0u;
    barrier();
    const uvec2 mask = digits_mask(i_digit);
    for (uint i = gl_LocalInvocationID.x; i < s.n; i += gl_WorkGroupSize.x) {
      const uvec2 rank = rank_in(s, i);
      if ((rank & mask) == prefix) atomicAdd(histogram[digit_of(rank, i_digit)], 1u);
    }
    barrier();
    find_digit(k);
    const uint digit = found_digit.x;
    k -= found_digit.y;
    const bool whole = histogram[digit] == k;
    if (i_digit < 4u) {
      prefix.x |= digit << (24u - 8u * i_digit);
    } else {
      prefix.y |= digit << (56u - 8u * i_digit);
    }
    barrier();
    if (whole) break;
  }
  return prefix;
}

// Sorts the first n of the list, largest first. n is a power of 2.
void sort_list(uint64_t list, uint n) {
  for (uint run = 2u; run <= n; run *= 2u) {
    for (uint apart = run / 2u; apart > 0u; apart /= 2u) {
      for (uint i = gl_LocalInvocationID.x; i < n / 2u; i += gl_WorkGroupSize.x) {
        const uint a = 2u * i - (i & (apart - 1u));
        const uvec2 ra = rank_at(list, a), rb = rank_at(list, a + apart);
        const bool falling = (a & run) == 0u;
        if (is_above(ra, rb) != falling) {
          put_rank(list, a, rb);
          put_rank(list, a + apart, ra);
        }
      }
      meet();
    }
  }
}

uint power_of_two(uint n) { return n <= 1u ? 1u : 2u << findMSB(n - 1u); }

// Puts the ranks of the k largest in the list, in no order, and no rank at all up to `room`.
void gather_largest(Source s, uint k, uint room, uint64_t list) {
  const uvec2 least = k < s.n ? threshold_rank(s, k) : uvec2(0u);
  if (gl_LocalInvocationID.x == 0u) n_listed = 0u;
  for (uint i = min(k, s.n) + gl_LocalInvocationID.x; i < room; i += gl_WorkGroupSize.x) {
    put_rank(list, i, uvec2(0u));
  }
  meet();
  for (uint i = gl_LocalInvocationID.x; i < s.n; i += gl_WorkGroupSize.x) {
    const uvec2 rank = rank_in(s, i);
    if (!is_above(least, rank)) put_rank(list, atomicAdd(n_listed, 1u), rank);
  }
  meet();
}

// The ranks of the k <= s.n largest, largest first, for rank_at(the result, i). `workspace` holds
// power_of_two(k) ranks when k > kListed.
uint64_t select_largest(Source s, uint k, uint64_t workspace) {
  const uint64_t list = k <= kListed ? 0ul : workspace;
  gather_largest(s, k, power_of_two(k), list);
  sort_list(list, power_of_two(k));
  return list;
}
