// Sums over teams of TEAM invocations of a workgroup, SUMS of them at once, in the array `sums`;
// lane 0 of a team has the results.
// REDUCE 0: subgroups are whole and have SUBGROUP invocations, TEAM is a multiple of that, and what
// is left between subgroups goes through shared memory. REDUCE 1: shared memory only, whatever the
// subgroups are.
const bool kBetween = TEAM > SUBGROUP;
shared float reduce_shared[REDUCE == 0 ? (kBetween ? gl_WorkGroupSize.x / SUBGROUP * SUMS : 1)
                                       : gl_WorkGroupSize.x];

float sums[SUMS];

// This invocation's number: teams are runs of TEAM numbers.
uint team_thread() {
  return REDUCE == 0 ? gl_SubgroupID * SUBGROUP + gl_SubgroupInvocationID : gl_LocalInvocationIndex;
}

void reduce_sums(uint thread, uint lane) {
  if (REDUCE == 0) {
    [[unroll]] for (uint i = 0; i < SUMS; ++i) sums[i] = subgroupAdd(sums[i]);
    if (!kBetween) return;
    if (gl_SubgroupInvocationID == 0u) {
      [[unroll]] for (uint i = 0; i < SUMS; ++i) reduce_shared[gl_SubgroupID * SUMS + i] = sums[i];
    }
    barrier();
    if (lane == 0u) {
      for (uint j = 1; j < TEAM / SUBGROUP; ++j) {
        [[unroll]] for (uint i = 0; i < SUMS; ++i) sums[i] +=
            reduce_shared[(gl_SubgroupID + j) * SUMS + i];
      }
    }
    return;
  }
  [[unroll]] for (uint i = 0; i < SUMS; ++i) {
    if (i > 0u) barrier();
    reduce_shared[thread] = sums[i];
    barrier();
    for (uint half_team = TEAM / 2u; half_team > 0u; half_team /= 2u) {
      if (lane < half_team) reduce_shared[thread] += reduce_shared[thread + half_team];
      barrier();
    }
    sums[i] = reduce_shared[thread - lane];
  }
}
